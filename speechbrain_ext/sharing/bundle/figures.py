"""Every figure of a result that its scores or files can give, computed again."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speechbrain_ext.report.results import find_problems
from speechbrain_ext.report.speaker.results import scores_path
from speechbrain_ext.scoring.intervals import speaker_bootstrap
from speechbrain_ext.scoring.trials import Trials, read_scores

#: More draws of a bootstrap than this would be a way to keep a reader busy.
MAX_DRAWS = 10_000


def figure_problems(results: dict[str, Any], folder: Path) -> list[str]:
    """List figures that do not follow from what lies beside them.

    Arguments
    ---------
    results : dict
        As ``results.json`` of an unpacked bundle holds them.
    folder : Path
        Where its ``scores/`` are.

    Returns
    -------
    list of str
        A line for each; empty if every table can be recomputed and is the same.
    """
    problems = find_problems(results, folder)
    if problems or results["task"] != "speaker":
        return problems
    try:
        return list(_speaker_problems(results, folder))
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        return [f"scores: can't be recomputed: {type(error).__name__} {error}"]


def _speaker_problems(results: dict[str, Any], folder: Path) -> Iterator[str]:
    if not (folder / "scores").is_dir():
        yield "scores: there are none, so no table can be recomputed"
        return
    wanted = {
        scores_path(folder, system["name"], trials)
        for system in results["systems"]
        for trials in system["lists"]
    }
    for path in sorted(set((folder / "scores").glob("*.npz")) ^ wanted):
        yield f"scores/{path.name}: there is a table or a file of scores too many"
    known = json.loads((folder / "scores" / "utterances.json").read_text("utf-8"))
    speakers = known["speakers"]
    draws, seed = (results["conditions"].get(k) for k in ("bootstrap_draws", "seed"))
    if type(draws) is not int or not 1 <= draws <= MAX_DRAWS or type(seed) is not int:
        yield f"conditions: bootstrap_draws is {draws!r} and seed {seed!r}"
        return
    most, tested, lists = 0, set(), {}
    for number, system in enumerate(results["systems"]):
        for name, figures in system["lists"].items():
            where = f"systems[{number}].lists.{name}"
            trials, scores = read_scores(scores_path(folder, system["name"], name))
            most = max(most, int(np.isnan(scores).sum()))
            tested |= {speakers[utt_id] for utt_id in trials.ids}
            if not _same_trials(lists.setdefault(name, trials), trials):
                yield f"{where}: other trials than those of the first system"
            yield from _interval_problems(
                where, figures, scores, trials, results, speakers
            )
    for place, found, expected in (
        ("nan_trials.most", results["nan_trials"].get("most"), most),
        (
            "conditions.num_test_speakers",
            results["conditions"].get("num_test_speakers"),
            len(tested),
        ),
    ):
        if found != expected:
            yield f"{place}: is {found}, the scores give {expected}"


def _same_trials(one: Trials, other: Trials) -> bool:
    return one.ids == other.ids and all(
        np.array_equal(a, b) for a, b in zip(one[:3], other[:3], strict=True)
    )


def _interval_problems(
    where: str, figures: dict, scores: np.ndarray, trials: Trials, results: dict, who
) -> Iterator[str]:
    """Compare the interval of the EER with the one that the same draws give."""
    names = np.array([who[utt_id] for utt_id in trials.ids])
    enroll, test = names[trials.enroll], names[trials.test]
    wrong = int(np.count_nonzero(trials.labels != (enroll == test)))
    if wrong:
        yield f"{where}: {wrong} labels contradict the speakers of utterances.json"
        return
    found = figures["eer_interval"]
    if figures["eer"] is None:
        return
    policy = results["nan_trials"]["policy"]
    try:
        expected = speaker_bootstrap(
            scores,
            trials.labels,
            enroll,
            test,
            draws=results["conditions"]["bootstrap_draws"],
            seed=results["conditions"]["seed"],
            nan="count" if policy == "raise" else policy,
        )
    except ValueError:  # too few speakers for one
        expected = None
    if (found is None) != (expected is None) or not all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
        for a, b in itertools.zip_longest(found or (), expected or (), fillvalue=-1)
    ):
        given = None if expected is None else list(expected)
        yield f"{where}.eer_interval: is {found}, the scores give {given}"
