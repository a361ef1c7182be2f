"""Latency: what a stream says of itself is so, and no less."""

from __future__ import annotations

import numpy as np
import pytest

from speechbrain_ext.codec.streaming import StreamDecoder, StreamEncoder
from tests.codec.streaming.streams import transform_codec, wave_codec

CASES = {
    "perceptual": ({"step": 500}, {}),
    "perceptual, no filter": ({"step": 500}, {"post_filter": False}),
    "fidelity": ({"step": 500, "kind": "fidelity"}, {}),
    "codes": ({"codebooks": 6}, {}),
}
#: Frames to wait for beside a packet's, and samples per frame.
FRAMES = {
    "perceptual": (6, 256),
    "perceptual, no filter": (2, 256),
    "fidelity": (1, 320),
    "codes": (1 + 2 * 3, 64),
}


@pytest.fixture(scope="module")
def codecs():
    return {"codes": transform_codec(), "wave": wave_codec()}


@pytest.mark.parametrize("packet_frames", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_an_impulse_comes_out_in_its_place_and_no_later_than_said(
    codecs, case, packet_frames
):
    options, reading = CASES[case]
    codec = codecs.get(case, codecs["wave"])
    encoder = StreamEncoder(codec, packet_frames=packet_frames, **options)
    decoder = StreamDecoder(codec, **reading)
    hop = FRAMES[case][1]
    length, place, size = 40 * hop, 7 * hop + 5, 8
    signal = np.zeros(length)
    signal[place : place + 4] = 0.5
    found, held, came = np.zeros(0, np.float32), [], None
    for at in range(0, length, size):
        found = np.append(found, decoder.push(encoder.push(signal[at : at + size])))
        held.append(at + size - len(found))
        if came is None and len(found) > place:
            came = at + size
    latency = encoder.latency_samples + decoder.latency_samples
    frames, _ = FRAMES[case]
    assert latency == (packet_frames + frames) * hop - 1
    assert max(held) <= latency
    assert max(held) > latency - size  # and it is no overstatement
    assert came <= place + 1 + latency + size
    if case != "codes":  # too coarse for one
        assert abs(int(np.abs(found).argmax()) - place) < 5
    assert encoder.latency_ms == pytest.approx(encoder.latency_samples / 16)
    assert decoder.latency_ms == pytest.approx(decoder.latency_samples / 16)


def test_the_decoder_does_not_guess_its_latency(codecs):
    decoder = StreamDecoder(codecs["wave"])
    with pytest.raises(ValueError, match="push its header"):
        decoder.latency_samples  # noqa: B018
    decoder.push(StreamEncoder(codecs["wave"], step=3).push(np.zeros(0)))
    assert decoder.latency_samples == 4 * 256
