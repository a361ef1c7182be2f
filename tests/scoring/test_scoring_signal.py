"""Codec metrics: right where they exist, a reason where they don't."""

import builtins
import math

import numpy as np
import pytest

from speechbrain_ext.scoring import signal
from speechbrain_ext.scoring.signal import (
    USUAL_METRICS,
    NotMeasured,
    estoi,
    log_spectral_distance_db,
    mean_scores,
    pesq_wb,
    score_pair,
    si_sdr_db,
    snr_db,
    stoi,
)

RATE = 16000


def voice(seconds=2.0, seed=0):
    """Harmonics with a syllable rhythm, in faint noise: enough for PESQ and STOI."""
    time = np.arange(round(seconds * RATE)) / RATE
    wav = sum(np.sin(2 * np.pi * 130 * n * time) / n for n in range(1, 30))
    noise = np.random.default_rng(seed).standard_normal(time.size)
    return 0.1 * wav * np.sin(2 * np.pi * 2 * time) ** 2 + 1e-3 * noise


def noisy(wav, level_db, seed=1):
    noise = np.random.default_rng(seed).standard_normal(wav.size)
    noise *= np.linalg.norm(wav) / np.linalg.norm(noise) * 10 ** (-level_db / 20)
    return wav + noise


@pytest.mark.parametrize("level", [-10.0, 0.0, 13.2, 40.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_snr_is_the_level_at_which_the_noise_was_added(level, dtype):
    wav = voice()
    scored = snr_db(wav.astype(dtype), noisy(wav, level).astype(dtype))
    assert scored == pytest.approx(level, abs=0.01)


def test_si_sdr_follows_from_the_angle_and_ignores_gain_and_offset():
    wav = voice()
    other = noisy(wav, 10)
    left, right = wav - wav.mean(), other - other.mean()
    angle = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    expected = 10 * math.log10(angle**2 / (1 - angle**2))
    assert si_sdr_db(wav, other) == pytest.approx(expected, abs=1e-6)
    assert si_sdr_db(wav, 0.2 * other + 0.3) == pytest.approx(expected, abs=1e-6)


def test_perfect_and_worthless_estimates_have_finite_ratios():
    wav = voice()
    assert snr_db(wav, wav) == 100
    assert si_sdr_db(wav, wav) == 100
    assert snr_db(wav, np.zeros_like(wav)) == pytest.approx(0)
    assert si_sdr_db(wav, np.zeros_like(wav)) == -100
    assert snr_db(wav, 1e9 * wav) == -100


def test_pesq_and_stoi_equal_their_packages():
    pesq = pytest.importorskip("pesq")
    import pystoi

    wav = voice()
    other = noisy(wav, 15)
    assert pesq_wb(wav, other) == pytest.approx(pesq.pesq(RATE, wav, other, "wb"))
    assert stoi(wav, other) == pytest.approx(pystoi.stoi(wav, other, RATE))
    assert estoi(wav, other) == pytest.approx(
        pystoi.stoi(wav, other, RATE, extended=True), abs=1e-6
    )


def test_estoi_repeats_and_leaves_numpys_stream_alone():
    wav = voice()
    np.random.seed(3)
    expected = np.random.random(4)
    np.random.seed(3)
    first = estoi(wav, noisy(wav, 15))
    assert np.array_equal(np.random.random(4), expected)
    assert estoi(wav, noisy(wav, 15)) == first


@pytest.mark.parametrize("gain_db", [0.0, 6.0, -12.0])
def test_log_spectral_distance_of_a_gain_is_the_gain(gain_db):
    wav = np.random.default_rng(0).standard_normal(RATE)
    scored = log_spectral_distance_db(wav, wav * 10 ** (gain_db / 20), range_db=200)
    assert scored == pytest.approx(abs(gain_db), abs=1e-6)


def test_log_spectral_distance_is_finite_beside_digital_silence():
    wav = voice()
    wav[5000:20000] = 0
    assert 0 < log_spectral_distance_db(wav, np.zeros_like(wav)) <= 80


def test_more_noise_is_worse_in_every_metric():
    wav = voice()
    good, bad = (score_pair(wav, noisy(wav, level), RATE) for level in (25, 5))
    for name in USUAL_METRICS:
        sign = -1 if name == "log_spectral_distance_db" else 1
        if name in good["not_measured"]:  # PESQ, where it could not be built
            continue
        assert sign * good[name] > sign * bad[name], name


@pytest.mark.parametrize(
    ("reference", "estimate", "reason"),
    [
        (np.zeros(RATE), voice(1), "the reference is silent"),
        (voice(1), np.full(RATE, np.nan), "the estimate has 16000 non-finite samples"),
        (np.r_[voice(1)[:-1], np.inf], voice(1), "the reference has 1 non-finite"),
        (np.zeros(0), np.zeros(0), "empty"),
    ],
)
def test_unmeasurable_pairs_have_no_figure_but_a_reason(reference, estimate, reason):
    scores = score_pair(reference, estimate, RATE)
    assert all(scores[name] is None for name in USUAL_METRICS)
    assert all(reason in text for text in scores["not_measured"].values())
    assert set(scores["not_measured"]) == set(USUAL_METRICS)


def test_non_finite_samples_of_an_estimate_are_counted():
    wav = voice()
    other = wav.copy()
    other[100:103] = [np.nan, np.inf, -np.inf]
    assert score_pair(wav, other, RATE)["non_finite_samples"] == 3


@pytest.mark.parametrize("size", [1, 200, 3000])
def test_short_files_have_waveform_metrics_and_reasons_for_the_rest(size):
    wav = voice()[10000 : 10000 + size] + 0.1
    scores = score_pair(wav, 0.9 * wav, RATE)
    assert scores["snr_db"] == pytest.approx(20, abs=1e-6)
    assert scores["stoi"] is None
    assert "0.4 s" in scores["not_measured"]["stoi"]
    assert scores["pesq_wb"] is None
    assert scores["log_spectral_distance_db"] is not None


def test_pesq_refuses_other_rates_and_silent_estimates():
    pytest.importorskip("pesq")
    with pytest.raises(NotMeasured, match="16000 Hz, not at 8000"):
        pesq_wb(voice(), voice(), 8000)
    with pytest.raises(NotMeasured, match="estimate is silent"):
        pesq_wb(voice(), np.zeros_like(voice()))


def test_missing_pesq_is_a_reason_and_the_others_go_on(monkeypatch):
    real = builtins.__import__

    def without_pesq(name, *args, **kwargs):
        if name == "pesq":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pesq)
    scores = score_pair(voice(), noisy(voice(), 10), RATE)
    assert scores["pesq_wb"] is None
    assert scores["not_measured"] == {"pesq_wb": "needs gcc and Python headers"}
    assert scores["stoi"] > 0


def test_different_lengths_are_the_callers_mistake():
    with pytest.raises(ValueError, match="one length") as caught:
        score_pair(voice(), voice()[1:], RATE)
    assert not isinstance(caught.value, NotMeasured)


def test_means_leave_out_what_was_not_measured_and_say_so():
    files = [
        {"snr_db": 10.0, "stoi": None, "not_measured": {"stoi": "too short"}},
        {"snr_db": 20.0, "stoi": 0.5, "not_measured": {}},
        {"snr_db": None, "stoi": None, "not_measured": dict.fromkeys(("snr_db",), "x")},
    ]
    means = mean_scores(files)
    assert means["snr_db"] == 15
    assert means["stoi"] == 0.5
    assert means["not_measured"] == {"snr_db": {"x": 1}, "stoi": {"too short": 1}}
    assert mean_scores(files[2:])["snr_db"] is None
    assert "pesq_wb" not in means


def test_every_metric_is_public():
    assert all(hasattr(signal, name) for name in USUAL_METRICS)
