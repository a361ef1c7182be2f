"""Trials sorted once, from which all figures of detection follow.

The sort is what costs: an EER, a minDCF, a DET curve and each draw of a bootstrap read
the same order. A trial is accepted if its score is *at least* the threshold.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import numpy as np

NanPolicy = Literal["count", "filter", "raise"]
NAN_POLICIES = ("count", "filter", "raise")


class ErrorRates(NamedTuple):
    """Both error rates at each threshold that makes a difference.

    ``thresholds`` rises strictly: the distinct scores, and last one above them all,
    where nothing is accepted. So ``far`` falls from 1 to 0 and ``frr`` rises from 0 to
    1; all three are float64, [num_distinct + 1]. Tied scores share one threshold.
    """

    far: np.ndarray
    frr: np.ndarray
    thresholds: np.ndarray


class Operating(NamedTuple):
    """What a threshold does: accept what scores at least ``threshold``."""

    far: float
    frr: float
    threshold: float


class CheckedTrials(NamedTuple):
    """Scores without NaN; from `check_trials`.

    ``kept`` holds the positions of the trials that are left, [num_kept], or None if all
    are.
    """

    scores: np.ndarray
    labels: np.ndarray
    kept: np.ndarray | None
    num_nan: int


def check_trials(
    scores: np.ndarray, labels: np.ndarray, nan: NanPolicy = "count"
) -> CheckedTrials:
    """Check scores and labels, and apply the policy for NaN.

    Arguments
    ---------
    scores : np.ndarray
        [num_trials]; the higher, the more alike. +-Inf are scores like others.
    labels : np.ndarray
        [num_trials]; True or 1 for a target trial, False or 0 for a non-target.
    nan : {"count", "filter", "raise"}
        "count": a NaN is an error against the system, a target's NaN becomes -Inf and a
        non-target's +Inf. "filter": those trials are left out, which flatters the
        system that made them. "raise": refuse.

    Raises
    ------
    ValueError
        If shapes or labels are wrong, one of the classes has no trial, there is a NaN
        under "raise", or the policy is not known.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if nan not in NAN_POLICIES:
        raise ValueError(
            f"scoring: nan must be one of {', '.join(NAN_POLICIES)}, got {nan!r}"
        )
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            "scoring: scores and labels must be [num_trials] and of one length, got "
            f"{list(scores.shape)} and {list(labels.shape)}"
        )
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    if labels.dtype != bool:
        strange = ~((labels == 0) | (labels == 1))
        if strange.any():
            raise ValueError(
                "scoring: labels must be 0 or 1, trial "
                f"{strange.argmax()} has {labels[strange.argmax()]!r}"
            )
        labels = labels.astype(bool)
    is_nan = np.isnan(scores)
    num_nan = int(np.count_nonzero(is_nan))
    kept = None
    if num_nan and nan == "raise":
        raise ValueError(
            f"scoring: {num_nan} of {scores.size} scores are NaN, the first is of "
            f"trial {is_nan.argmax()}; count them as errors with nan='count'"
        )
    if num_nan and nan == "count":
        scores = np.where(is_nan, np.where(labels, -np.inf, np.inf), scores)
    elif num_nan:
        kept = np.flatnonzero(~is_nan)
        scores, labels = scores[kept], labels[kept]
    num_targets = int(np.count_nonzero(labels))
    if not 0 < num_targets < labels.size:
        filtered = f" after {num_nan} NaN were left out" if kept is not None else ""
        raise ValueError(
            "scoring: error rates need target and non-target trials, got "
            f"{num_targets} targets and {labels.size - num_targets} non-targets"
            + filtered
        )
    return CheckedTrials(scores, labels, kept, num_nan)


def check_weights(weights: np.ndarray, num_trials: int) -> np.ndarray:
    """Return how often each trial counts as float64, [num_trials].

    Raises
    ------
    ValueError
        If there are more or fewer, or one is negative or not finite.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (num_trials,):
        raise ValueError(
            f"scoring: weights must be [{num_trials}], one for each trial, got "
            f"{list(weights.shape)}"
        )
    if not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ValueError("scoring: weights must be finite and not negative")
    return weights


class RankedScores:
    """Scores and labels of trials, sorted once.

    Arguments
    ---------
    scores, labels, nan
        As `check_trials` takes them.

    Attributes
    ----------
    num_targets, num_nontargets : int
        Trials that count; under ``nan="filter"`` those that are left.
    num_nan : int
        Scores that were NaN, whatever was done with them.

    Example
    -------
    >>> ranked = RankedScores(np.array([3.0, 1.0, 2.0, 0.0]), np.array([1, 1, 0, 0]))
    >>> ranked.equal_error_rate()
    (0.5, 2.0)
    """

    def __init__(
        self, scores: np.ndarray, labels: np.ndarray, *, nan: NanPolicy = "count"
    ):
        trials = check_trials(scores, labels, nan)
        order = np.argsort(trials.scores)
        ranked = trials.scores[order]
        self._size = np.asarray(scores).size
        self._labels = trials.labels[order]
        self._order = order if trials.kept is None else trials.kept[order]
        # Equality, not a difference: Inf - Inf is NaN.
        is_start = np.empty(ranked.size, dtype=bool)
        is_start[0] = True
        np.not_equal(ranked[1:], ranked[:-1], out=is_start[1:])
        self._starts = np.flatnonzero(is_start)
        with np.errstate(over="ignore"):  # beyond the largest float lies Inf
            # In the scores' own type: comparing with them must not round it down.
            above = np.nextafter(ranked[-1], ranked.dtype.type(np.inf))
        self._thresholds = np.append(ranked[self._starts], above).astype(np.float64)
        self.num_nan = trials.num_nan
        self.num_targets = int(np.count_nonzero(self._labels))
        self.num_nontargets = self._labels.size - self.num_targets

    def rates(self, weights: np.ndarray | None = None) -> ErrorRates:
        """Return the error rates at all thresholds.

        Arguments
        ---------
        weights : np.ndarray or None
            How often each trial counts, [num_trials] in the order in which the scores
            were given, >= 0. None: each once.

        Raises
        ------
        ValueError
            If weights have another length, a negative or non-finite number, or leave
            nothing of one class.
        """
        if weights is None:
            return self._rates
        ordered = check_weights(weights, self._size)[self._order]
        below = np.cumsum(np.where(self._labels, ordered, 0.0))
        below_nontargets = np.cumsum(np.where(self._labels, 0.0, ordered))
        if not (below[-1] > 0 and below_nontargets[-1] > 0):
            raise ValueError(
                "scoring: the weights leave no target or no non-target trial"
            )
        return self._at_thresholds(below, below_nontargets)

    @functools.cached_property
    def _rates(self) -> ErrorRates:
        below = np.cumsum(self._labels)
        return self._at_thresholds(below, np.arange(1, below.size + 1) - below)

    def _at_thresholds(self, targets: np.ndarray, nontargets: np.ndarray) -> ErrorRates:
        """Take cumulated counts, up to and with each trial, where scores change."""
        last = self._starts[1:] - 1  # of the trials below a threshold
        frr, far = np.zeros((2, self._thresholds.size))
        np.divide(targets[last], targets[-1], out=frr[1:-1])
        np.divide(nontargets[last], nontargets[-1], out=far[1:-1])
        frr[-1] = far[-1] = 1.0
        np.subtract(1.0, far, out=far)
        return ErrorRates(far, frr, self._thresholds)

    def equal_error_rate(
        self, weights: np.ndarray | None = None
    ) -> tuple[float, float]:
        """As `metrics.equal_error_rate`; ``weights`` as `rates` takes them."""
        far, frr, thresholds = self.rates(weights)
        excess = frr - far  # rises from -1 to 1
        after = int(np.searchsorted(excess, 0.0))
        before = after - 1
        share = excess[before] / (excess[before] - excess[after])
        eer = frr[before] + share * (frr[after] - frr[before])
        nearer = after if excess[after] < -excess[before] else before
        return float(eer), float(thresholds[nearer])

    def min_dcf(
        self,
        *,
        p_target: float = 0.01,
        c_miss: float = 1.0,
        c_fa: float = 1.0,
        weights: np.ndarray | None = None,
    ) -> tuple[float, float]:
        """As `metrics.min_dcf`; ``weights`` as `rates` takes them."""
        if not (0 < p_target < 1 and c_miss > 0 and c_fa > 0):
            raise ValueError(
                "scoring: p_target must be between 0 and 1 and the costs above 0, got "
                f"p_target={p_target}, c_miss={c_miss}, c_fa={c_fa}"
            )
        far, frr, thresholds = self.rates(weights)
        miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
        # Divided first, so that "accept nothing" and "accept all" cost exactly 1.
        least = min(miss, false_alarm)
        costs = (miss / least) * frr
        costs += (false_alarm / least) * far
        best = int(costs.argmin())
        return float(costs[best]), float(thresholds[best])

    def thresholds_at_far(
        self, fars: list[float], weights: np.ndarray | None = None
    ) -> list[Operating]:
        """As `metrics.thresholds_at_far`; ``weights`` as `rates` takes them."""
        far, frr, thresholds = self.rates(weights)
        points = []
        for wanted in fars:
            if not 0 <= wanted <= 1:
                raise ValueError(
                    f"scoring: a false alarm rate is between 0 and 1, got {wanted}"
                )
            # 3 of 300 is not 0.01 to the last bit, but it is what was asked for; rates
            # are differences to 1, so their rounding is that of 1.
            first = int(np.searchsorted(-far, -(wanted + 1e-14)))
            points.append(
                Operating(
                    float(far[first]), float(frr[first]), float(thresholds[first])
                )
            )
        return points

    def det_curve(self, *, max_points: int = 1000) -> ErrorRates:
        """As `metrics.det_curve`."""
        rates = self.rates()
        if rates.far.size <= max_points:
            return rates
        from scipy.special import ndtri

        # Evenly along the line that is drawn: on probit axes most thresholds fall on
        # few pixels. Rates beyond half a trial are off such axes.
        x = ndtri(np.clip(rates.far, *self._clip(self.num_nontargets)))
        y = ndtri(np.clip(rates.frr, *self._clip(self.num_targets)))
        length = np.concatenate(([0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))))
        marks = np.linspace(0.0, length[-1], max_points)
        chosen = np.unique(np.searchsorted(length, marks[:-1]))
        chosen = np.append(chosen[chosen < length.size - 1], length.size - 1)
        return ErrorRates(*(values[chosen] for values in rates))

    @staticmethod
    def _clip(count: int) -> tuple[float, float]:
        return 0.5 / count, 1 - 0.5 / count

    def min_cllr(self, weights: np.ndarray | None = None) -> float:
        """As `metrics.min_cllr`; ``weights`` as `rates` takes them."""
        from scipy.optimize import isotonic_regression
        from scipy.special import xlog1py, xlogy

        far, frr, _ = self.rates(weights)
        targets, nontargets = np.diff(frr), -np.diff(far)  # share at each score
        mass = targets + nontargets
        there = mass > 0
        targets, nontargets, mass = targets[there], nontargets[there], mass[there]
        posterior = isotonic_regression(targets / mass, weights=mass).x
        posterior = posterior.clip(0.0, 1.0)  # a mean of ones may round above one
        bits = xlogy(targets, posterior) + xlog1py(nontargets, -posterior)
        return float(-0.5 * bits.sum() / np.log(2.0)) + 0.0
