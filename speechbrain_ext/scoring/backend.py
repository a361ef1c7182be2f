"""What is done to embeddings before and after the cosine, and how that is chosen.

The choice is made on folds of training speakers: what is learned is learned on the
others, and the held-out ones make the trials. Test speakers never enter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from speechbrain_ext.scoring.norm import (
    WCCN,
    ASNorm,
    cosine_scores,
    speaker_means,
    unit_vectors,
)
from speechbrain_ext.scoring.ranking import RankedScores

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
    if folds < 2 or criterion not in ("eer", "min_dcf_0.05", "min_cllr"):
        raise ValueError(
            "scoring: folds must be at least 2 and criterion eer, min_dcf_0.05 or "
            f"min_cllr, got {folds} and {criterion!r}"
        )
    candidates = list(dict.fromkeys([RAW_COSINE, *candidates]))
    # Trials with NaN would tell the network's faults, not the backend's.
    usable = ~np.isnan(unit_vectors(vectors)).any(axis=1)
    if len(speakers) != len(usable):
        raise ValueError(
            f"scoring: {len(usable)} vectors need as many speakers, got {len(speakers)}"
        )
    vectors, speakers = np.asarray(vectors)[usable], np.asarray(speakers)[usable]
    names, counts = np.unique(speakers, return_counts=True)
    names = names[counts >= 2]
    folds = min(folds, names.size // 2)
    if folds < 2:
        return Choice(
            RAW_COSINE,
            [],
            f"only {names.size} training speakers have two usable utterances, and two "
            "folds need four: the raw cosine stays",
        )
    generator = np.random.default_rng(seed)
    generator.shuffle(names)
    rows = [_row(settings) for settings in candidates]
    for held_out in (names[fold::folds] for fold in range(folds)):
        is_held_out = np.isin(speakers, held_out)
        trials = _all_pairs(speakers[is_held_out], generator)
        for settings, row in zip(candidates, rows, strict=True):
            _measure(
                row,
                Backend(settings),
                (vectors[~is_held_out], speakers[~is_held_out].tolist()),
                (vectors[is_held_out], *trials),
            )
    for row in rows:
        measured = row.pop("folds")
        row["fold_eers"] = [fold["eer"] for fold in measured]
        if row["error"] is None:
            for key in ("eer", "min_dcf_0.05", "min_cllr"):
                row[key] = float(np.mean([fold[key] for fold in measured]))
    # The sort is stable and the raw cosine the first, so it wins whatever is equal.
    learned = [row for row in rows if row["error"] is None]
    best = min(learned, key=lambda row: row[criterion])
    best["chosen"] = True
    raw = rows[0]
    reason = (
        f"mean {criterion} over {folds} folds of {names.size} training speakers: "
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


def _measure(row: dict, backend: Backend, training: tuple, trials: tuple) -> None:
    vectors, enroll, test, labels = trials
    try:
        scores = backend.fit(*training).score(vectors, enroll, test)
        ranked = RankedScores(scores, labels, nan="raise")
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


def _all_pairs(
    speakers: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both sides of all pairs, and whether the speaker is the same."""
    enroll, test = np.triu_indices(speakers.size, k=1)
    _, codes = np.unique(speakers, return_inverse=True)
    labels = codes[enroll] == codes[test]
    chosen = []
    for part in (np.flatnonzero(labels), np.flatnonzero(~labels)):
        if part.size > MAX_TRIALS // 2:
            part = generator.choice(part, MAX_TRIALS // 2, replace=False)
        chosen.append(np.sort(part))
    kept = np.concatenate(chosen)
    return enroll[kept], test[kept], labels[kept]
