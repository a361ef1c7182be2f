"""From embeddings to scores: cosine, WCCN, AS-norm.

What is learned is learned from training speakers; nothing here sees a label of a trial.
An embedding that is not finite, or zero, has no direction: every score it takes part in
is NaN, which `metrics` counts as an error, and nothing that is learned contains it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Cosines to the cohort that spread less than this are rounding of equal numbers.
SMALLEST_SPREAD = 1e-6
#: Utterances compared with the whole cohort at a time.
BLOCK_UTTERANCES = 256


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Divide embeddings by their length.

    Arguments
    ---------
    vectors : np.ndarray
        [num_utterances, dim], of any size that its type can hold.

    Returns
    -------
    np.ndarray
        float64, [num_utterances, dim]; NaN in rows that are zero or not finite.

    Raises
    ------
    ValueError
        If ``vectors`` is not two-dimensional.

    Example
    -------
    >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]])).round(1).tolist()
    [[0.6, 0.8], [nan, nan]]
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2:
        raise ValueError(
            f"scoring: vectors must be [num_utterances, dim], got {list(vectors.shape)}"
        )
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    usable = np.isfinite(largest) & (largest > 0)
    # By the largest number first, so that no square overflows or vanishes.
    scaled = np.divide(
        vectors, largest, out=np.full_like(vectors, np.nan), where=usable
    )
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def cosine_scores(
    vectors: np.ndarray, enroll: np.ndarray, test: np.ndarray, *, chunk: int = 2048
) -> np.ndarray:
    """Cosine of the angle between the embeddings of each trial.

    Arguments
    ---------
    vectors : np.ndarray
        One embedding for each utterance, [num_utterances, dim].
    enroll, test : np.ndarray
        Rows of ``vectors``, integers, [num_trials].
    chunk : int
        Trials computed at a time (> 0): what fits into the processor's cache is three
        times as fast as 65536. A score does not depend on it.

    Returns
    -------
    np.ndarray
        float32 in [-1, 1], [num_trials]; NaN where either embedding is zero or not
        finite.

    Raises
    ------
    ValueError
        If shapes are wrong, or a row is negative or beyond the last.

    Example
    -------
    >>> vectors = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0]])
    >>> cosine_scores(vectors, np.array([0, 0]), np.array([1, 2])).round(3).tolist()
    [0.7070000171661377, nan]
    """
    units = unit_vectors(vectors).astype(np.float32)
    enroll, test = _checked_rows(enroll, test, len(units))
    scores = np.empty(enroll.size, dtype=np.float32)
    for start in range(0, enroll.size, chunk):
        part = slice(start, start + chunk)
        np.einsum("ij,ij->i", units[enroll[part]], units[test[part]], out=scores[part])
    return np.clip(scores, -1.0, 1.0, out=scores)


def _checked_rows(
    enroll: np.ndarray, test: np.ndarray, num_utterances: int
) -> tuple[np.ndarray, np.ndarray]:
    enroll, test = np.asarray(enroll), np.asarray(test)
    if enroll.ndim != 1 or enroll.shape != test.shape:
        raise ValueError(
            "scoring: enroll and test must be [num_trials] and of one length, got "
            f"{list(enroll.shape)} and {list(test.shape)}"
        )
    for name, rows in (("enroll", enroll), ("test", test)):
        if rows.size and not (rows.min() >= 0 and rows.max() < num_utterances):
            raise ValueError(
                f"scoring: {name} names rows from {rows.min()} to {rows.max()}, but "
                f"there are {num_utterances} vectors"
            )
    return enroll, test


def speaker_means(
    vectors: np.ndarray, speakers: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Mean direction of each speaker's embeddings: a cohort of one vector a speaker.

    Arguments
    ---------
    vectors : np.ndarray
        [num_utterances, dim]; rows that are zero or not finite are left out.
    speakers : sequence of str
        Who speaks, [num_utterances].

    Returns
    -------
    tuple of np.ndarray and list of str
        float64 [num_speakers, dim] and the speakers' names, sorted; speakers of whom
        nothing is left are not among them.

    Raises
    ------
    ValueError
        If there are not as many speakers as vectors.
    """
    units, codes, names = _by_speaker(vectors, speakers)
    return _sums(units, codes, len(names)) / np.bincount(codes)[:, None], names


def _by_speaker(
    vectors: np.ndarray, speakers: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Usable unit vectors, number of the speaker of each, names by number."""
    units = unit_vectors(vectors)
    if len(speakers) != len(units):
        raise ValueError(
            f"scoring: {len(units)} vectors need as many speakers, got {len(speakers)}"
        )
    usable = ~np.isnan(units[:, 0])
    names, codes = np.unique(np.asarray(speakers)[usable], return_inverse=True)
    return units[usable], codes, names.tolist()


def _sums(units: np.ndarray, codes: np.ndarray, num_speakers: int) -> np.ndarray:
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(num_speakers))
    return np.add.reduceat(units[order], starts, axis=0)


class WCCN:
    """Within-class covariance normalisation of unit-length embeddings.

    Hatch, Kajarekar & Stolcke, 2006; Dehak et al., 2011, sec. III-B2: ``x -> B^T x``
    with ``B B^T = W^-1``, where ``W`` is the mean over speakers of the covariance
    within a speaker. Few speakers make ``W`` singular, so ``shrinkage * mean(diag(W))``
    is added to its diagonal: 0 is the plain method, a large number leaves the cosine as
    it is.

    Arguments
    ---------
    shrinkage : float
        As said (>= 0).

    Example
    -------
    >>> vectors = np.random.default_rng(0).normal(size=(8, 3))
    >>> WCCN(1.0).fit(vectors, list("aabbccdd")).transform(vectors).shape
    (8, 3)
    """

    def __init__(self, shrinkage: float = 1.0):
        if not shrinkage >= 0:
            raise ValueError(f"WCCN: shrinkage must be >= 0, got {shrinkage}")
        self.shrinkage = shrinkage
        self.projection: np.ndarray | None = None

    def fit(self, vectors: np.ndarray, speakers: Sequence[str]) -> WCCN:
        """Learn the projection from training speakers.

        Arguments
        ---------
        vectors : np.ndarray
            [num_utterances, dim]; rows that are zero or not finite are left out, and so
            are speakers with one utterance.
        speakers : sequence of str
            Who speaks, [num_utterances].

        Returns
        -------
        WCCN
            Itself.

        Raises
        ------
        ValueError
            If no speaker has two utterances, or the covariance is singular.
        """
        units, codes, names = _by_speaker(vectors, speakers)
        counts = np.bincount(codes, minlength=len(names))
        several = counts >= 2
        if not several.any():
            raise ValueError(
                "WCCN: no speaker has two usable utterances to learn from; of "
                f"{len(names)} speakers each has one"
            )
        deviations = units - (_sums(units, codes, len(names)) / counts[:, None])[codes]
        # Each speaker weighs alike, however many utterances there are.
        weights = np.where(several, 1.0 / counts, 0.0)[codes] / several.sum()
        within = (deviations * weights[:, None]).T @ deviations
        within[np.diag_indices_from(within)] += (
            self.shrinkage * within.trace() / len(within)
        )
        try:
            # W = L L^T, so B = L^-T fulfils B B^T = W^-1, and B^T x is L^-1 x.
            inverse = np.linalg.inv(np.linalg.cholesky(within))
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "WCCN: the covariance within speakers is singular with shrinkage "
                f"{self.shrinkage}: {several.sum()} speakers with {len(units)} "
                "utterances are too few; take a larger shrinkage, for example 1"
            ) from error
        self.projection = inverse.T
        return self

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        """Project embeddings; their cosine is then the score.

        Arguments
        ---------
        vectors : np.ndarray
            [num_utterances, dim].

        Returns
        -------
        np.ndarray
            float64, [num_utterances, dim]; NaN in rows that are zero or not finite.

        Raises
        ------
        ValueError
            If `fit` was not called, or ``dim`` is another.
        """
        if self.projection is None:
            raise ValueError("WCCN: call fit with training speakers before transform")
        units = unit_vectors(vectors)
        if units.shape[1] != len(self.projection):
            raise ValueError(
                f"WCCN: learned on {len(self.projection)} dimensions, got "
                f"{units.shape[1]}"
            )
        return units @ self.projection


class ASNorm:
    """Adaptive symmetric normalisation of cosine scores by a cohort of impostors.

    Matejka et al., 2017, "Analysis of score normalization in multilingual speaker
    recognition", eq. 5 ("adaptive S-norm 1"): a score is measured in standard
    deviations above the mean of the ``top`` highest scores that an utterance has with
    the cohort; the mean of this for both utterances of the trial. The statistics belong
    to an utterance, so they are computed once for each and not once for each trial.

    Arguments
    ---------
    cohort : np.ndarray
        Embeddings of speakers who are in no trial, or their `speaker_means`,
        [num_cohort, dim]. Rows that are zero or not finite are left out; `left_out`
        holds their numbers.
    top : int
        Nearest cohort members that count (>= 2); all, if there are fewer.

    Raises
    ------
    ValueError
        If fewer than two usable vectors are in the cohort, or ``top`` is below 2: one
        number has no spread.
    """

    def __init__(self, cohort: np.ndarray, *, top: int = 300):
        units = unit_vectors(cohort)
        usable = ~np.isnan(units[:, :1]).any(axis=1)
        self.left_out = np.flatnonzero(~usable).tolist()
        self.cohort = units[usable].astype(np.float32)
        if top < 2 or len(self.cohort) < 2:
            raise ValueError(
                "ASNorm: needs top >= 2 and a cohort of at least 2 usable vectors, got "
                f"top={top} and {len(self.cohort)} vectors ({len(self.left_out)} more "
                "are zero or not finite)"
            )
        self.top = min(top, len(self.cohort))

    def statistics(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of each utterance's scores with its nearest of the cohort.

        Arguments
        ---------
        vectors : np.ndarray
            [num_utterances, dim].

        Returns
        -------
        tuple of np.ndarray
            Mean and standard deviation, float64, [num_utterances] each; NaN for
            utterances that are zero or not finite.

        Raises
        ------
        ValueError
            If ``dim`` is not the cohort's, or an utterance has the same score with all
            of its nearest: there is no spread to divide by.
        """
        units = unit_vectors(vectors).astype(np.float32)
        if units.shape[1] != self.cohort.shape[1]:
            raise ValueError(
                f"ASNorm: the cohort has {self.cohort.shape[1]} dimensions, the "
                f"utterances {units.shape[1]}"
            )
        usable = np.flatnonzero(~np.isnan(units[:, 0]))
        mean, spread = np.full((2, len(units)), np.nan)
        lowest = len(self.cohort) - self.top
        for start in range(0, usable.size, BLOCK_UTTERANCES):
            rows = usable[start : start + BLOCK_UTTERANCES]
            scores = units[rows] @ self.cohort.T
            scores.partition(lowest, axis=1)
            nearest = scores[:, lowest:].astype(np.float64)
            mean[rows], spread[rows] = nearest.mean(axis=1), nearest.std(axis=1)
        flat = np.flatnonzero(spread < SMALLEST_SPREAD)
        if flat.size:
            raise ValueError(
                f"ASNorm: {flat.size} utterances, the first in row {flat[0]}, have one "
                f"and the same score with their {self.top} nearest of "
                f"{len(self.cohort)} in the cohort, so there is no spread to divide "
                "by; leave duplicates out of the cohort or take a larger top"
            )
        return mean, spread

    def normalise(
        self,
        scores: np.ndarray,
        vectors: np.ndarray,
        enroll: np.ndarray,
        test: np.ndarray,
    ) -> np.ndarray:
        """As `as_norm`, with the cohort and ``top`` of this object."""
        enroll, test = _checked_rows(enroll, test, len(vectors))
        scores = np.asarray(scores)
        if scores.shape != enroll.shape:
            raise ValueError(
                f"ASNorm: {enroll.size} trials need as many scores, got "
                f"{list(scores.shape)}"
            )
        mean, spread = self.statistics(vectors)
        # s / d - m / d for either side: one multiplication and addition a trial.
        scale, offset = 0.5 / spread, -0.5 * mean / spread
        normalised = scores * (scale[enroll] + scale[test])
        normalised += offset[enroll] + offset[test]
        return normalised


def as_norm(
    scores: np.ndarray,
    vectors: np.ndarray,
    enroll: np.ndarray,
    test: np.ndarray,
    cohort: np.ndarray,
    *,
    top: int = 300,
) -> np.ndarray:
    """Normalise cosine scores by a cohort; see `ASNorm`.

    Arguments
    ---------
    scores : np.ndarray
        `cosine_scores` of the trials, [num_trials].
    vectors : np.ndarray
        One embedding for each utterance, [num_utterances, dim].
    enroll, test : np.ndarray
        Rows of ``vectors``, integers, [num_trials].
    cohort : np.ndarray
        [num_cohort, dim]: speakers who are in no trial.
    top : int
        Nearest cohort members that count (>= 2).

    Returns
    -------
    np.ndarray
        float64, [num_trials], in standard deviations; NaN where the score is or an
        utterance is zero or not finite.

    Raises
    ------
    ValueError
        As `ASNorm` and its `ASNorm.statistics` raise it, or if shapes are wrong.
    """
    return ASNorm(cohort, top=top).normalise(scores, vectors, enroll, test)
