"""Recordings to files and back: any rate, length and number of channels."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from speechbrain_ext.codec.container import BitstreamError, read_coded
from speechbrain_ext.models.wave_codec import WaveCodec
from tests.codec.damage import spoiled, with_random_payloads
from tests.codec.signals import speech


@pytest.fixture(scope="module")
def codec():
    found = WaveCodec(hidden=8, context_steps=40)
    found.initialize([speech(seed=n) for n in range(2)])
    return found


@pytest.fixture(scope="module")
def data(codec):
    return codec.compress(speech(seed=9), 16000, kbps=8)


@pytest.mark.parametrize("hertz", [200, 400, 1400, 2600])
def test_a_ratio_is_held_for_what_is_no_speech(codec, hertz):
    seconds = np.arange(8000) / 16000
    wave = 0.3 * np.sin(2 * np.pi * hertz * seconds)
    wave += 0.1 * np.sin(2 * np.pi * (hertz + 1000) * seconds)
    for asked in range(5, 60, 6):
        found, _ = codec.decompress(codec.compress(wave, 16000, snr=asked))
        error = np.square(wave - found[0]).sum() / np.square(wave).sum()
        assert -10 * np.log10(error) >= asked


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 48000])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_come_back_at_their_rate_and_number(codec, sample_rate, channels):
    wave = np.stack([speech(seed=n)[:7001] for n in range(channels)])
    found, rate = codec.decompress(codec.compress(wave, sample_rate, kbps=16))
    assert (found.shape, rate, found.dtype) == (wave.shape, sample_rate, np.float32)
    if sample_rate >= 16000:
        for one, other in zip(wave, found, strict=True):
            error = np.square(one - other).sum() / np.square(one).sum()
            assert error < 1.5


def test_channels_are_coded_one_by_one(codec):
    waves = [speech(seed=n) for n in (4, 5)]
    alone = [codec.compress(wave, 16000, snr=15) for wave in waves]
    both = read_coded(codec.compress(np.stack(waves), 16000, snr=15))
    assert both.payloads == tuple(read_coded(one).payloads[0] for one in alone)


@pytest.mark.parametrize("seconds", [0.001, 0.3, 2.0])
@pytest.mark.parametrize("kbps", [8, 24])
def test_a_file_is_no_larger_than_asked(codec, seconds, kbps):
    wave = speech(2.0, seed=9)[: round(16000 * seconds)]
    size = 8 * len(codec.compress(wave, 16000, kbps=kbps))
    least = 8 * 50  # a header, and the envelopes of two frames
    assert size <= max(1000 * kbps * len(wave) / 16000, least)


def test_a_fidelity_is_that_of_the_file(codec):
    wave = speech(seed=9)
    found, _ = codec.decompress(codec.compress(wave, 16000, snr=25))
    ratio = np.square(wave).sum() / np.square(wave - found[0]).sum()
    assert 24.95 <= 10 * np.log10(ratio) <= 25.5


@pytest.mark.parametrize(("level", "asked"), [(1, 90), (1e-2, 60), (1e-3, 30)])
def test_a_fidelity_is_held_however_quiet_a_recording_is(codec, level, asked):
    wave = level * speech(seed=9)[:6000]
    found, _ = codec.decompress(codec.compress(wave, 16000, snr=asked))
    ratio = np.square(wave).sum() / np.square(wave - found[0].astype(float)).sum()
    assert asked - 0.05 <= 10 * np.log10(ratio) <= asked + 0.7


def test_a_fidelity_that_no_step_holds_is_refused(codec):
    with pytest.raises(ValueError, match="so quiet .* dB at most"):
        codec.compress(1e-8 * speech(seed=9), 16000, snr=60)


def test_silence_takes_no_more_where_there_is_room(codec):
    aims = ({"kbps": 8}, {"kbps": 64}, {"snr": 20}, {"snr": 80})
    found = [codec.compress(np.zeros(16000), 16000, **aim) for aim in aims]
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert not any(codec.decompress(data)[0].any() for data in found)


def test_threads_do_not_change_a_sample(codec, data):
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(codec.decompress(data)[0])
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


def test_another_model_refuses_the_file(codec, data):
    other = WaveCodec(hidden=8)
    other.load_state_dict(codec.state_dict())
    assert np.array_equal(other.decompress(data)[0], codec.decompress(data)[0])
    other.perceptual.centroids += 0.01
    with pytest.raises(BitstreamError, match="x.sbx: was coded by the model"):
        other.decompress(data, "x.sbx")


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_refused(codec, data, seed):
    for one in spoiled(data, seed):
        with pytest.raises(BitstreamError):
            codec.decompress(one)


def test_bits_under_a_true_checksum_make_a_recording_or_are_refused(codec, data):
    for one in with_random_payloads(data):
        with contextlib.suppress(BitstreamError):
            assert np.isfinite(codec.decompress(one)[0]).all()


@pytest.mark.parametrize(
    ("wave", "options", "message"),
    [
        (np.zeros(100), {}, "give kbps or snr"),
        (np.zeros(100), {"kbps": 8, "snr": 20}, "give kbps or snr"),
        (np.zeros(100), {"kbps": 0}, "positive"),
        (np.ones(100), {"kbps": np.inf}, "positive"),
        (np.ones(100), {"snr": 91}, "at most 90 dB"),
        (np.zeros(0), {"kbps": 8}, "must be finite"),
        (np.full(9, np.nan), {"kbps": 8}, "must be finite"),
        (np.zeros((1, 2, 3)), {"kbps": 8}, "must be finite, .* got"),
    ],
)
def test_what_makes_no_sense_is_refused(codec, wave, options, message):
    with pytest.raises(ValueError, match=message):
        codec.compress(wave, 16000, **options)
