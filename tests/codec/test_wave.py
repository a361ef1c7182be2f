"""Waveforms to bytes and back: at the rate or the fidelity that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechbrain_ext.codec.post_filter import PostFilter
from speechbrain_ext.codec.settings import WaveSettings
from speechbrain_ext.codec.wave import WaveCoder
from tests.codec.signals import speech

FLAT = {"gamma": 0, "weights_db": [0] * 6, "fill": [0] * 4, "sends_envelope": False}
KINDS = {"perceptual": WaveSettings(), "fidelity": WaveSettings(**FLAT)}


@pytest.fixture(scope="module", params=KINDS)
def coder(request):
    found = WaveCoder(KINDS[request.param], hidden=8)
    found.learn([speech(seed=n) for n in range(3)], steps=60, seed=0)
    return found


def snr(x, y):
    return 10 * np.log10(np.square(x).sum() / np.square(x - y).sum())


@pytest.mark.parametrize("count", [1, 255, 256, 257, 5000, 16000])
def test_any_length_comes_back(coder, count):
    wave = speech(seed=9)[:count]
    data, step = coder.compress(wave, step=600)
    found = coder.decompress(data, step, count)
    assert found.shape == (count,)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kbps", [4, 8, 16, 32])
def test_a_rate_is_kept_and_used(coder, kbps):
    wave = speech(2.0, seed=9)
    data, _ = coder.compress(wave, bits=2000 * kbps)
    assert 0.97 * 2000 * kbps <= 8 * len(data) <= 2000 * kbps


def test_more_bits_are_a_better_signal(coder):
    wave, ratios = speech(seed=9), []
    for kbps in (4, 8, 16, 32):
        data, step = coder.compress(wave, bits=1000 * kbps)
        ratios.append(snr(wave, coder.decompress(data, step, len(wave))))
    assert ratios == sorted(ratios)
    assert ratios[-1] > ratios[0] + 6


@pytest.mark.parametrize("target", [10, 20, 30])
def test_a_fidelity_is_kept_and_no_more(target):
    coder = WaveCoder(KINDS["fidelity"], hidden=8)
    coder.learn([speech()], steps=20, seed=0)
    wave = speech(seed=9)
    data, step = coder.compress(wave, snr=target)
    found = snr(wave, coder.decompress(data, step, len(wave)))
    assert target - 0.01 <= found <= target + 0.3


def test_learned_contexts_save_bits():
    wave, sizes = speech(2.0, seed=9), []
    for steps in (1, 200):
        coder = WaveCoder(KINDS["perceptual"], hidden=16)
        coder.learn([speech(2.0, seed=n) for n in range(4)], steps=steps, seed=0)
        sizes.append(len(coder.compress(wave, step=700)[0]))
    assert sizes[1] < 0.7 * sizes[0]


def test_silence_takes_next_to_nothing(coder):
    data, step = coder.compress(np.zeros(16000), bits=8000)
    assert np.abs(coder.decompress(data, step, 16000)).max() < 1e-3


def test_threads_do_not_change_a_byte(coder):
    wave, threads = speech(seed=9), torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(coder.compress(wave, bits=8000))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_what_was_learned_is_in_the_state(coder):
    other = WaveCoder(coder.settings, hidden=8)
    other.load_state_dict(coder.state_dict())
    wave = speech(seed=9)
    data, step = coder.compress(wave, bits=8000)
    assert other.compress(wave, bits=8000) == (data, step)
    assert np.array_equal(
        *(one.decompress(data, step, len(wave)) for one in (coder, other))
    )


@pytest.mark.parametrize("seed", range(5))
def test_bytes_of_chance_are_a_waveform_or_refused(coder, seed):
    data = np.random.default_rng(seed).integers(0, 256, 400, np.uint8).tobytes()
    found = coder.decompress(data, 700, 8000)
    assert found is None or found.shape == (8000,)


@pytest.mark.parametrize("name", KINDS)
def test_a_long_recording_is_made_in_blocks(name, monkeypatch):
    torch.manual_seed(0)
    post_filter = PostFilter(4)
    torch.nn.init.normal_(post_filter.last.weight, std=0.1)
    coder = WaveCoder(KINDS[name], hidden=8, post_filter=post_filter)
    coder.learn([speech(seed=n) for n in range(2)], steps=20, seed=0)
    wave = speech(seed=9)
    aims = ({"bits": 16000}, {"snr": 12.0})
    whole = [coder.compress(wave, **aim) for aim in aims]
    made = [coder.decompress(*coded, len(wave)) for coded in whole]
    monkeypatch.setattr("speechbrain_ext.codec.wave._BLOCK", 7)
    monkeypatch.setattr("speechbrain_ext.codec.wave._MOST_KEPT", 0)
    assert [coder.compress(wave, **aim) for aim in aims] == whole
    for coded, wanted in zip(whole, made, strict=True):
        found = coder.decompress(*coded, len(wave))
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_weights_from_before_sizes_were_told_still_load(coder):
    weights = coder.state_dict()
    del weights["size_curve"]
    other = WaveCoder(coder.settings, hidden=coder.coefficients_first.shape[1])
    other.load_state_dict(weights)
    wave = np.random.default_rng(0).standard_normal(8000) / 10
    data, step = other.compress(wave, bits=8000)
    assert 0.95 * 8000 < 8 * len(data) <= 8000
    assert np.array_equal(
        other.decompress(data, step, 8000), coder.decompress(data, step, 8000)
    )


def test_a_minute_of_silence_is_not_taken_for_damage(coder):
    silence = np.zeros(16000 * 60)
    data, step = coder.compress(silence, step=600)
    found = coder.decompress(data, step, len(silence))
    assert np.abs(found).max() < 1e-3
