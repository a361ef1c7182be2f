"""What a step will give, told without coding."""

import numpy as np
import pytest

from speechbrain_ext.codec import bands
from speechbrain_ext.codec.guesses import (
    RoundedRatio,
    SizeCurve,
    fit_curve,
    some_frames,
)
from speechbrain_ext.codec.rate_control import find_costly_crossing

LINE = np.array([0.0, 1.0, 0.5, -4.0, -1.0])  # half a bit more than an ideal coder's


def speech(frames=40, bins=32, seed=0):
    rng = np.random.default_rng(seed)
    loud = np.exp(rng.standard_normal((frames, 1)) - 0.1 * np.arange(bins))
    return loud * rng.standard_normal((frames, bins))


def flat(x):
    return np.zeros(x.shape, np.int64)


def test_a_size_is_half_of_what_the_formula_says_and_the_curve():
    x = speech()
    curve = SizeCurve(x, flat(x), None, LINE, len(x))
    for step in (bands.STEP_ZERO - 128, bands.STEP_ZERO, bands.STEP_ZERO + 64):
        size = 2.0 ** ((step - bands.STEP_ZERO) / bands.STEPS_PER_OCTAVE)
        ideal = np.log2(1 + (1.5 * x / size) ** 2).mean() / 2
        assert curve.measure(step) == pytest.approx(np.log2(ideal), abs=1e-4)
        expected = np.log2(ideal) + 0.5 + np.log2(x.size)
        assert curve(step) == pytest.approx(expected, abs=1e-4)


def test_what_the_envelope_says_is_silent_takes_nothing():
    x, promises = speech(), np.full((40, 32), 10 * 256)
    promises[:, 16:] = -20 * 256
    half = SizeCurve(x, flat(x), promises, LINE, 40).measure(bands.STEP_ZERO)
    x[:, 16:] = 0
    assert half == pytest.approx(
        SizeCurve(x, flat(x), None, LINE, 40).measure(bands.STEP_ZERO)
    )


def test_silence_has_a_size_and_falls_with_no_step():
    x = np.zeros((10, 16))
    curve = SizeCurve(x, flat(x), None, LINE, 10)
    assert np.isfinite(curve(0))
    assert curve(0) == curve(bands.NUM_STEPS - 1)


def test_beyond_what_was_measured_the_curve_is_straight():
    bent = np.array([0.1, 1.2, 1.0, -3.0, -1.0])
    x = speech()
    curve = SizeCurve(x, flat(x), None, bent, len(x))
    steps = np.arange(0, bands.NUM_STEPS, 16)
    found = np.array([curve(int(step)) for step in steps])
    assert (np.diff(found) < 0).all()
    measured = np.array([curve.measure(int(step)) for step in steps])
    above = measured > -1.0
    slopes = np.diff(found[above]) / np.diff(measured[above])
    assert above.sum() > 5
    assert slopes == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("degree", [1, 2])
def test_the_curve_is_fitted_where_it_rises(degree):
    measured = np.linspace(-4, -1, 12)
    taken = 0.5 + 1.1 * measured + (0.05 * measured**2 if degree == 2 else 0)
    *curve, low, high = fit_curve(measured, taken)
    assert (low, high) == (-4, -1)
    assert np.polyval(curve, measured) == pytest.approx(taken, abs=1e-6)


@pytest.mark.parametrize(
    "taken",
    [
        [-1.0, -2.0, -3.0],  # falls: of no speech
        [-3.0, -1.0, -3.0],
    ],
)
def test_a_curve_that_falls_is_not_taken(taken):
    *curve, low, high = fit_curve(np.array([-3.0, -2.0, -1.0]), np.array(taken))
    assert np.polyval(np.polyder(curve), [low, high]).min() > 0


def test_a_single_measure_gives_a_curve():
    *curve, _, _ = fit_curve(np.array([-2.0]), np.array([-1.5]))
    assert np.polyval(curve, -2.0) == pytest.approx(-1.5)


@pytest.mark.parametrize("octaves", [-3, 0, 2])
def test_the_ratio_is_that_of_plain_rounding(octaves):
    x, size = speech(), 2.0**octaves
    made = np.sign(x) * np.floor(np.abs(x) / size + 0.4) * size
    expected = 10 * np.log10(np.square(x).sum() / np.square(x - made).sum())
    step = bands.STEP_ZERO + octaves * bands.STEPS_PER_OCTAVE
    found = RoundedRatio(x, flat(x), 0.4)
    assert found(step) == found(step) == pytest.approx(expected, abs=1e-3)


def test_long_signals_are_told_from_blocks():
    assert some_frames(100) == slice(None)
    some = some_frames(100_000)
    assert len(some) == len(set(some)) <= 8192
    assert (some[0], some[-1]) == (0, 99_999)


@pytest.mark.parametrize("moved", [-3.0, 0.0, 5.0])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("target", [-20.0, 0.505, 3.005, 9.005, 300.0])
def test_a_rough_guess_leads_to_the_crossing(moved, scale, target):
    asked = []

    def exact(step):
        asked.append(step)
        return 16.0 - step / 64

    found = find_costly_crossing(
        exact, target, lambda step: scale * (16.0 - step / 64) + moved
    )
    wanted = min(max(int(np.ceil(64 * (16.0 - target))), 0), bands.NUM_STEPS)
    assert found == wanted
    assert len(asked) == len(set(asked)) <= 4


@pytest.mark.parametrize(
    ("exact", "rough"),
    [
        (lambda s: 1.0 if s < 700 else -1.0, lambda s: -float(s)),
        (lambda s: 1.0 if s < 700 else -100.0, lambda s: -float(s)),
        (lambda s: 1.0 if s < 700 else -1.0, lambda s: 0.0),
        (lambda s: 1001.0 / (s + 1) - 1001.0 / 701, lambda s: -s / 64),
        (lambda s: 2.0 ** (14 - s / 64) - 2.0 ** (14 - 700 / 64), lambda s: 0.0),
        (lambda s: (700 - s) ** 3, lambda s: s),  # which rises
    ],
)
@pytest.mark.parametrize("trusted", [0.0, 1e-9])
def test_a_rough_guess_that_is_wrong_only_takes_longer(exact, rough, trusted):
    asked = []

    def counted(step):
        asked.append(step)
        return exact(step)

    assert find_costly_crossing(counted, 0.0, rough, trusted=trusted) == 700
    assert len(asked) == len(set(asked)) <= 16


def test_a_guess_is_believed_only_near_the_target():
    def bits(step):
        return 16.0 - step / 64

    def wrong(step):  # says that the step before is far above
        return -100.0 * step

    found = find_costly_crossing(bits, 5.0, wrong, trusted=0.02)
    assert 5.0 - 0.02 <= bits(found) <= 5.0
