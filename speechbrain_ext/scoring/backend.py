"""What is done to embeddings before and after the cosine, and how that is chosen.

The choice is made on folds of training speakers: what is learned is learned on the
others, and the held-out ones make the trials. Test speakers never enter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from speechbrain_ext.scoring.norm import (
    WCCN,
    ASNorm,
    cosine_scores,
    speaker_means,
    unit_vectors,
)
from speechbrain_ext.scoring.ranking import RankedScores

CRITERIA = ("eer", "min_dcf_0.05", "min_cllr")
#: Trials of one fold: more don't tell more, since speakers are few.
MAX_TRIALS = 200_000


@dataclasses.dataclass(frozen=True)
class BackendSettings:
    """Which steps a backend has; without any it is the raw cosine.

    Arguments
    ---------
    center : bool
        Subtract the mean of the training embeddings (each of unit length).
    wccn : float or None
        Shrinkage of `norm.WCCN`; None: without.
    as_norm : int or None
        ``top`` of `norm.ASNorm` over the means of the training speakers; None: without.
    """

    center: bool = False
    wccn: float | None = None
    as_norm: int | None = None

    @property
    def name(self) -> str:
        """What a table calls it.

        Example
        -------
        >>> BackendSettings(wccn=1.0, as_norm=20).name
        'wccn 1 + as-norm 20'
        """
        steps = [
            "center" if self.center else "",
            "" if self.wccn is None else f"wccn {self.wccn:g}",
            "" if self.as_norm is None else f"as-norm {self.as_norm}",
        ]
        return " + ".join(filter(None, steps)) or "cosine"


RAW_COSINE = BackendSettings()
CANDIDATES = (
    RAW_COSINE,
    BackendSettings(center=True),
    *(BackendSettings(wccn=shrinkage) for shrinkage in (0.1, 0.3, 1.0, 3.0)),
    *(BackendSettings(as_norm=top) for top in (10, 20, 30)),
    *(BackendSettings(wccn=1.0, as_norm=top) for top in (10, 20, 30)),
)


class Backend:
    """A chain from embeddings to scores, learned from training speakers.

    Arguments
    ---------
    settings : BackendSettings
        Its steps.

    Example
    -------
    >>> vectors = np.random.default_rng(0).normal(size=(8, 3))
    >>> backend = Backend(BackendSettings(wccn=1.0)).fit(vectors, list("aabbccdd"))
    >>> backend.score(vectors, np.array([0]), np.array([1])).shape
    (1,)
    """

    def __init__(self, settings: BackendSettings = RAW_COSINE):
        self.settings = settings
        self._mean: np.ndarray | None = None
        self._wccn: WCCN | None = None
        self._as_norm: ASNorm | None = None

    def fit(self, vectors: np.ndarray, speakers: Sequence[str]) -> Backend:
        """Learn all steps.

        Arguments
        ---------
        vectors : np.ndarray
            Embeddings of training speakers, [num_utterances, dim]; rows that are zero
            or not finite are left out.
        speakers : sequence of str
            Who speaks, [num_utterances].

        Returns
        -------
        Backend
            Itself.

        Raises
        ------
        ValueError
            If there is too little to learn from; see `norm.WCCN` and `norm.ASNorm`.
        """
        if self.settings.center:
            units = unit_vectors(vectors)
            usable = ~np.isnan(units).any(axis=1)
            if not usable.any():
                raise ValueError("scoring: no usable training embedding to centre on")
            self._mean = units[usable].mean(axis=0)
        if self.settings.wccn is not None:
            centered = self._centered(vectors)
            self._wccn = WCCN(self.settings.wccn).fit(centered, speakers)
        if self.settings.as_norm is not None:
            means, _ = speaker_means(self.transform(vectors), speakers)
            self._as_norm = ASNorm(means, top=self.settings.as_norm)
        return self

    def _centered(self, vectors: np.ndarray) -> np.ndarray:
        return vectors if self._mean is None else unit_vectors(vectors) - self._mean

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        """Do what comes before the cosine, [num_utterances, dim] to the same."""
        vectors = self._centered(vectors)
        return vectors if self._wccn is None else self._wccn.transform(vectors)

    def score(
        self, vectors: np.ndarray, enroll: np.ndarray, test: np.ndarray
    ) -> np.ndarray:
        """Score trials.

        Arguments
        ---------
        vectors : np.ndarray
            One embedding for each utterance, as the encoder made it, [num_utterances,
            dim].
        enroll, test : np.ndarray
            Rows of ``vectors``, integers, [num_trials].

        Returns
        -------
        np.ndarray
            [num_trials]: cosines (float32), or after AS-norm standard deviations
            (float64); NaN where an embedding is zero or not finite.

        Raises
        ------
        ValueError
            If shapes are wrong, or AS-norm finds no spread.
        """
        vectors = self.transform(vectors)
        scores = cosine_scores(vectors, enroll, test)
        if self._as_norm is None:
            return scores
        return self._as_norm.normalise(scores, vectors, enroll, test)


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


def choose_backend(
    vectors: np.ndarray,
    speakers: Sequence[str],
    candidates: Sequence[BackendSettings] = CANDIDATES,
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
    candidates : sequence of BackendSettings
        What to choose from; the raw cosine is always among them. Of equals the first
        wins.
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
    candidates = list(dict.fromkeys([RAW_COSINE, *candidates]))
    parts = _folds(vectors, speakers, folds, seed)
    if not parts:
        return Choice(
            RAW_COSINE,
            [],
            "two folds need four training speakers with two usable utterances each: "
            "the raw cosine stays",
        )
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
