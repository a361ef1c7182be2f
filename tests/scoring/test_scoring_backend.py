"""A backend is chosen on speakers it has not learned from, or the cosine stays."""

import numpy as np
import pytest

from speechbrain_ext.scoring import backend
from speechbrain_ext.scoring.backend import RAW_COSINE, Backend, BackendSettings
from speechbrain_ext.scoring.choice import (
    choose_backend,
    cohort_trials,
    held_out_scores,
)
from speechbrain_ext.scoring.metrics import equal_error_rate


def corpus(speakers=16, utterances=5, dim=6, noise=(3.0, 0.1), seed=0):
    """Embeddings whose first half varies within a speaker, and the rest between."""
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(speakers, dim))
    means[:, : dim // 2] = 0.0
    names = [f"s{i:02}" for i in range(speakers) for _ in range(utterances)]
    x = np.repeat(means, utterances, axis=0)
    spread = np.repeat(noise, dim // 2)
    return x + spread * generator.normal(size=x.shape), names


CANDIDATES = (
    BackendSettings(center=True),
    BackendSettings(wccn=0.1),
    BackendSettings(as_norm=4),
)


@pytest.mark.parametrize("criterion", ["eer", "min_dcf_0.05", "min_cllr"])
def test_what_helps_held_out_speakers_is_chosen_and_helps_new_ones(criterion):
    x, names = corpus()
    choice = choose_backend(x, names, CANDIDATES, criterion=criterion)
    assert choice.settings == BackendSettings(wccn=0.1)
    assert [row["name"] for row in choice.table] == [
        "cosine",
        "center",
        "wccn 0.1",
        "as-norm 4",
    ]
    assert [row["chosen"] for row in choice.table] == [False, False, True, False]
    for row in choice.table:
        assert row["eer"] == pytest.approx(np.mean(row["fold_eers"]))
        assert len(row["fold_eers"]) == 5
    assert choice.reason.startswith(f"mean {criterion} over 5 folds")
    new, new_names = corpus(seed=1)
    enroll, test, labels = cohort_trials(new_names)
    eers = [
        equal_error_rate(
            Backend(settings).fit(x, names).score(new, enroll, test), labels
        )[0]
        for settings in (choice.settings, RAW_COSINE)
    ]
    assert eers[0] < 0.5 * eers[1]


def test_the_raw_cosine_wins_what_is_equal():
    x, names = corpus(noise=(1e-3, 1e-3))
    choice = choose_backend(x, names, (BackendSettings(wccn=1.0), *CANDIDATES))
    assert choice.table[0]["eer"] == choice.table[1]["eer"] == 0.0
    assert choice.settings == RAW_COSINE


def test_no_backend_learns_from_the_speakers_it_is_measured_on(monkeypatch):
    x, names = corpus()
    speaker_of = {row.tobytes(): name for row, name in zip(x, names, strict=True)}
    learned, tested, seen = [], [], set()
    fit, score = Backend.fit, Backend.score

    def spy_fit(self, vectors, speakers):
        learned.append(set(speakers))
        assert {speaker_of[row.tobytes()] for row in vectors} == learned[-1]
        return fit(self, vectors, speakers)

    def spy_score(self, vectors, enroll, test):
        tested.append({speaker_of[row.tobytes()] for row in vectors})
        return score(self, vectors, enroll, test)

    monkeypatch.setattr(Backend, "fit", spy_fit)
    monkeypatch.setattr(Backend, "score", spy_score)
    choose_backend(x, names, CANDIDATES)
    assert len(learned) == len(tested) == 20
    for train, test in zip(learned, tested, strict=True):
        assert not train & test
        assert train | test == set(names)
        seen |= test
    assert seen == set(names)


def test_the_choice_is_a_function_of_the_seed():
    x, names = corpus()
    first = choose_backend(x, names, CANDIDATES, seed=3)
    assert choose_backend(x, names, CANDIDATES, seed=3) == first
    assert choose_backend(x, names, CANDIDATES, seed=4).table != first.table


def test_embeddings_without_direction_take_no_part():
    x, names = corpus()
    expected = choose_backend(x, names, CANDIDATES)
    bad = np.concatenate((x, np.full((3, 6), np.nan), np.zeros((1, 6))))
    assert choose_backend(bad, [*names, "s00", "s01", "x", "x"], CANDIDATES) == expected


def test_what_can_not_be_learned_is_a_row_with_the_reason():
    x, names = corpus(speakers=4, utterances=2)
    # A cohort of the two other speakers has spread, one without shrinkage has no rank.
    choice = choose_backend(x, names, (BackendSettings(wccn=0.0),), folds=2)
    row = choice.table[1]
    assert row["eer"] is None
    assert "singular" in row["error"]
    assert choice.settings == RAW_COSINE


@pytest.mark.parametrize("names", [[], ["a"], list("aabbcc"), list("aabbccdef")])
def test_too_few_speakers_keep_the_raw_cosine_and_say_so(names):
    choice = choose_backend(np.ones((len(names), 3)), names)
    assert choice.settings == RAW_COSINE
    assert choice.table == []
    assert "need four training speakers" in choice.reason
    with pytest.raises(ValueError, match="need four speakers"):
        held_out_scores(np.ones((len(names), 3)), names, RAW_COSINE)


def test_held_out_scores_are_those_of_the_folds():
    x, names = corpus()
    settings = BackendSettings(wccn=0.1)
    scores, labels = held_out_scores(x, names, settings, folds=4)
    assert scores.shape == labels.shape == (4 * 190,)
    assert labels.sum() == 16 * 10
    row = choose_backend(x, names, (settings,), folds=4).table[1]
    parts = zip(np.split(scores, 4), np.split(labels, 4), strict=True)
    assert row["fold_eers"] == [equal_error_rate(s, y)[0] for s, y in parts]


def test_steps_follow_each_other_as_their_formulas_say():
    x, names = corpus()
    enroll, test, _ = cohort_trials(names)
    units = backend.unit_vectors(x)
    centered = units - units.mean(axis=0)
    found = Backend(BackendSettings(center=True)).fit(x, names).score(x, enroll, test)
    np.testing.assert_array_equal(found, backend.cosine_scores(centered, enroll, test))
    settings = BackendSettings(wccn=1.0, as_norm=5)
    found = Backend(settings).fit(x, names).score(x, enroll, test)
    y = backend.WCCN(1.0).fit(x, names).transform(x)
    means, _ = backend.speaker_means(y, names)
    norm = backend.ASNorm(means, top=5)
    scores = backend.cosine_scores(y, enroll, test)
    np.testing.assert_array_equal(found, norm.normalise(scores, y, enroll, test))


@pytest.mark.parametrize(
    ("speakers", "tops"), [(30, []), (260, [100]), (800, [100, 300])]
)
def test_a_large_cohort_may_have_more_neighbours(speakers, tops):
    x, names = corpus(speakers=speakers, utterances=2)
    found = {row["as_norm"] for row in choose_backend(x, names, folds=2).table}
    assert found == {None, 10, 20, 30, *tops}


def test_bad_settings_are_refused():
    x, names = corpus()
    with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
        choose_backend(x, names, folds=1)
    with pytest.raises(ValueError, match="criterion must be one of eer"):
        choose_backend(x, names, criterion="accuracy")
    with pytest.raises(ValueError, match="80 vectors need as many speakers"):
        choose_backend(x, names[1:])
    with pytest.raises(ValueError, match="no usable training embedding"):
        Backend(BackendSettings(center=True)).fit(np.zeros((2, 3)), ["a", "b"])


@pytest.mark.parametrize("max_trials", [10, 60, 10**6])
def test_cohort_trials_are_pairs_that_come_once_and_no_more_than_asked(max_trials):
    names = [f"s{i % 7}" for i in range(40)]
    enroll, test, labels = cohort_trials(names, max_trials=max_trials)
    made = {tuple(sorted(pair)) for pair in zip(enroll, test, strict=True)}
    assert len(made) == enroll.size
    assert (enroll != test).all()
    assert labels.tolist() == [
        names[a] == names[b] for a, b in zip(enroll, test, strict=True)
    ]
    if max_trials == 10**6:
        assert enroll.size == 40 * 39 // 2
    else:
        assert max(labels.sum(), (~labels).sum()) <= max_trials // 2
        assert labels.any()
        assert not labels.all()


@pytest.mark.parametrize(
    "settings",
    [RAW_COSINE, *CANDIDATES, BackendSettings(center=True, wccn=1.0, as_norm=4)],
)
def test_what_was_learned_can_be_carried_away_and_scores_bit_for_bit_alike(settings):
    x, names = corpus()
    learned = Backend(settings).fit(x, names)
    carried = Backend.from_arrays(settings, learned.arrays())
    new = corpus(seed=1)[0]
    pairs = np.arange(20), np.arange(40, 60)
    assert np.array_equal(learned.score(new, *pairs), carried.score(new, *pairs))
    with pytest.raises(ValueError, match="needs the arrays"):
        Backend.from_arrays(settings, {**learned.arrays(), "other": x})
