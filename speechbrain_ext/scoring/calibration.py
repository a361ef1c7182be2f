"""Scores to log-likelihood ratios, by logistic regression."""

from __future__ import annotations

import json
import math
import os

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json
from speechbrain_ext.scoring.ranking import check_trials


class Calibration:
    """Affine map from scores to natural log-likelihood ratios.

    ``log odds = slope * score + offset + logit(p_target)``, learned by scikit-learn's
    logistic regression with each class weighted by its prior (Brümmer & du Preez, 2006,
    sec. 5; the linear calibration of BOSARIS). It is to be learned on trials of
    training speakers, best of folds (`choice.held_out_scores`), never on a test list.
    The slope is positive, so calibration changes no ranking: EER and minDCF stay.

    Arguments
    ---------
    p_target : float
        Prior for which the map is best, in (0, 1).
    penalty : float
        Weight of half the squared slope, on scores of unit spread, beside the mean loss
        (> 0). It keeps the slope finite where training speakers are told apart without
        an error.

    Attributes
    ----------
    slope, offset : float
        The map; NaN before `fit`.
    num_left_out : int
        Trials not learned from, since their score is not finite.

    Example
    -------
    >>> scores, labels = np.array([2.0, 1.0, 1.5, 0.0]), np.array([1, 1, 0, 0])
    >>> ratios = Calibration().fit(scores, labels).transform(scores)
    >>> bool((ratios[[0, 2]] > ratios[[2, 3]]).all())
    True
    """

    def __init__(self, p_target: float = 0.5, *, penalty: float = 1e-6):
        if not (0 < p_target < 1 and penalty > 0):
            raise ValueError(
                "Calibration: p_target must be between 0 and 1 and penalty above 0, "
                f"got {p_target} and {penalty}"
            )
        self.p_target = p_target
        self.penalty = penalty
        self.slope = self.offset = math.nan
        self.num_left_out = 0

    def fit(self, scores: np.ndarray, labels: np.ndarray) -> Calibration:
        """Learn slope and offset.

        Arguments
        ---------
        scores : np.ndarray
            [num_trials]; those that are not finite are left out.
        labels : np.ndarray
            [num_trials]; True or 1 for a target trial.

        Returns
        -------
        Calibration
            Itself.

        Raises
        ------
        ValueError
            If a class is missing, all scores are equal, or targets score lower than
            non-targets: such scores mean the opposite of what they should.
        """
        from sklearn.linear_model import LogisticRegression

        scores = np.asarray(scores, dtype=np.float64)
        finite = np.where(np.isfinite(scores), scores, np.nan)
        finite, labels, _, self.num_left_out = check_trials(finite, labels, "filter")
        center, spread = finite.mean(), finite.std()
        if not spread > 0:
            raise ValueError(
                f"Calibration: all {finite.size} scores are {finite[0]:g}, there is "
                "nothing to learn"
            )
        num_targets = np.count_nonzero(labels)
        weights = np.where(
            labels,
            self.p_target / num_targets,
            (1 - self.p_target) / (labels.size - num_targets),
        )
        # Of unit spread: the penalty means the same for cosines and for AS-norm.
        model = LogisticRegression(
            C=1 / self.penalty, solver="newton-cholesky", tol=1e-8, max_iter=1000
        )
        model.fit(((finite - center) / spread)[:, None], labels, sample_weight=weights)
        slope = float(model.coef_[0, 0] / spread)
        if not slope > 0:
            raise ValueError(
                f"Calibration: the slope came out as {slope:.3g}, but targets must "
                "score higher than non-targets; check the labels"
            )
        prior = math.log(self.p_target / (1 - self.p_target))
        self.slope = slope
        self.offset = float(model.intercept_[0] - slope * center - prior)
        return self

    def transform(self, scores: np.ndarray) -> np.ndarray:
        """Map scores to natural log-likelihood ratios.

        Arguments
        ---------
        scores : np.ndarray
            Any shape; NaN and +-Inf stay what they are.

        Returns
        -------
        np.ndarray
            float64, of the same shape.

        Raises
        ------
        ValueError
            If neither `fit` nor `load` gave it a map.
        """
        if math.isnan(self.slope):
            raise ValueError("Calibration: call fit or load before transform")
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset

    def save(self, path: str | os.PathLike) -> None:
        """Write the map as JSON.

        Raises
        ------
        ValueError
            If there is none yet.
        """
        names = ("slope", "offset", "p_target", "penalty", "num_left_out")
        write_json(path, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Calibration:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            If the file can't be read, or holds no map with a finite positive slope.
        """
        try:
            with open(path, encoding="utf-8") as stream:
                found = json.load(stream)
            calibration = cls(found["p_target"], penalty=found["penalty"])
            calibration.slope = float(found["slope"])
            calibration.offset = float(found["offset"])
            calibration.num_left_out = int(found["num_left_out"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not a saved calibration ({error!r}); score again to make it"
            ) from error
        if not (0 < calibration.slope < math.inf and math.isfinite(calibration.offset)):
            raise UserError(
                f"{path}: slope must be finite and positive and offset finite, got "
                f"{calibration.slope} and {calibration.offset}; score again to make it"
            )
        return calibration
