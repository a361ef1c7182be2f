"""Figures of speaker verification: EER, minDCF, Cllr, thresholds, DET curve.

No figure improves because of a NaN: by default a NaN is an error against the system
(`ranking.check_trials`). SpeechBrain's own ``EER`` and ``minDCF`` become 0.0 by it.
Several figures of the same trials cost one sort if they are asked of one
`ranking.RankedScores`.
"""

from __future__ import annotations

import numpy as np

from speechbrain_ext.scoring.ranking import (
    ErrorRates,
    NanPolicy,
    Operating,
    RankedScores,
    check_trials,
    check_weights,
)


def equal_error_rate(
    scores: np.ndarray, labels: np.ndarray, *, nan: NanPolicy = "count"
) -> tuple[float, float]:
    """Rate at which as large a share of targets is missed as of non-targets accepted.

    The ROC curve has one point for each distinct score, so tied scores make one slanted
    segment, and straight lines between them (not the convex hull). The equal error rate
    is where that line crosses FAR = FRR; it is the figure that ``brentq(lambda x: 1 - x
    - interp1d(far, tpr)(x), 0, 1)`` finds on scikit-learn's ``roc_curve``. Equal scores
    for all trials give 0.5.

    Arguments
    ---------
    scores : np.ndarray
        [num_trials]; the higher, the more alike. +-Inf are valid.
    labels : np.ndarray
        [num_trials]; True or 1 for a target trial, False or 0 for a non-target.
    nan : {"count", "filter", "raise"}
        What a NaN is: an error against the system, left out, or refused.

    Returns
    -------
    tuple of float
        The rate in [0, 1], and a threshold: of both ends of the crossed segment the one
        where the two rates are closer. It is a score that occurs, or, if nothing should
        be accepted, the next float above all of them.

    Raises
    ------
    ValueError
        If there is no target or no non-target trial, shapes or labels are wrong, or
        under "raise" a score is NaN.

    Example
    -------
    >>> equal_error_rate(np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 0, 0]))
    (0.0, 0.8)
    >>> equal_error_rate(np.array([0.9, np.nan, 0.2, 0.1]), np.array([1, 1, 0, 0]))
    (0.5, 0.2)
    """
    return RankedScores(scores, labels, nan=nan).equal_error_rate()


def min_dcf(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    nan: NanPolicy = "count",
) -> tuple[float, float]:
    """Least detection cost over all thresholds, normalised; 0 is perfect, 1 is useless.

    ``c_miss * p_target * FRR + c_fa * (1 - p_target) * FAR``, divided by the cost of
    the better of accepting all and accepting nothing (NIST speaker recognition
    evaluations). SpeechBrain's ``minDCF`` does not divide.

    Arguments
    ---------
    scores, labels, nan
        As in `equal_error_rate`.
    p_target : float
        Prior probability of a target trial, in (0, 1).
    c_miss, c_fa : float
        Cost of a missed target and of a false alarm (> 0).

    Returns
    -------
    tuple of float
        The cost in [0, 1], and the lowest threshold that has it. The threshold is +Inf
        if accepting nothing is best and a score is +Inf.

    Raises
    ------
    ValueError
        As `equal_error_rate`, and if prior or costs are out of range.

    Example
    -------
    >>> min_dcf(np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 0, 1, 0]), p_target=0.5)
    (0.5, 0.2)
    """
    ranked = RankedScores(scores, labels, nan=nan)
    return ranked.min_dcf(p_target=p_target, c_miss=c_miss, c_fa=c_fa)


def cllr(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    nan: NanPolicy = "count",
    weights: np.ndarray | None = None,
) -> float:
    """Cost of log-likelihood ratios in bits: how well they are calibrated too.

    Brümmer & du Preez, 2006, "Application-independent evaluation of speaker detection".
    A system that says nothing (ratio 0) has 1. A wrong infinite score, so under "count"
    any NaN, costs infinitely much.

    Arguments
    ---------
    scores : np.ndarray
        Natural logarithms of likelihood ratios, [num_trials]; see
        `calibration.Calibration`.
    labels, nan
        As in `equal_error_rate`.
    weights : np.ndarray or None
        How often each trial counts, [num_trials], >= 0.

    Returns
    -------
    float
        Cost in bits (>= 0, may be Inf).

    Raises
    ------
    ValueError
        As `equal_error_rate`.

    Example
    -------
    >>> cllr(np.zeros(4), np.array([1, 1, 0, 0]))
    1.0
    """
    trials = check_trials(scores, labels, nan)
    if weights is None:
        weights = np.ones(trials.scores.size)
    else:
        weights = check_weights(weights, np.size(scores))
        weights = weights if trials.kept is None else weights[trials.kept]
    bits = 0.0
    for chosen, sign in ((trials.labels, -1.0), (~trials.labels, 1.0)):
        each = np.logaddexp(0.0, sign * trials.scores[chosen].astype(np.float64))
        counts = weights[chosen] > 0  # Inf times 0 would be NaN
        bits += np.average(each[counts], weights=weights[chosen][counts])
    return float(0.5 * bits / np.log(2.0))


def min_cllr(
    scores: np.ndarray, labels: np.ndarray, *, nan: NanPolicy = "count"
) -> float:
    """Cllr after the best monotone calibration; what is lost by ranking alone.

    The calibration is isotonic regression (pool adjacent violators) on these very
    trials, both classes weighing alike (Brümmer & du Preez, 2006).

    Arguments
    ---------
    scores, labels, nan
        As in `equal_error_rate`; any scale.

    Returns
    -------
    float
        Cost in bits, in [0, 1].

    Raises
    ------
    ValueError
        As `equal_error_rate`.

    Example
    -------
    >>> min_cllr(np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 0, 0]))
    0.0
    """
    return RankedScores(scores, labels, nan=nan).min_cllr()


def thresholds_at_far(
    scores: np.ndarray,
    labels: np.ndarray,
    fars: list[float],
    *,
    nan: NanPolicy = "count",
) -> list[Operating]:
    """Lowest threshold whose false alarm rate is at most what is asked, for each.

    Arguments
    ---------
    scores, labels, nan
        As in `equal_error_rate`.
    fars : list of float
        Largest false alarm rates, each in [0, 1]. One below 1 / non-targets can only be
        met by no false alarm at all.

    Returns
    -------
    list of Operating
        The rates that the threshold has on these trials, and the threshold.

    Raises
    ------
    ValueError
        As `equal_error_rate`, and if a rate is not in [0, 1].

    Example
    -------
    >>> scores, labels = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 0, 1, 0])
    >>> thresholds_at_far(scores, labels, [0.5, 0.01])
    [Operating(far=0.5, frr=0.0, threshold=0.2), Operating(far=0.0, frr=0.5, threshold=0.9)]
    """  # noqa: E501 - a doctest's output can't be wrapped
    return RankedScores(scores, labels, nan=nan).thresholds_at_far(fars)


def det_curve(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    nan: NanPolicy = "count",
    max_points: int = 1000,
) -> ErrorRates:
    """Error rates at thresholds from the lowest to above all, thinned for a plot.

    Arguments
    ---------
    scores, labels, nan
        As in `equal_error_rate`.
    max_points : int
        Points kept at most (>= 2), both ends among them, evenly along the curve on
        probit axes.

    Returns
    -------
    ErrorRates
        ``far``, ``frr``, ``thresholds``, each [num_points].

    Raises
    ------
    ValueError
        As `equal_error_rate`.
    """
    return RankedScores(scores, labels, nan=nan).det_curve(max_points=max_points)
