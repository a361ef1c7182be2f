"""All figures of one list of trials, as they stand in ``results.json``.

Score and report both call these functions: the report recomputes what was written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speechbrain_ext.scoring.metrics import cllr
from speechbrain_ext.scoring.ranking import NanPolicy, RankedScores
from speechbrain_ext.scoring.trials import Trials

#: False alarm rates at which a threshold is given.
FARS = (0.01, 0.001)
#: Priors of a target at which the detection cost is given.
PRIORS = (0.01, 0.05)
#: Hardest pairs of speakers, and worst trials of each kind, that are named.
MAX_NAMED = 10

NOT_CALIBRATED = "the scores are not log-likelihood ratios (--calibrate)"


def trial_figures(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    nan: NanPolicy = "count",
    calibrated: bool = False,
    fars: Sequence[float] = FARS,
) -> dict[str, Any]:
    """Error rates, costs and thresholds of scored trials.

    Arguments
    ---------
    scores : np.ndarray
        [num_trials]; the higher, the more alike.
    labels : np.ndarray
        [num_trials]; True for a target trial.
    nan : {"count", "filter", "raise"}
        As `metrics.equal_error_rate` takes it.
    calibrated : bool
        Whether scores are natural log-likelihood ratios, so that Cllr says something.
    fars : sequence of float
        False alarm rates at which a threshold is given.

    Returns
    -------
    dict
        ``eer``, ``eer_threshold``, ``min_dcf_0.01``, ``min_dcf_0.05``, ``cllr``,
        ``min_cllr``, ``num_targets``, ``num_nontargets``, ``nan_trials``,
        ``thresholds`` (list of ``far``, ``frr``, ``threshold``), ``not_measured``
        (figure to reason). What is not finite or not defined is None, with a reason.

    Raises
    ------
    ValueError
        If shapes or labels are wrong, or under "raise" a score is NaN.
    """
    labels = np.asarray(labels, dtype=bool)
    figures: dict[str, Any] = dict.fromkeys(
        ("eer", "eer_threshold", *map(_cost_name, PRIORS), "cllr", "min_cllr")
    )
    missing = np.isnan(scores)
    kept = ~missing if nan == "filter" else np.ones(labels.shape, dtype=bool)
    counts = {
        "num_targets": int(np.count_nonzero(labels & kept)),
        "num_nontargets": int(np.count_nonzero(~labels & kept)),
        "nan_trials": int(np.count_nonzero(missing)),
    }
    if not (counts["num_targets"] and counts["num_nontargets"]):
        reason = "there is no {}target trial".format(
            "non-" if counts["num_targets"] else ""
        )
        not_measured = dict.fromkeys(figures, reason)
        return figures | counts | {"thresholds": [], "not_measured": not_measured}
    ranked = RankedScores(scores, labels, nan=nan)
    figures["eer"], figures["eer_threshold"] = ranked.equal_error_rate()
    for prior in PRIORS:
        figures[_cost_name(prior)] = ranked.min_dcf(p_target=prior)[0]
    figures["min_cllr"] = ranked.min_cllr()
    not_measured = {"cllr": NOT_CALIBRATED}
    if calibrated:
        figures["cllr"] = cllr(scores, labels, nan=nan)
        not_measured = {}
    for name, value in figures.items():
        if value is not None and not math.isfinite(value):
            figures[name] = None
            not_measured[name] = (
                "not finite: a trial without score is an error"
                if missing.any()
                else "not finite: scores are infinite"
            )
    points = ranked.thresholds_at_far(list(fars))
    thresholds = [
        {"far": far, "frr": frr, "threshold": _finite(threshold)}
        for far, frr, threshold in points
    ]
    return figures | counts | {"thresholds": thresholds, "not_measured": not_measured}


def _cost_name(prior: float) -> str:
    return f"min_dcf_{prior:g}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def source_figures(
    trials: Trials,
    scores: np.ndarray,
    sources: Mapping[str, str | None],
    *,
    nan: NanPolicy = "count",
) -> dict[str, dict[str, Any]]:
    """Equal error rate of each source of recordings.

    Arguments
    ---------
    trials : Trials
        What was scored.
    scores : np.ndarray
        [num_trials].
    sources : mapping of str to str or None
        Utterance to where it comes from; None if that is not known.
    nan : {"count", "filter", "raise"}
        As `metrics.equal_error_rate` takes it.

    Returns
    -------
    dict
        Source to ``eer`` over its targets and the non-targets with at least one side
        of it, ``eer_same_source`` with only those whose sides are both of it,
        ``num_targets``, ``num_nontargets``, ``num_same_source``; rates are None where
        one kind of trial is missing.
    """
    labels = trials.labels
    of_utterance = np.array([sources.get(utt_id) or "" for utt_id in trials.ids])
    of_enroll, of_test = of_utterance[trials.enroll], of_utterance[trials.test]
    figures = {}
    for source in np.unique(of_utterance):
        left, right = of_enroll == source, of_test == source
        both, any_side = left & right, left | right
        targets = labels & any_side
        wide, narrow = targets | (~labels & any_side), targets | (~labels & both)
        figures[str(source)] = {
            "eer": _rate(scores[wide], labels[wide], nan),
            "eer_same_source": _rate(scores[narrow], labels[narrow], nan),
            "num_targets": int(targets.sum()),
            "num_nontargets": int((~labels & any_side).sum()),
            "num_same_source": int((~labels & both).sum()),
        }
    return figures


def _rate(scores: np.ndarray, labels: np.ndarray, nan: NanPolicy) -> float | None:
    if nan == "filter":
        kept = ~np.isnan(scores)
        scores, labels = scores[kept], labels[kept]
    if labels.all() or not labels.any():
        return None
    return RankedScores(scores, labels, nan=nan).equal_error_rate()[0]


def name_errors(
    trials: Trials,
    scores: np.ndarray,
    speakers: Mapping[str, str],
    threshold: float,
) -> dict[str, Any]:
    """Say who is confused with whom, so that wrong labels can be found.

    Arguments
    ---------
    trials : Trials
        What was scored.
    scores : np.ndarray
        [num_trials]; a NaN is an error, whatever the kind of its trial.
    speakers : mapping of str to str
        Utterance to speaker.
    threshold : float
        What scores at least this is accepted.

    Returns
    -------
    dict
        ``speakers``: for each, the share of its targets that is missed, of the
        non-targets with it that is accepted, and whom it is taken for most often;
        ``pairs``: pairs of different speakers by accepted share, then mean score;
        ``worst_targets`` and ``worst_nontargets``: single trials by name. Each list
        starts with the worst; at most `MAX_NAMED` pairs and trials.
    """
    labels, enroll, test, ids = trials
    names = sorted({speakers[utt_id] for utt_id in ids})
    number = {name: index for index, name in enumerate(names)}
    of_utterance = np.array([number[speakers[utt_id]] for utt_id in ids])
    left, right = of_utterance[enroll], of_utterance[test]
    low, high = np.minimum(left, right), np.maximum(left, right)
    missing = np.isnan(scores)
    wrong = missing | np.where(labels, scores < threshold, scores >= threshold)
    size = len(names)

    def table(chosen: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        codes = (low * size + high)[chosen]
        weights = None if weights is None else weights[chosen]
        return np.bincount(codes, weights, size * size).reshape(size, size)

    trials, accepted = table(~labels), table(~labels & wrong)
    sums = table(~labels & ~missing, np.asarray(scores, np.float64))
    counted = table(~labels & ~missing)
    first, second = np.nonzero(trials)
    pairs = [
        {
            "speakers": [names[a], names[b]],
            "num_trials": int(trials[a, b]),
            "accepted": float(accepted[a, b] / trials[a, b]),
            "mean_score": _ratio(sums[a, b], counted[a, b]),
        }
        for a, b in zip(first, second, strict=True)
    ]
    # No mean at all is worse than any.
    pairs.sort(
        key=lambda pair: (
            -pair["accepted"],
            -math.inf if pair["mean_score"] is None else -pair["mean_score"],
        )
    )
    targets, missed = table(labels).diagonal(), table(labels & wrong).diagonal()
    around, taken = trials + trials.T, accepted + accepted.T
    rows = []
    for index, name in enumerate(names):
        nearest = next((p for p in pairs if name in p["speakers"]), None)
        other = nearest and next(n for n in nearest["speakers"] if n != name)
        rows.append(
            {
                "speaker": name,
                "num_targets": int(targets[index]),
                "missed": _ratio(missed[index], targets[index]),
                "num_nontargets": int(around[index].sum()),
                "accepted": _ratio(taken[index].sum(), around[index].sum()),
                "nearest": other,
                "nearest_accepted": nearest and nearest["accepted"],
            }
        )
    rows.sort(key=lambda row: -((row["missed"] or 0) + (row["accepted"] or 0)))

    def worst(chosen: np.ndarray, sign: int) -> list[dict[str, Any]]:
        where = np.flatnonzero(chosen)
        badness = np.where(missing[where], np.inf, sign * scores[where])
        return [
            {
                "enroll": ids[enroll[trial]],
                "test": ids[test[trial]],
                "speakers": [names[left[trial]], names[right[trial]]],
                "score": _finite(scores[trial]),
            }
            for trial in where[np.argsort(-badness, kind="stable")[:MAX_NAMED]]
        ]

    return {
        "threshold": _finite(threshold),
        "speakers": rows,
        "pairs": pairs[:MAX_NAMED],
        "worst_targets": worst(labels, -1),
        "worst_nontargets": worst(~labels, 1),
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
