"""Cosine, WCCN and AS-norm compute their formulas, and NaN stays where it was."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from speechbrain_ext.scoring.norm import (
    WCCN,
    ASNorm,
    as_norm,
    cosine_scores,
    speaker_means,
    unit_vectors,
)


def vectors(size=12, dim=5, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(size, dim)).astype(dtype)


def pairs(size, num_trials=200, seed=1):
    generator = np.random.default_rng(seed)
    return generator.integers(0, size, size=(2, num_trials)).astype(np.int32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_cosine_equals_scipys_whatever_the_chunk(dtype):
    x = vectors(dtype=dtype)
    enroll, test = pairs(12)
    scores = cosine_scores(x, enroll, test)
    assert scores.dtype == np.float32
    rows = x.astype(np.float64)
    expected = [1 - cosine(rows[a], rows[b]) for a, b in zip(enroll, test, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    for chunk in (1, 7, 10**6):
        np.testing.assert_array_equal(
            cosine_scores(x, enroll, test, chunk=chunk), scores
        )


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e20, 1e37])
def test_cosine_does_not_depend_on_the_size_of_embeddings(scale):
    x = np.array([[1.0, 2.0], [2.0, -1.0], [3.0, 6.0]])
    scaled = (x * scale).astype(np.float32)
    enroll, test = np.array([0, 0]), np.array([1, 2])
    np.testing.assert_allclose(
        cosine_scores(scaled, enroll, test), [0.0, 1.0], atol=1e-4
    )
    assert np.abs(cosine_scores(x, enroll, test)).max() <= 1.0


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_an_embedding_without_a_direction_gives_nan_and_only_its_own_trials(bad):
    x = vectors()
    enroll, test = pairs(12)
    before = cosine_scores(x, enroll, test)
    x[3] = 0.0
    x[3, 1] = bad
    after = cosine_scores(x, enroll, test)
    touched = (enroll == 3) | (test == 3)
    assert np.isnan(after[touched]).all()
    np.testing.assert_array_equal(after[~touched], before[~touched])


def test_no_trials_have_no_scores():
    none = np.empty(0, np.int32)
    assert cosine_scores(vectors(), none, none).shape == (0,)
    assert cosine_scores(np.empty((0, 5)), none, none).shape == (0,)


@pytest.mark.parametrize(
    ("x", "enroll", "test", "message"),
    [
        (np.zeros(3), [0], [0], r"must be \[num_utterances, dim\], got \[3\]"),
        (np.ones((2, 3)), [0], [2], "rows from 2 to 2, but there are 2"),
        (np.ones((2, 3)), [-1], [0], "rows from -1 to -1"),
        (np.ones((2, 3)), [0, 1], [0], "of one length"),
    ],
)
def test_rows_that_are_not_there_are_refused(x, enroll, test, message):
    with pytest.raises(ValueError, match=message):
        cosine_scores(x, np.array(enroll), np.array(test))


def test_speaker_means_are_of_directions_and_leave_out_what_has_none():
    x = np.array([[2.0, 0.0], [0.0, 5.0], [np.nan, 1.0], [0.0, 0.0], [3.0, 0.0]])
    means, names = speaker_means(x, ["b", "b", "b", "c", "a"])
    assert names == ["a", "b"]
    np.testing.assert_allclose(means, [[1.0, 0.0], [0.5, 0.5]])
    with pytest.raises(ValueError, match="5 vectors need as many speakers, got 1"):
        speaker_means(x, ["b"])


def within_covariance(x, speakers):
    """By the book: mean over speakers of numpy's covariance within each."""
    names = [n for n in sorted(set(speakers)) if list(speakers).count(n) > 1]
    rows = [x[np.array(speakers) == name] for name in names]
    return np.mean([np.cov(r.T, bias=True) for r in rows], axis=0)


def test_wccn_without_shrinkage_makes_the_covariance_within_speakers_unit():
    x, speakers = vectors(60), [f"s{i % 7}" for i in range(60)]
    wccn = WCCN(0.0).fit(x, speakers)
    np.testing.assert_allclose(
        within_covariance(wccn.transform(x), speakers), np.eye(5), atol=1e-9
    )


@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_wccn_inverts_the_covariance_with_its_share_of_the_diagonal(shrinkage):
    x, speakers = vectors(40), [f"s{i % 7}" for i in range(39)] + ["alone"]
    projection = WCCN(shrinkage).fit(x, speakers).projection
    within = within_covariance(unit_vectors(x), speakers)
    within += shrinkage * np.diag(within).mean() * np.eye(5)
    np.testing.assert_allclose(projection @ projection.T, np.linalg.inv(within))


def test_wccn_with_a_large_shrinkage_is_the_raw_cosine():
    x, speakers = vectors(30), [f"s{i % 4}" for i in range(30)]
    enroll, test = pairs(30)
    projected = WCCN(1e9).fit(x, speakers).transform(x)
    np.testing.assert_allclose(
        cosine_scores(projected, enroll, test),
        cosine_scores(x, enroll, test),
        atol=1e-6,
    )


def test_wccn_does_not_learn_from_what_has_no_direction():
    x, speakers = vectors(30), [f"s{i % 4}" for i in range(30)]
    expected = WCCN().fit(x, speakers).projection
    bad = np.array([[np.nan] * 5, [0.0] * 5, [np.inf] * 5])
    wccn = WCCN().fit(np.concatenate((x, bad)), [*speakers, "s0", "s1", "new"])
    np.testing.assert_allclose(wccn.projection, expected, rtol=1e-12)
    assert np.isnan(wccn.transform(bad)).all()


def test_wccn_says_what_it_lacks():
    with pytest.raises(ValueError, match="no speaker has two usable utterances"):
        WCCN().fit(vectors(3), ["a", "b", "c"])
    with pytest.raises(ValueError, match="no speaker has two usable utterances"):
        WCCN().fit(np.full((2, 3), np.nan), ["a", "a"])
    with pytest.raises(ValueError, match="singular with shrinkage 0.*larger shrinkage"):
        WCCN(0.0).fit(vectors(3), ["a", "a", "b"])
    with pytest.raises(ValueError, match="singular"):
        WCCN().fit(np.ones((4, 3)), ["a", "a", "b", "b"])
    with pytest.raises(ValueError, match="call fit"):
        WCCN().transform(vectors())
    with pytest.raises(ValueError, match="learned on 5 dimensions, got 4"):
        WCCN().fit(vectors(), list("aabbccddeeff")).transform(vectors(dim=4))
    with pytest.raises(ValueError, match="shrinkage must be >= 0"):
        WCCN(-1.0)


def as_norm_trial_by_trial(scores, x, enroll, test, cohort, top):
    """Matejka et al., eq. 5, as it stands."""
    normalised = []
    for score, a, b in zip(scores, enroll, test, strict=True):
        terms = []
        for row in (a, b):
            found = sorted(1 - cosine(x[row], other) for other in cohort)[-top:]
            terms.append((score - np.mean(found)) / np.std(found))
        normalised.append(sum(terms) / 2)
    return normalised


@pytest.mark.parametrize("top", [2, 7, 20, 300])
def test_as_norm_equals_the_formula_trial_by_trial(top):
    x, cohort = vectors(), vectors(20, seed=3)
    enroll, test = pairs(12, 60)
    scores = cosine_scores(x, enroll, test)
    expected = as_norm_trial_by_trial(scores, x, enroll, test, cohort, min(top, 20))
    found = as_norm(scores, x, enroll, test, cohort, top=top)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_as_norm_keeps_nan_to_its_trials_and_names_what_it_left_out():
    x, cohort = vectors(), vectors(20, seed=3)
    enroll, test = pairs(12)
    clean = as_norm(cosine_scores(x, enroll, test), x, enroll, test, cohort)
    x[3] = np.nan
    bad = np.insert(cohort, [0, 7], np.nan, axis=0)
    norm = ASNorm(bad)
    assert norm.left_out == [0, 8]
    found = norm.normalise(cosine_scores(x, enroll, test), x, enroll, test)
    touched = (enroll == 3) | (test == 3)
    assert np.isnan(found[touched]).all()
    np.testing.assert_allclose(found[~touched], clean[~touched], rtol=1e-5)


def test_as_norm_refuses_a_cohort_without_spread():
    x = vectors()
    row = np.array([0])
    with pytest.raises(ValueError, match="at least 2 usable vectors, got .* 1 vectors"):
        as_norm(np.zeros(1), x, row, row, vectors(1))
    with pytest.raises(ValueError, match="0 vectors .2 more are zero or not finite"):
        ASNorm(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="top=1"):
        ASNorm(vectors(), top=1)
    with pytest.raises(ValueError, match="12 utterances, the first in row 0, have one"):
        as_norm(np.zeros(1), x, row, row, np.ones((9, 5)))
    with pytest.raises(ValueError, match="cohort has 4 dimensions"):
        as_norm(np.zeros(1), x, row, row, vectors(dim=4))
    with pytest.raises(ValueError, match="1 trials need as many scores"):
        as_norm(np.zeros(2), x, row, row, vectors())
