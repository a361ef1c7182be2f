"""Calibrated scores are log-likelihood ratios and rank as before."""

import numpy as np
import pytest
from scipy.optimize import minimize

from speechbrain_ext.errors import UserError
from speechbrain_ext.scoring.calibration import Calibration
from speechbrain_ext.scoring.metrics import cllr, equal_error_rate


def gaussian(size=4000, mean=1.0, seed=0):
    """Scores of which the ratio is known: N(+mean, 1) against N(-mean, 1)."""
    generator = np.random.default_rng(seed)
    labels = generator.random(size) < 0.3
    return generator.normal(size=size) + np.where(labels, mean, -mean), labels


def test_gaussian_scores_become_their_known_ratio():
    scores, labels = gaussian(40000)
    shifted = 5.0 + 0.1 * scores
    ratios = Calibration().fit(shifted, labels).transform(shifted)
    np.testing.assert_allclose(ratios, 2.0 * scores, atol=0.3)
    assert cllr(ratios, labels) < cllr(shifted, labels)


def test_the_map_is_the_least_cllr_of_all_affine_maps():
    scores, labels = gaussian(500)
    calibration = Calibration().fit(scores, labels)
    best = minimize(lambda p: cllr(p[0] * scores + p[1], labels), [1.0, 0.0], tol=1e-10)
    assert calibration.slope == pytest.approx(best.x[0], rel=1e-3)
    assert calibration.offset == pytest.approx(best.x[1], abs=1e-3)


@pytest.mark.parametrize("p_target", [0.01, 0.5, 0.9])
def test_the_prior_is_taken_out_again(p_target):
    scores, labels = gaussian(40000)
    calibration = Calibration(p_target).fit(scores, labels)
    assert calibration.slope == pytest.approx(2.0, rel=0.15)
    assert calibration.offset == pytest.approx(0.0, abs=0.3)


def test_ranking_and_infinite_scores_stay():
    scores, labels = gaussian()
    calibration = Calibration().fit(scores, labels)
    ratios = calibration.transform(scores)
    assert equal_error_rate(ratios, labels)[0] == equal_error_rate(scores, labels)[0]
    found = calibration.transform(np.array([np.nan, np.inf, -np.inf], np.float32))
    np.testing.assert_array_equal(found, [np.nan, np.inf, -np.inf])


def test_scores_that_are_not_finite_teach_nothing():
    scores, labels = gaussian()
    expected = Calibration().fit(scores, labels)
    found = Calibration().fit(
        np.append(scores, [np.nan, np.inf, -np.inf]), np.append(labels, [1, 0, 1])
    )
    assert found.num_left_out == 3
    assert (found.slope, found.offset) == (expected.slope, expected.offset)


def test_training_speakers_told_apart_without_error_give_a_finite_slope():
    scores = np.array([-2.0, -1.0, 1.0, 2.0])
    calibration = Calibration().fit(scores, scores > 0)
    assert 1 < calibration.slope < 100
    assert calibration.offset == pytest.approx(0.0, abs=1e-6)


def test_scores_that_mean_the_opposite_are_refused():
    scores, labels = gaussian()
    with pytest.raises(ValueError, match="slope came out as -.*check the labels"):
        Calibration().fit(-scores, labels)


def test_what_teaches_nothing_is_refused():
    with pytest.raises(ValueError, match="all 4 scores are 3"):
        Calibration().fit(np.full(4, 3.0), np.array([1, 0, 1, 0]))
    with pytest.raises(ValueError, match="got 0 targets and 0 non-targets"):
        Calibration().fit(np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="1 targets and 0 non-targets after 1 NaN"):
        Calibration().fit(np.array([1.0, np.inf]), np.array([1, 0]))
    with pytest.raises(ValueError, match="call fit or load"):
        Calibration().transform(np.zeros(1))
    with pytest.raises(ValueError, match="p_target must be between 0 and 1"):
        Calibration(1.0)


def test_a_map_is_saved_and_loaded(tmp_path):
    scores, labels = gaussian()
    calibration = Calibration(0.05).fit(scores, labels)
    path = tmp_path / "calibration.json"
    calibration.save(path)
    loaded = Calibration.load(path)
    assert vars(loaded) == vars(calibration)
    np.testing.assert_array_equal(
        loaded.transform(scores), calibration.transform(scores)
    )


@pytest.mark.parametrize("slope", ["-1", "0", "NaN", "1e999", '"x"'])
def test_a_file_without_a_map_is_told(tmp_path, slope):
    path = tmp_path / "calibration.json"
    path.write_text(
        '{"slope": ' + slope + ', "offset": 0, "p_target": 0.5, "penalty": 1e-6, '
        '"num_left_out": 0}'
    )
    with pytest.raises(UserError, match="score again to make it"):
        Calibration.load(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="not a saved calibration"):
        Calibration.load(path)
    with pytest.raises(UserError, match="not a saved calibration"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="JSON"):
        Calibration().save(path)
