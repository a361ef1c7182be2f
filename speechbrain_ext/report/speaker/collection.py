"""Several runs side by side: over splits and seeds, and what a change brought.

Both pages are generated from figures that `report.results` has checked; an ablation
row keeps what it needs of them, so that its JSON is all that the page is made of.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from speechbrain_ext.report.speaker.results import chosen_system
from speechbrain_ext.report.speaker.text import interval, percent
from speechbrain_ext.report.tables import Table, markdown_table

#: Systems that are compared over runs; "chosen" is what counts in each run.
SYSTEMS = ("chosen", "cosine", "channel")
LISTS = ("main", "hard", "short")
_LABELS = {
    "chosen": "chosen backend",
    "cosine": "raw cosine",
    "channel": "channel only",
}


def run_figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Take what is compared over runs out of one run's results.

    Arguments
    ---------
    results : mapping
        As `speechbrain_ext.report.results.read_results` returns them.

    Returns
    -------
    dict
        ``split_seed``, ``inner_split``, ``seed``, ``train_seconds``, ``backend``,
        ``nan_trials``, and ``eer``: "chosen" and the name of every system to list to
        rate; ``interval`` likewise. ``labels``: how tables call the systems.
    """
    conditions = results["conditions"]
    by_name = {system["name"]: system for system in results["systems"]}
    labels = {name: system["label"] for name, system in by_name.items()}
    by_name["chosen"] = chosen_system(results)
    return {
        "split_seed": conditions.get("split_seed"),
        "inner_split": conditions.get("inner_split"),
        "seed": conditions["seed"],
        "train_seconds": conditions["train_seconds"],
        "backend": by_name["chosen"]["label"],
        "nan_trials": results["nan_trials"]["policy"],
        "eer": _of_lists(by_name, "eer"),
        "interval": _of_lists(by_name, "eer_interval"),
        "labels": labels,
    }


def _of_lists(systems: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    return {
        name: {trials: figures[key] for trials, figures in system["lists"].items()}
        for name, system in systems.items()
    }


def render_speaker_collection(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Write one Markdown page of several runs: splits times training seeds.

    Arguments
    ---------
    runs : sequence of tuple
        Name and results of each.

    Returns
    -------
    str
        Mean and spread of the equal error rates, then each run with its intervals.

    Raises
    ------
    ValueError
        If there is no run.
    """
    if not runs:
        raise ValueError("render_speaker_collection: there is no run")
    figures = {name: run_figures(results) for name, results in runs}
    splits = {found["split_seed"] for found in figures.values()}
    parts = [
        "# Results over splits and seeds",
        "Generated from `results.json` of each run; do not edit.",
        f"Runs: {len(runs)}; splits of the speakers: {len(splits)}.",
    ]
    for table in (_mean_table(figures.values()), _run_table(figures)):
        parts += [f"## {table.title}", markdown_table(table)]
        parts += [f"[{n}] {note}." for n, note in enumerate(table.notes, 1)]
    parts.append(
        "Brackets: 95 % interval over test speakers. Chosen backend: the one that is "
        "named, with settings from folds of training speakers in each run, never from "
        "these trials. Below channel: how much lower the chosen backend's main EER is "
        "than that of the channel-only baseline."
    )
    commands = dict.fromkeys(results["command"] for _, results in runs)
    parts += ["## Commands", "```\n" + "\n".join(commands) + "\n```"]
    caveats = dict.fromkeys(
        str(results["conditions"].get("caveat") or "") for _, results in runs
    )
    parts += [f"Caveat: {caveat}" for caveat in caveats if caveat]
    return "\n\n".join(parts) + "\n"


def _lists_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    found = dict.fromkeys(name for run in runs for name in run["eer"]["chosen"])
    return sorted(found, key=lambda name: (*LISTS, name).index(name))


def _mean_table(runs) -> Table:
    runs = list(runs)
    lists = _lists_of(runs)
    rows = []
    for system in SYSTEMS:
        cells = [_LABELS[system]]
        for name in lists:
            rates = _rates(runs, system, name)
            cells += [_mean_and_spread(rates), _range(rates)]
        rows.append(cells)
    headings = [text for name in lists for text in (name, f"{name}: from, to")]
    return Table(
        "Equal error rate, %: mean ± standard deviation over the runs",
        ["system", *headings],
        rows,
        [system == "chosen" for system in SYSTEMS],
        [],
    )


def _run_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    lists = _lists_of(list(runs.values()))
    rows, notes = [], []
    for name, run in runs.items():
        chosen, cosine, channel = (run["eer"][system] for system in SYSTEMS)
        label = name
        if run["nan_trials"] == "filter":
            note = "trials without score were left out, as many toolkits do"
            notes = [note]
            label += " [1]"
        cells = [label, str(run["split_seed"]), str(run["seed"]), run["backend"]]
        for trials in lists:
            pair = run["interval"]["chosen"].get(trials)
            cells.append(f"{percent(chosen.get(trials))} {interval(pair)}")
        cells += [percent(cosine.get(trials)) for trials in lists]
        cells += [percent(channel.get("main")), _below(chosen, channel)]
        rows.append(cells)
    return Table(
        "Each run",
        [
            "run",
            "split",
            "seed",
            "backend",
            *lists,
            *(f"cosine {trials}" for trials in lists),
            "channel main",
            "below channel",
        ],
        rows,
        [False] * len(rows),
        notes,
        words=(3,),
    )


def _below(chosen: Mapping[str, Any], channel: Mapping[str, Any]) -> str:
    ours, theirs = chosen.get("main"), channel.get("main")
    return "--" if ours is None or not theirs else f"{1 - ours / theirs:.0%}"


def _rates(runs, system: str, trials: str) -> list[float]:
    found = (run["eer"][system].get(trials) for run in runs)
    return [rate for rate in found if rate is not None]


def _mean_and_spread(rates: Sequence[float]) -> str:
    if not rates:
        return "--"
    if len(rates) == 1:
        return percent(rates[0])
    return f"{percent(statistics.mean(rates))} ± {percent(statistics.stdev(rates))}"


def _range(rates: Sequence[float]) -> str:
    return f"{percent(min(rates))}, {percent(max(rates))}" if rates else "--"


def ablation_row(
    change: str, runs: Sequence[Mapping[str, Any]], note: str = ""
) -> dict[str, Any]:
    """Make one row of an ablation out of results, as JSON can hold it.

    Arguments
    ---------
    change : str
        What is different from the first row.
    runs : sequence of mapping
        Results of the runs with that change.
    note : str
        What a reader must know beside the figures.

    Returns
    -------
    dict
        ``change``, ``note``, ``runs`` (`run_figures` of each).
    """
    return {"change": change, "note": note, "runs": list(map(run_figures, runs))}


def render_ablation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write an ablation as Markdown; the first row is what the others differ from.

    A difference is the mean over pairs of runs of one split seed and training seed.
    It is called lower or higher only where it is larger than twice its standard error
    over at least three such pairs; two or fewer say nothing.

    Arguments
    ---------
    rows : sequence of mapping
        As `ablation_row` makes them.

    Returns
    -------
    str
        Chosen backend and raw cosine on each list, with differences and a verdict.

    Raises
    ------
    ValueError
        If there is no row, or a row has no run.
    """
    if not rows or not all(row["runs"] for row in rows):
        raise ValueError("render_ablation: needs rows, each with at least one run")
    lists = _lists_of([run for row in rows for run in row["runs"]])
    parts = []
    for system in ("chosen", "cosine"):
        cells = [_ablation_cells(row, rows[0], system, lists) for row in rows]
        table = Table(
            f"Equal error rate, %, {_LABELS[system]}",
            ["change", "runs", *lists, "main: difference", "verdict", "note"],
            cells,
            [row is rows[0] for row in rows],
            [],
            words=(len(lists) + 3, len(lists) + 4),
        )
        parts += [f"## {table.title}", markdown_table(table)]
    parts += [
        "Mean ± standard deviation over runs. Difference: to the first row, mean over "
        "runs of the same split and seed ± its standard error. A verdict needs three "
        "such pairs, and a difference of more than two standard errors.",
        *_backend_chapter(rows, lists),
    ]
    return "\n\n".join(parts) + "\n"


def _backend_chapter(rows: Sequence[Mapping[str, Any]], lists) -> list[str]:
    """Compare the backends on the same networks: those of all rows."""
    runs = [run for row in rows for run in row["runs"]]
    names = [
        name
        for name in dict.fromkeys(name for run in runs for name in run["eer"])
        if name != "chosen" and all(name in run["eer"] for run in runs)
    ]
    cells = []
    for name in names:
        compared = ("--", "reference")
        if name != "cosine":
            compared = _verdict(_changes_by_split(runs, name))
        rates = (_mean_and_spread(_rates(runs, name, trials)) for trials in lists)
        cells.append([runs[0]["labels"][name], *rates, *compared])
    table = Table(
        "Equal error rate, %, of each backend",
        ["backend", *lists, "main: difference", "verdict"],
        cells,
        [name == "cosine" for name in names],
        [],
        words=(len(lists) + 2,),
    )
    return [
        f"## {table.title}",
        markdown_table(table),
        f"Over all {len(runs)} runs of this page. Difference: to the raw cosine of the "
        "same network, mean over splits ± its standard error; networks of one split "
        "are tested by the same speakers and count as one.",
    ]


def _changes_by_split(runs: Sequence[Mapping[str, Any]], system: str) -> list[float]:
    """Mean difference of the main EER to the raw cosine, for each split."""
    changes = defaultdict(list)
    for run in runs:
        ours, theirs = (run["eer"][s].get("main") for s in (system, "cosine"))
        if ours is not None and theirs is not None:
            changes[run["split_seed"], run["inner_split"]].append(ours - theirs)
    return list(map(statistics.fmean, changes.values()))


def _ablation_cells(row, first, system: str, lists: Sequence[str]) -> list[str]:
    runs = row["runs"]
    compared = ("--", "reference")
    if row is not first:
        compared = _compare(runs, first["runs"], system)
    return [
        row["change"],
        str(len(runs)),
        *(_mean_and_spread(_rates(runs, system, name)) for name in lists),
        *compared,
        row.get("note", ""),
    ]


def _compare(runs, reference, system: str) -> tuple[str, str]:
    """Difference of the main EER to runs of the same split and seed, and a verdict."""

    def by_seed(found) -> dict[tuple, float]:
        rates = {
            tuple(run[key] for key in ("split_seed", "inner_split", "seed")): run[
                "eer"
            ][system].get("main")
            for run in found
        }
        return {key: rate for key, rate in rates.items() if rate is not None}

    ours, theirs = by_seed(runs), by_seed(reference)
    changes = [ours[key] - theirs[key] for key in ours.keys() & theirs.keys()]
    return _verdict(changes)


def _verdict(changes: Sequence[float]) -> tuple[str, str]:
    """Show the mean of some differences, and say whether it is more than chance."""
    if not changes:
        return "--", "no pair of runs"
    mean = statistics.fmean(changes)
    text = f"{100 * mean:+.2f}"
    if len(changes) < 3:
        return text, f"{len(changes)} pairs: not established"
    error = statistics.stdev(changes) / math.sqrt(len(changes))
    text += f" ± {percent(error)}"
    if abs(mean) <= 2 * error:
        return text, "no difference established"
    return text, "lower" if mean < 0 else "higher"
