"""``results.json``: the one place that holds the figures of an experiment.

RESULTS.md, plots and report.html are generated from it and never typed. Its shape::

    {"task": "codec" or "speaker",
     "created": "2026-01-31T12:00:00+00:00",
     "command": what recomputes it,
     "conditions": {"split_hash", "seed", "config_hash", "versions": {package: version},
                    "train_seconds", "parameters", "device", "threads",
                    "data": {"corpus", "title", "licence" or "licences", "language",
                             "synthetic", "counts", "seconds", ...},
                    "cost": {"epochs", "device", "processor", "threads", ...},
                    "resumed": what `resume.history` keeps, ...},
     "systems": [what `codec.results` and `speaker.results` say, ...],
     "health": {"rejected_files": int, "rejected_batches": int, ...},
     "left_out": [{"utt_id", "reason", "cause", "epoch", "batch", "dump"}, ...]}

A figure that could not be measured is ``null`` with its reason in ``not_measured``. A
condition that is not known is ``null``; older results lack ``data``, ``cost`` and
``resumed``. What can be recomputed is recomputed when read, so an edited figure is
found. ``left_out`` names the train utterances in quarantine and is absent where there
are none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json
from speechbrain_ext.next_command import next_command
from speechbrain_ext.report.codec.results import codec_problems
from speechbrain_ext.report.facts import fact_problems
from speechbrain_ext.report.speaker.results import speaker_problems

CONDITIONS = (
    "split_hash",
    "seed",
    "config_hash",
    "versions",
    "train_seconds",
    "parameters",
    "device",
    "threads",
)


@dataclass(frozen=True)
class TaskResults:
    """What is checked, and made again, in a task's own way.

    Attributes
    ----------
    find_problems : Callable
        ``(results, folder)`` to a list of texts; ``folder`` is where the file lies.
    stage : str
        The stage of ``run.sh`` that makes the results.
    """

    find_problems: Callable[[dict[str, Any], Path], list[str]]
    stage: str


TASKS = {
    "codec": TaskResults(codec_problems, "evaluate"),
    "speaker": TaskResults(speaker_problems, "score"),
}


class ResultsError(UserError):
    """A ``results.json`` that is missing, broken or edited."""


def write_results(path: str | os.PathLike, results: dict[str, Any]) -> dict[str, Any]:
    """Check results and write them atomically.

    Arguments
    ---------
    path : str or Path
        Where ``results.json`` shall be.
    results : dict
        As the module's documentation says.

    Returns
    -------
    dict
        The same results.

    Raises
    ------
    ResultsError
        If they are not of that shape; all problems in one message, nothing written.
    """
    _refuse(path, find_problems(results, Path(path).parent), results)
    write_json(path, results)
    return results


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """Read ``results.json`` and check it.

    Raises
    ------
    ResultsError
        If the file is missing, is no JSON, or is not what `write_results` wrote; all
        problems in one message, with the command that makes it anew.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(path, ["there is no such file"])
    except (OSError, ValueError, RecursionError) as error:
        _refuse(path, [f"can't be read as JSON: {error}"])
    _refuse(path, find_problems(results, Path(path).parent), results)
    return results


def _refuse(path: str | os.PathLike, problems: list[str], results: Any = None) -> None:
    if not problems:
        return
    task = TASKS.get(results.get("task")) if isinstance(results, dict) else None
    folder = Path(path).parent
    task = task or TASKS.get(_task_of(folder))
    known = [task] if task else TASKS.values()
    commands = " or ".join(
        next_command(f"./run.sh --stage {task.stage}", folder) + " --force"
        for task in known
    )
    raise ResultsError(
        f"results error ({len(problems)}) in {path}\n  "
        + "\n  ".join(problems)
        + f"\nmake it anew with: {commands}"
    )


def _task_of(folder: Path) -> str:
    """Name the task that an experiment was trained for; empty if that is not known."""
    try:
        text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    found = re.search(r"^task: *\S*\.(\w+) *$", text, re.MULTILINE)
    return found[1] if found else ""


def find_problems(results: Any, folder: str | os.PathLike = ".") -> list[str]:
    """List what is wrong with results; empty if nothing is.

    Arguments
    ---------
    results : object
        What was read.
    folder : str or PathLike
        The experiment; figures are recomputed from the scores that lie there.

    Returns
    -------
    list of str
        A line for each problem.
    """
    if not isinstance(results, dict):
        return [f"must be an object, is {type(results).__name__}"]
    problems = [
        f"{key}: missing"
        for key in ("task", "created", "command", "conditions", "systems", "health")
        if key not in results
    ]
    if problems:
        return problems
    for key in ("conditions", "health"):
        if not isinstance(results[key], dict):
            return [*problems, f"{key}: must be an object"]
    problems += [
        f"conditions.{key}: missing (null if it is not known)"
        for key in CONDITIONS
        if key not in results["conditions"]
    ]
    problems += fact_problems(results["conditions"])
    systems = results["systems"]
    if not isinstance(systems, list) or not systems:
        return [*problems, "systems: must be a list with at least one entry"]
    problems += _left_out_problems(results.get("left_out", []))
    if not isinstance(results["task"], str) or results["task"] not in TASKS:
        return [*problems, f"task: is {results['task']!r}; known: {', '.join(TASKS)}"]
    return problems + TASKS[results["task"]].find_problems(results, Path(folder))


def _left_out_problems(left_out: Any) -> list[str]:
    if not isinstance(left_out, list):
        return [f"left_out: must be a list, is {type(left_out).__name__}"]
    return [
        f"left_out[{index}]: must have utt_id, reason and dump"
        for index, entry in enumerate(left_out)
        if not isinstance(entry, dict) or not {"utt_id", "reason", "dump"} <= set(entry)
    ]
