"""Bands, steps, and what the decoder makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from speechbrain_ext.codec.bands import (
    FLOOR,
    STEP_ZERO,
    STEPS_PER_OCTAVE,
    band_edges,
    make_shape,
    measure_envelope,
    shape_signal,
)
from speechbrain_ext.codec.settings import WaveSettings
from speechbrain_ext.codec.signal import Symbols
from speechbrain_ext.codec.synthesis import dequantise, find_centroids, hashed_noise
from tests.codec.signals import BINS, EDGES, NUM_BANDS, spectrum


def test_bands_cover_every_bin_once():
    edges = band_edges(256, 16000)
    assert edges[0] == 0
    assert edges[-1] == 256
    assert (np.diff(edges) > 0).all()


def test_too_few_bins_are_a_message():
    with pytest.raises(ValueError, match="64 bins are too few .* take a longer hop"):
        band_edges(64, 16000)


def test_the_envelope_is_the_rounded_level():
    x = np.zeros((2, BINS))
    x[0, EDGES[1] : EDGES[2]] = 0.25
    found = measure_envelope(x, EDGES)
    assert found[0].tolist() == [FLOOR, -2, FLOOR, FLOOR, FLOOR]
    assert (found[1] == FLOOR).all()


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_steps_are_near_their_formula(gamma):
    """Reference: the same in real numbers, smoothed in amplitude."""
    weights = np.linspace(-6, 6, NUM_BANDS)
    shape = make_shape(EDGES, gamma, weights)
    level = measure_envelope(spectrum(), EDGES)
    steps, levels = shape_signal(level, shape, STEP_ZERO + 3 * STEPS_PER_OCTAVE)
    around = np.pad(2.0**level, ((1, 1), (0, 0)), mode="edge")
    smooth = np.log2(0.25 * around[:-2] + 0.5 * around[1:-1] + 0.25 * around[2:])
    middles = (EDGES[:-1] + EDGES[1:] - 1) / 2

    def at_bins(rows):
        return np.stack([np.interp(np.arange(BINS), middles, row) for row in rows])

    expected = 3 + gamma * at_bins(smooth) + at_bins(weights[None] / 6.0206)
    assert np.abs(steps / 256 - expected).max() < 0.03
    assert np.abs(levels[:, 1] / 256 - at_bins(level)).max() < 0.03
    assert np.array_equal(levels[1:, 0], levels[:-1, 1])
    assert np.array_equal(levels[:-1, 2], levels[1:, 1])


def values(x, step=0.02, **options):
    level = measure_envelope(x, EDGES)
    steps = np.full(x.shape, round(256 * np.log2(step)))
    rows = np.rint(x / 2.0 ** (steps / 256)).astype(np.int64)
    settings = {"centroids": np.zeros(3), "fill": np.zeros(NUM_BANDS), "fill_cap": 0.5}
    symbols = Symbols(level, rows)
    return rows, sum(dequantise(symbols, steps, EDGES, **(settings | options)))


def test_without_noise_a_value_is_its_integer_and_its_centroid():
    x = spectrum()
    rows, plain = values(x)
    assert np.abs(plain - x).max() <= 0.51 * 0.02
    _, moved = values(x, centroids=np.array([0.1, 0.2, 0.3]))
    beyond = np.array([0, 0.1, 0.2, 0.3])[np.minimum(np.abs(rows), 3)]
    assert np.allclose(moved - plain, np.sign(rows) * beyond * 0.02, rtol=0.01)


def test_noise_is_where_nothing_was_sent_and_never_too_loud():
    x = spectrum(200)
    rows, plain = values(x)
    _, filled = values(x, fill=np.ones(NUM_BANDS))
    noise = filled - plain
    assert not noise[rows != 0].any()
    assert noise[rows == 0].any()
    assert np.abs(noise).max() <= 0.5 * 0.0201 * 3**0.5
    silent = measure_envelope(x, EDGES) <= FLOOR
    assert not noise[np.repeat(silent, np.diff(EDGES), axis=1)].any()


def test_noise_brings_back_what_is_missing():
    x = 0.004 * np.random.default_rng(0).standard_normal((400, BINS))
    _, filled = values(x, fill=np.ones(NUM_BANDS), fill_cap=9.0)
    ratio = np.square(filled).mean() / np.square(x).mean()
    assert 0.4 < ratio < 2.5  # the envelope is rounded to octaves


def test_centroids_are_the_means_beyond():
    exact = np.array([[1.2, -1.4, 2.1, -5.5, 0.4]])
    found = find_centroids(exact, np.array([[1, -1, 2, -5, 0]]))
    assert found.tolist() == pytest.approx([0.3, 0.1, 0.5])


def test_noise_is_white_and_its_place_alone_decides():
    noise = hashed_noise((64, 256))
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.02
    assert np.array_equal(hashed_noise((2, 256), 10 * 256), noise[10:12])


def test_settings_go_through_a_vector_unchanged():
    settings = WaveSettings()
    assert settings.with_vector(settings.vector()) == settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 1.5}, "gamma lies in"),
        ({"weights_db": (1, 2)}, "weights_db has 6 knots"),
        ({"fill": (0, 0, 0, -1)}, "not negative"),
        ({"price": -1}, "not negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        WaveSettings(**wrong)
