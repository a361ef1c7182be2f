"""What is done to embeddings before and after the cosine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from speechbrain_ext.scoring.norm import (
    WCCN,
    ASNorm,
    cosine_scores,
    speaker_means,
    unit_vectors,
)


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
        self._cohort: np.ndarray | None = None
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
            self._cohort, _ = speaker_means(self.transform(vectors), speakers)
            self._as_norm = ASNorm(self._cohort, top=self.settings.as_norm)
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what was learned, for `from_arrays`; float64.

        ``mean`` [dim], ``wccn`` [dim, dim] and ``cohort`` [num_speakers, dim], each if
        the backend has that step. No utterance and no name is in it.
        """
        wccn = None if self._wccn is None else self._wccn.projection
        found = {"mean": self._mean, "wccn": wccn, "cohort": self._cohort}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def from_arrays(
        cls, settings: BackendSettings, arrays: Mapping[str, np.ndarray]
    ) -> Backend:
        """Make a backend of what another one has learned; it scores bit for bit alike.

        Raises
        ------
        ValueError
            If the arrays are not those of these settings.
        """
        wanted = {
            "mean": settings.center,
            "wccn": settings.wccn is not None,
            "cohort": settings.as_norm is not None,
        }
        expected = {name for name, is_needed in wanted.items() if is_needed}
        if set(arrays) != expected:
            raise ValueError(
                f"Backend: {settings.name} needs the arrays {sorted(expected)}, got "
                f"{sorted(arrays)}"
            )
        backend = cls(settings)
        backend._mean, backend._cohort = arrays.get("mean"), arrays.get("cohort")
        if settings.wccn is not None:
            backend._wccn = WCCN(settings.wccn)
            backend._wccn.projection = arrays["wccn"]
        if settings.as_norm is not None:
            backend._as_norm = ASNorm(backend._cohort, top=settings.as_norm)
        return backend

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
