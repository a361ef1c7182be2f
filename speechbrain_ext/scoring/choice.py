"""Which backend is best for training speakers that it has not learned from.

What is learned is learned on some folds of the training speakers, and those held out
make the trials. Test speakers never enter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from speechbrain_ext.scoring.backend import RAW_COSINE, Backend, BackendSettings
from speechbrain_ext.scoring.norm import unit_vectors
from speechbrain_ext.scoring.ranking import RankedScores

CRITERIA = ("eer", "min_dcf_0.05", "min_cllr")
#: Trials of one fold: more don't tell more, since speakers are few.
MAX_TRIALS = 200_000
#: Neighbours that AS-norm may take; where a cohort has more speakers, the large, too.
TOPS, LARGE_TOPS = (10, 20, 30), (100, 300)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which backend was chosen, and the figures of all candidates.

    ``table`` has one row for each candidate: ``name``, the settings, ``chosen``,
    ``eer``, ``min_dcf_0.05`` and ``min_cllr`` (means over the folds), ``fold_eers``; or
    ``error``, why it could not be learned, and None for the figures. ``reason`` says in
    words why the chosen one was.
    """

    settings: BackendSettings
    table: list[dict]
    reason: str


def usual_candidates(num_speakers: int) -> tuple[BackendSettings, ...]:
    """Return what is tried with a cohort of so many speakers; the raw cosine first."""
    tops = *TOPS, *(top for top in LARGE_TOPS if top < num_speakers)
    return (
        RAW_COSINE,
        BackendSettings(center=True),
        *(BackendSettings(wccn=shrinkage) for shrinkage in (0.1, 0.3, 1.0, 3.0)),
        *(BackendSettings(as_norm=top) for top in tops),
        *(BackendSettings(wccn=1.0, as_norm=top) for top in tops),
    )


def choose_backend(
    vectors: np.ndarray,
    speakers: Sequence[str],
    candidates: Sequence[BackendSettings] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    criterion: Literal["eer", "min_dcf_0.05", "min_cllr"] = "eer",
) -> Choice:
    """Choose a backend on folds of training speakers.

    Each speaker is held out once. The held-out speakers' utterances, all pairs of them,
    are the trials; a backend is learned on the other speakers. The mean over the folds
    decides; another candidate must be better than the raw cosine, or the cosine stays.

    Arguments
    ---------
    vectors : np.ndarray
        Embeddings of training speakers, [num_utterances, dim].
    speakers : sequence of str
        Who speaks, [num_utterances].
    candidates : sequence of BackendSettings or None
        What to choose from; the raw cosine is always among them. Of equals the first
        wins. None: `usual_candidates` for the speakers that each fold learns from.
    folds : int
        Parts (>= 2); fewer, if there are not two speakers with two utterances for each.
    seed : int
        Of the order in which speakers are dealt to folds.
    criterion : {"eer", "min_dcf_0.05", "min_cllr"}
        What decides.

    Returns
    -------
    Choice
        The raw cosine with an empty table and the reason, if fewer than four speakers
        have two usable utterances.

    Raises
    ------
    ValueError
        If there are not as many speakers as vectors, or ``folds`` is below 2.
    """
    if criterion not in CRITERIA:
        raise ValueError(
            f"scoring: criterion must be one of {', '.join(CRITERIA)}, got "
            f"{criterion!r}"
        )
    parts = _folds(vectors, speakers, folds, seed)
    if not parts:
        return Choice(
            RAW_COSINE,
            [],
            "two folds need four training speakers with two usable utterances each: "
            "the raw cosine stays",
        )
    if candidates is None:
        candidates = usual_candidates(
            min(len(set(part.training_speakers)) for part in parts)
        )
    candidates = list(dict.fromkeys([RAW_COSINE, *candidates]))
    rows = [_row(settings) for settings in candidates]
    for fold in parts:
        for settings, row in zip(candidates, rows, strict=True):
            _measure(row, Backend(settings), fold)
    for row in rows:
        measured = row.pop("folds")
        row["fold_eers"] = [fold["eer"] for fold in measured]
        if row["error"] is None:
            for key in CRITERIA:
                row[key] = float(np.mean([fold[key] for fold in measured]))
    # The sort is stable and the raw cosine the first, so it wins whatever is equal.
    learned = [row for row in rows if row["error"] is None]
    best = min(learned, key=lambda row: row[criterion])
    best["chosen"] = True
    raw = rows[0]
    reason = (
        f"mean {criterion} over {len(parts)} folds of training speakers: "
        f"{best['name']} {best[criterion]:.5f}, raw cosine {raw[criterion]:.5f}"
    )
    return Choice(candidates[rows.index(best)], rows, reason)


def _row(settings: BackendSettings) -> dict:
    return {
        "name": settings.name,
        **dataclasses.asdict(settings),
        "chosen": False,
        "eer": None,
        "min_dcf_0.05": None,
        "min_cllr": None,
        "error": None,
        "folds": [],
    }


def _measure(row: dict, backend: Backend, fold: _Fold) -> None:
    try:
        ranked = RankedScores(fold.score(backend), fold.labels, nan="raise")
    except ValueError as error:  # too few speakers for this candidate
        row["error"] = row["error"] or str(error)
        return
    row["folds"].append(
        {
            "eer": ranked.equal_error_rate()[0],
            "min_dcf_0.05": ranked.min_dcf(p_target=0.05)[0],
            "min_cllr": ranked.min_cllr(),
        }
    )


class _Fold(NamedTuple):
    """Speakers to learn from, and trials of the others."""

    training_vectors: np.ndarray
    training_speakers: list[str]
    vectors: np.ndarray
    enroll: np.ndarray
    test: np.ndarray
    labels: np.ndarray

    def score(self, backend: Backend) -> np.ndarray:
        backend.fit(self.training_vectors, self.training_speakers)
        return backend.score(self.vectors, self.enroll, self.test)


def _folds(
    vectors: np.ndarray, speakers: Sequence[str], folds: int, seed: int
) -> list[_Fold]:
    """Deal the speakers to folds; none if there are too few for two."""
    # Trials with NaN would tell the network's faults, not the backend's.
    usable = ~np.isnan(unit_vectors(vectors)).any(axis=1)
    if len(speakers) != len(usable):
        raise ValueError(
            f"scoring: {len(usable)} vectors need as many speakers, got {len(speakers)}"
        )
    if folds < 2:
        raise ValueError(f"scoring: folds must be at least 2, got {folds}")
    vectors, speakers = np.asarray(vectors)[usable], np.asarray(speakers)[usable]
    names, counts = np.unique(speakers, return_counts=True)
    names = names[counts >= 2]
    np.random.default_rng(seed).shuffle(names)
    folds = min(folds, names.size // 2)
    parts = []
    for number in range(folds if folds >= 2 else 0):
        out = np.isin(speakers, names[number::folds])
        pairs = cohort_trials(speakers[out].tolist(), seed=seed)
        parts.append(
            _Fold(vectors[~out], speakers[~out].tolist(), vectors[out], *pairs)
        )
    return parts


def cohort_trials(
    speakers: Sequence[str], *, seed: int = 0, max_trials: int = MAX_TRIALS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair the utterances of a cohort with each other.

    Arguments
    ---------
    speakers : sequence of str
        Who speaks, [num_utterances].
    seed : int
        Of the selection, where there are more pairs than wanted.
    max_trials : int
        At most half as many targets, and half as many non-targets, drawn without
        replacement.

    Returns
    -------
    tuple of np.ndarray
        Rows of both sides, int64, and whether they are of one speaker, bool,
        [num_trials] each. No utterance meets itself, and no pair comes twice.

    Example
    -------
    >>> enroll, test, labels = cohort_trials(["ann", "ann", "bob"])
    >>> sorted(zip(enroll.tolist(), test.tolist(), labels.tolist()))
    [(0, 1, True), (0, 2, False), (1, 2, False)]
    """
    generator = np.random.default_rng(seed)
    _, codes = np.unique(np.asarray(speakers), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    first, second = [], []
    for members in groups:
        a, b = np.triu_indices(members.size, k=1)
        first.append(members[a])
        second.append(members[b])
    targets = np.stack([np.concatenate(first), np.concatenate(second)])
    if codes.size * (codes.size - 1) // 2 - targets.shape[1] <= 10 * max_trials:
        pairs = np.stack(np.triu_indices(codes.size, k=1))
        nontargets = pairs[:, codes[pairs[0]] != codes[pairs[1]]]
    else:
        # All pairs would not fit into memory; a random few hardly ever come twice.
        drawn = np.sort(
            generator.integers(codes.size, size=(2, 2 * max_trials)), axis=0
        )
        drawn = np.unique(drawn, axis=1)
        nontargets = drawn[:, codes[drawn[0]] != codes[drawn[1]]]
    kept = []
    for pairs in (targets, nontargets):
        if pairs.shape[1] > max_trials // 2:
            chosen = generator.choice(pairs.shape[1], max_trials // 2, replace=False)
            pairs = pairs[:, np.sort(chosen)]
        kept.append(pairs)
    enroll, test = np.concatenate(kept, axis=1)
    return enroll, test, codes[enroll] == codes[test]


def held_out_scores(
    vectors: np.ndarray,
    speakers: Sequence[str],
    settings: BackendSettings,
    *,
    folds: int = 5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Score training speakers by backends that did not learn from them.

    What `calibration.Calibration` learns from: scores of speakers whom the backend has
    seen are better than those it will give to others.

    Arguments
    ---------
    vectors, speakers, folds, seed
        As in `choose_backend`.
    settings : BackendSettings
        The backend.

    Returns
    -------
    tuple of np.ndarray
        Scores and labels of all folds, [num_trials] each.

    Raises
    ------
    ValueError
        If fewer than four speakers have two usable utterances, or a fold has too little
        to learn from.
    """
    parts = _folds(vectors, speakers, folds, seed)
    if not parts:
        raise ValueError(
            "scoring: two folds need four speakers with two usable utterances each"
        )
    scores, labels = [], []
    for fold in parts:
        scores.append(fold.score(Backend(settings)))
        labels.append(fold.labels)
    return np.concatenate(scores), np.concatenate(labels)
