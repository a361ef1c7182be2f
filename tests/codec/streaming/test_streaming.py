"""Streams: whatever pieces come, what comes out is that of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_ext.codec.streaming import StreamDecoder, StreamEncoder
from speechbrain_ext.codec.streaming.packets import HEADER_BYTES
from speechbrain_ext.models import SEANetCodec
from tests.codec.signals import speech
from tests.codec.streaming.streams import (
    STEP,
    cut,
    decoded,
    encoded,
    transform_codec,
    wave_codec,
)

LENGTHS = [0, 1, 2, 255, 256, 257, 511, 512, 513, 4001]
SIZES = st.lists(st.integers(1, 6000), max_size=8)


@pytest.fixture(scope="module")
def wave():
    return wave_codec()


@pytest.fixture(scope="module")
def transform():
    return transform_codec()


def whole(coder, signal):
    data, step = coder.compress(signal, step=STEP)
    return coder.decompress(data, step, len(signal))


def reconstructed(codec, signal, codebooks):
    given = torch.from_numpy(signal).float()[None]
    codes = codec.encode(given)[:, :codebooks]
    return codec.decode(codes, length=len(signal))[0].numpy()


@pytest.mark.parametrize("packet_frames", [1, 3, 50])
@pytest.mark.parametrize("kind", ["perceptual", "fidelity"])
@pytest.mark.parametrize("count", LENGTHS)
def test_a_wave_streamed_is_the_wave_coded_whole(wave, kind, packet_frames, count):
    signal = speech(seed=9)[:count]
    options = {"step": STEP, "kind": kind, "packet_frames": packet_frames}
    found = decoded(wave, encoded(wave, signal, range(0, count, 320), **options))
    assert (found.shape, found.dtype) == ((count,), np.float32)
    if count:
        expected = whole(getattr(wave, kind), signal)
        assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("packet_frames", [1, 4, 50])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 128, 3000])
def test_codes_streamed_are_the_codes_of_the_whole(transform, packet_frames, count):
    signal = speech(seed=9)[:count]
    options = {"codebooks": 4, "packet_frames": packet_frames}
    data = encoded(transform, signal, range(0, count, 100), **options)
    found = decoded(transform, data)
    assert found.shape == (count,)
    if count:
        assert np.abs(found - reconstructed(transform, signal, 4)).max() < 1e-5


@settings(max_examples=8, deadline=None)
@given(count=st.integers(0, 5000), samples=SIZES, data=SIZES)
def test_pieces_change_neither_a_byte_nor_a_sample_of_a_wave(
    wave, count, samples, data
):
    signal = speech(seed=3)[:count]
    options = {"kbps": 16, "packet_frames": 3, "restart_every": 2}
    coded = encoded(wave, signal, **options)
    assert encoded(wave, signal, samples, **options) == coded
    assert np.array_equal(decoded(wave, coded, data), decoded(wave, coded))


@settings(max_examples=8, deadline=None)
@given(count=st.integers(0, 2000), samples=SIZES, data=SIZES)
def test_pieces_change_neither_a_byte_nor_a_sample_of_codes(
    transform, count, samples, data
):
    signal = speech(seed=3)[:count]
    options = {"kbps": 4, "packet_frames": 3}
    coded = encoded(transform, signal, **options)
    assert encoded(transform, signal, samples, **options) == coded
    assert np.array_equal(decoded(transform, coded, data), decoded(transform, coded))


def test_sample_by_sample_and_byte_by_byte(wave):
    signal = speech(seed=4)[:1500]
    data = encoded(wave, signal, range(1500), step=STEP, packet_frames=1)
    assert data == encoded(wave, signal, step=STEP, packet_frames=1)
    found = decoded(wave, data, range(len(data)))
    assert np.abs(found - whole(wave.perceptual, signal)).max() < 1e-6


def test_silence_and_full_scale_are_signals_like_any_other(wave):
    rng = np.random.default_rng(0)
    loud = np.sign(rng.standard_normal(3000))
    for signal in (np.zeros(3000), loud, np.float32(loud)):
        found = decoded(wave, encoded(wave, signal, step=STEP))
        assert np.abs(found - whole(wave.perceptual, signal)).max() < 1e-5


def test_without_its_post_filter_a_codec_needs_no_frames_ahead(wave):
    signal = speech(seed=9)[:4000]
    data = encoded(wave, signal, step=STEP)
    plain = decoded(wave, data, post_filter=False)
    x = wave.perceptual
    symbols = x.coder().decode(*_payload(x, signal))
    made = x.mdct.inverse(x.mended(x.decoded(symbols, STEP), 0.0), 4000)[0]
    assert np.abs(plain - made.numpy()).max() < 1e-6
    assert np.abs(plain - decoded(wave, data)).max() > 1e-3


def _payload(coder, signal):
    data, step = coder.compress(signal, step=STEP)
    return data, coder.mdct.num_frames(len(signal)), step


def test_codes_of_an_utterance_are_codes_of_a_packet():
    """Reference: the quantizer on the latents of each packet."""
    codec, signal = transform_codec("adaptive"), speech(seed=9)[:3000]
    found = decoded(codec, encoded(codec, signal, codebooks=4, packet_frames=10))
    latents = codec.analyze(torch.from_numpy(signal).float()[None])
    parts = [codec.quantizer.encode(x, 4) for x in latents.split(10, dim=1)]
    made = [codec.dequantize(codes) for codes in parts]
    quantized, deviation = (torch.cat(part, dim=1) for part in zip(*made, strict=True))
    with torch.no_grad():
        expected = codec.synthesize(quantized, deviation, 3000)[0].numpy()
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("kbps", [12, 24])
@pytest.mark.parametrize("kind", ["perceptual", "fidelity"])
def test_a_channel_of_the_rate_is_never_further_behind_than_the_window(
    wave, kind, kbps
):
    parts = [speech(1.5, seed=3), np.zeros(8000), speech(1.5, seed=4)]
    encoder = StreamEncoder(wave, kbps=kbps, kind=kind, window_seconds=1.0)
    hop = getattr(wave, kind).mdct.hop_samples
    pieces = cut(np.concatenate(parts), range(0, 10**6, 4 * hop))
    sizes = np.array([len(encoder.push(piece)) for piece in pieces])
    sizes[0] -= HEADER_BYTES
    # What is sent beyond the rate, summed: the largest rise is the worst stretch.
    beyond = np.cumsum(8 * sizes - 1000 * kbps * 4 * hop / 16000)
    rise = (beyond - np.minimum.accumulate(beyond)).max()
    assert rise <= 1000 * kbps
    assert beyond[-1] > -0.3 * 8 * sizes.sum()  # and it is used


def test_a_rate_that_is_too_low_takes_the_coarsest_step(wave):
    signal = speech(seed=3)
    data = encoded(wave, signal, kbps=0.1)
    assert decoded(wave, data).shape == signal.shape


OPTIONS = [
    ({}, "takes kbps or step"),
    ({"kbps": 8, "step": 3}, "takes kbps or step"),
    ({"kbps": 8, "codebooks": 3}, "takes kbps or step"),
    ({"kbps": 0}, "kbps must be positive"),
    ({"kbps": 8, "window_seconds": 0.1}, "at least two packets of 0.064 s"),
    ({"step": 1024}, "step lies in 0 to 1023, got 1024"),
    ({"step": 3, "kind": "loud"}, "kind is one of perceptual, fidelity, got 'loud'"),
    ({"step": 3, "packet_frames": 0}, "packet_frames lies in 1 to 1023"),
    ({"step": 3, "restart_every": -1}, "restart_every is not negative"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options_that_make_no_sense_are_refused(wave, options, message):
    with pytest.raises(ValueError, match=message):
        StreamEncoder(wave, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes kbps or codebooks"),
        ({"step": 3}, "takes kbps or codebooks"),
        ({"codebooks": 7}, "codebooks lies in 1 to 6, got 7"),
        ({"kbps": 99}, "kbps must be between 1 and 6, got 99"),
    ],
)
def test_options_that_a_codec_of_codes_has_not_are_refused(transform, options, message):
    with pytest.raises(ValueError, match=message):
        StreamEncoder(transform, **options)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan]), "hold NaN or Inf"),
        (np.zeros((2, 3)), r"must be float, \[time\], got float64 \[2, 3\]"),
        (np.zeros(3, np.int16), "must be float"),
    ],
)
def test_samples_that_are_none_are_refused(wave, samples, message):
    with pytest.raises(ValueError, match=message):
        StreamEncoder(wave, step=STEP).push(samples)


def test_a_finished_stream_takes_no_more(wave):
    encoder = StreamEncoder(wave, step=STEP)
    encoder.finish()
    with pytest.raises(ValueError, match="is finished; begin another one"):
        encoder.push(np.zeros(3))
    with pytest.raises(ValueError, match="is finished"):
        encoder.finish()


def test_a_codec_without_streams_is_refused():
    for side in (StreamEncoder, StreamDecoder):
        with pytest.raises(TypeError, match="can be streamed, got SEANetCodec"):
            side(SEANetCodec.__new__(SEANetCodec))
