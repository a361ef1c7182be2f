"""How far a figure would move with other test speakers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from speechbrain_ext.scoring.ranking import NanPolicy, RankedScores

#: Fewer people say nothing of how far a figure would move with others: half of the
#: draws of two leave one alone, and the ends stand on a handful of different draws.
MIN_SPEAKERS = 6

Statistic = Callable[[RankedScores, np.ndarray], float]
STATISTICS: dict[str, Statistic] = {
    "eer": lambda ranked, weights: ranked.equal_error_rate(weights)[0],
    "min_dcf_0.01": lambda ranked, weights: ranked.min_dcf(weights=weights)[0],
    "min_dcf_0.05": lambda ranked, weights: ranked.min_dcf(
        p_target=0.05, weights=weights
    )[0],
    "min_cllr": lambda ranked, weights: ranked.min_cllr(weights),
}


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


def speaker_bootstrap(
    scores: np.ndarray,
    labels: np.ndarray,
    spk_enroll: np.ndarray,
    spk_test: np.ndarray,
    statistic: str | Statistic = "eer",
    *,
    draws: int = 500,
    level: float = 0.95,
    seed: int = 0,
    nan: NanPolicy = "count",
    on_draw: Callable[[], None] | None = None,
) -> Interval:
    """Confidence interval by drawing the test speakers again, with replacement.

    Trials of one speaker are not independent, so speakers are drawn and not trials
    (Poh & Bengio, 2007, "Performance generalization in biometric authentication using
    joint user-specific and sample bootstraps"; the percentile method as in Bisani &
    Ney, 2004). A speaker who is drawn n times stands for n people: a target trial
    counts n times, a non-target trial n_enroll * n_test times, and copies of one
    speaker don't meet. The trials are sorted once; a draw only changes their weights.

    Arguments
    ---------
    scores, labels, nan
        As `ranking.check_trials` takes them, [num_trials].
    spk_enroll, spk_test : np.ndarray
        Speakers of both sides, integers (fast) or text, [num_trials].
    statistic : str or callable
        A name in `STATISTICS`, or a function of `RankedScores` and weights.
    draws : int
        Times that speakers are drawn (>= 1). A draw that leaves no target or no
        non-target is drawn again.
    level : float
        Share of the draws inside, in (0, 1).
    seed : int
        Of the draws.
    on_draw : callable or None
        Called after each draw, for a progress bar.

    Returns
    -------
    Interval
        Quantiles of the statistic.

    Raises
    ------
    ValueError
        If shapes or settings are wrong, labels contradict the speakers, there are fewer
        than `MIN_SPEAKERS`, or the draws keep leaving a class empty.

    Example
    -------
    >>> enroll, test = np.indices((6, 6)).reshape(2, -1)
    >>> labels = enroll == test
    >>> speaker_bootstrap(labels + 0.5, labels, enroll, test, draws=10)
    Interval(low=0.0, high=0.0)
    """
    if isinstance(statistic, str) and statistic not in STATISTICS:
        raise ValueError(
            f"scoring: statistic must be one of {', '.join(STATISTICS)} or a function, "
            f"got {statistic!r}"
        )
    measure = STATISTICS[statistic] if isinstance(statistic, str) else statistic
    if draws < 1 or not 0 < level < 1:
        raise ValueError(
            "scoring: a bootstrap needs draws >= 1 and a level between 0 and 1, got "
            f"{draws} and {level}"
        )
    labels = np.asarray(labels).astype(bool)
    spk_enroll, spk_test = np.asarray(spk_enroll), np.asarray(spk_test)
    if not spk_enroll.shape == spk_test.shape == labels.shape == np.shape(scores):
        raise ValueError(
            "scoring: scores, labels, spk_enroll and spk_test must be of one length, "
            f"got {[list(np.shape(x)) for x in (scores, labels, spk_enroll, spk_test)]}"
        )
    wrong = labels != (spk_enroll == spk_test)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"scoring: {np.count_nonzero(wrong)} labels contradict the speakers, the "
            f"first is trial {first}: {spk_enroll[first]!r} and {spk_test[first]!r} "
            f"with label {int(labels[first])}"
        )
    names, codes = np.unique(
        np.concatenate((spk_enroll, spk_test)), return_inverse=True
    )
    if names.size < MIN_SPEAKERS:
        raise ValueError(f"{names.size} test speakers; {MIN_SPEAKERS} are needed")
    enroll, test = codes[: labels.size], codes[labels.size :]
    ranked = RankedScores(scores, labels, nan=nan)
    # What `ranked` left out can't fill a class.
    counts = ~np.isnan(scores) if nan == "filter" else np.ones(labels.size, bool)
    generator = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(100 * draws):
        times = generator.multinomial(names.size, np.full(names.size, 1 / names.size))
        times = times.astype(np.float64)
        weights = np.where(labels, times[enroll], times[enroll] * times[test])
        drawn = counts & (weights > 0)
        if not (drawn & labels).any() or not (drawn & ~labels).any():
            continue
        values.append(measure(ranked, weights))
        if on_draw is not None:
            on_draw()
        if len(values) == draws:
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            return Interval(float(low), float(high))
    raise ValueError(
        f"scoring: of {100 * draws} draws of {names.size} speakers only {len(values)} "
        "left targets and non-targets; there are too few speakers for an interval"
    )
