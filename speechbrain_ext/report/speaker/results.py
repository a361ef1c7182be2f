"""Figures of speaker verification in ``results.json``, and what is checked about them.

Beside what `report.results` says::

    {"systems": [{"name": "channel", "cosine", "wccn", "as_norm" or "wccn+as_norm",
                  "label": how tables call it,
                  "chosen": bool, one of them is,
                  "calibrated": bool,
                  "settings": {...},
                  "calibration": {"slope", "offset"}, if calibrated,
                  "lists": {"main": {**what trial_figures says,
                                     "eer_interval": [low, high],
                                     "per_source": what source_figures says},
                            "hard": {...}, "short": {...}}}],
     "backend": {"asked", "chosen", "reason", "folds": what chose the settings},
     "errors": {"system", "list", **what name_errors says},
     "nan_trials": {"policy", "allowed", "most", "named": [{"utt_id", "file", "system",
                    "why", "trials": {list: count}}, ...], "cohort": [utt_id, ...]},
     "digest": SHA-256 over these keys}

The scores lie in ``scores/<system>_<list>.npz`` and the speakers of the utterances in
``scores/utterances.json``; where they are there, every figure but the intervals is
recomputed. A copy of ``results.json`` alone still has the digest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Keys that the digest covers.
SEALED = ("systems", "backend", "errors", "nan_trials")
#: Shown in every results, whatever backend is chosen.
ALWAYS = ("channel", "cosine")
_RATES = ("eer", "min_dcf_0.01", "min_dcf_0.05", "min_cllr")


def digest_of(results: dict[str, Any]) -> str:
    """SHA-256 over the figures of results, hexadecimal; spaces do not matter."""
    sealed = {key: results.get(key) for key in SEALED}
    text = json.dumps(sealed, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def scores_path(folder: Path, system: str, trials: str) -> Path:
    """Where the scores of a system on a list lie in an experiment."""
    return folder / "scores" / f"{system}_{trials}.npz"


def chosen_system(results: dict[str, Any]) -> dict[str, Any]:
    """Return the system that was chosen."""
    return next(system for system in results["systems"] if system["chosen"])


def speaker_problems(results: dict[str, Any], folder: Path) -> list[str]:
    """List what is wrong with speaker-verification results.

    Arguments
    ---------
    results : dict
        Of a shape that `report.results` has accepted.
    folder : Path
        The experiment; figures are recomputed if its ``scores/`` is there.

    Returns
    -------
    list of str
        A line for each problem.
    """
    problems = [f"{key}: missing" for key in (*SEALED, "digest") if key not in results]
    if problems:
        return problems
    names = []
    for index, system in enumerate(results["systems"]):
        where = f"systems[{index}]"
        try:
            names.append(system["name"])
            for trials, figures in system["lists"].items():
                problems += [
                    f"{where}.lists.{trials}.{text}" for text in _odd_figures(figures)
                ]
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"{where}: {type(error).__name__} {error}")
    problems += [
        f"systems: '{name}' is missing" for name in ALWAYS if name not in names
    ]
    if problems:
        return problems
    if [s.get("chosen") for s in results["systems"]].count(True) != 1:
        problems.append("systems: exactly one must be chosen")
    elif chosen_system(results)["name"] != results["backend"].get("chosen"):
        problems.append(f"backend.chosen: is {results['backend'].get('chosen')!r}")
    if (folder / "scores").is_dir():
        try:
            problems += _recomputed(results, folder)
        except (
            OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
        ) as error:  # fmt: skip
            problems.append(f"scores: can't be read: {error}")
    if not problems and results["digest"] != digest_of(results):
        problems.append("digest: does not fit the figures; one of them was edited")
    return problems


def _odd_figures(figures: dict[str, Any]) -> Iterator[str]:
    reasons = figures["not_measured"]
    for name in (*_RATES, "cllr", "eer_threshold"):
        value = figures[name]
        if value is None and name not in reasons:
            yield f"{name}: is null without a reason in not_measured"
        if value is not None and not _in_range(value, name):
            yield f"{name}: is {value}; must be {_rule(name)}"
    if figures["eer"] is not None:
        interval = figures["eer_interval"]
        if interval is None and "eer_interval" not in reasons:
            yield "eer_interval: is null without a reason in not_measured"
        if interval is not None and not 0 <= interval[0] <= interval[1] <= 1:
            yield f"eer_interval: is {interval}; must rise within [0, 1]"
    for name in ("num_targets", "num_nontargets", "nan_trials"):
        if not isinstance(figures[name], int) or figures[name] < 0:
            yield f"{name}: is {figures[name]}; must be a count"


def _in_range(value: float, name: str) -> bool:
    if not math.isfinite(value):
        return False
    return name == "eer_threshold" or (value >= 0 and (name == "cllr" or value <= 1))


def _rule(name: str) -> str:
    ranges = {"eer_threshold": "finite", "cllr": "finite and not negative"}
    return ranges.get(name, "within [0, 1]")


def _recomputed(results: dict[str, Any], folder: Path) -> Iterator[str]:
    """Compare every figure with what the saved scores give."""
    from speechbrain_ext.scoring.figures import (
        name_errors,
        source_figures,
        trial_figures,
    )
    from speechbrain_ext.scoring.trials import read_scores

    nan = results["nan_trials"]["policy"]
    known = json.loads((folder / "scores" / "utterances.json").read_text("utf-8"))
    told = results["errors"].get("system"), results["errors"].get("list")
    pairs = {(one["name"], name) for one in results["systems"] for name in one["lists"]}
    if told not in pairs:
        yield f"errors: are of {told[0]} on {told[1]}, which was not scored"
    for index, system in enumerate(results["systems"]):
        for trials, found in system["lists"].items():
            where = f"systems[{index}].lists.{trials}"
            path = scores_path(folder, system["name"], trials)
            if not path.exists():
                yield f"{where}: {path} is not there"
                continue
            scored, scores = read_scores(path)
            expected = trial_figures(
                scores, scored.labels, nan=nan, calibrated=bool(system["calibrated"])
            )
            # Intervals are not drawn again, so why there is none is taken as it stands.
            reason = found["not_measured"].get("eer_interval")
            if reason is not None:
                expected["not_measured"]["eer_interval"] = reason
            expected["per_source"] = source_figures(
                scored, scores, known["sources"], nan=nan
            )
            for name, value in expected.items():
                yield from differences(f"{where}.{name}", found.get(name), value)
            errors = results["errors"]
            if (system["name"], trials) == (errors["system"], errors["list"]):
                threshold = found["eer_threshold"]
                expected = name_errors(
                    scored,
                    scores,
                    known["speakers"],
                    math.inf if threshold is None else threshold,
                )
                for name, value in expected.items():
                    yield from differences(f"errors.{name}", errors.get(name), value)


def differences(where: str, found: Any, expected: Any) -> Iterator[str]:
    """Walk through both; numbers may differ by what float32 loses in a sum.

    Arguments
    ---------
    where : str
        What each line begins with.
    found, expected : Any
        Figures, or lists and dicts of them.

    Yields
    ------
    str
        A line for each that differs.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            yield from differences(f"{where}.{key}", found.get(key), expected.get(key))
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: has {len(found)} entries, the scores give {len(expected)}"
            return
        for index, pair in enumerate(zip(found, expected, strict=True)):
            yield from differences(f"{where}[{index}]", *pair)
    elif isinstance(expected, float) and isinstance(found, (int, float)):
        if not math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9):
            yield f"{where}: is {found}, the scores give {expected}"
    elif found != expected:
        yield f"{where}: is {found!r}, the scores give {expected!r}"
