"""Where the errors come from: sources, pairs of speakers, single trials, folds."""

from __future__ import annotations

from typing import Any

from speechbrain_ext.report.speaker.results import chosen_system
from speechbrain_ext.report.speaker.text import missing_note, percent
from speechbrain_ext.report.tables import Table, plain

#: Speakers that are named; those without errors only make the page long.
MAX_SPEAKERS = 12


def source_table(results: dict[str, Any], trials: str) -> Table | None:
    """Error rates by source of recordings, raw cosine beside the chosen system."""
    chosen = chosen_system(results)
    cosine = next(s for s in results["systems"] if s["name"] == "cosine")
    figures = chosen["lists"][trials]
    sources = figures["per_source"]
    if len(sources) < 2:
        return None
    beside = [] if chosen is cosine else [cosine]
    rows = [
        [
            source or "not known",
            percent(found["eer"]),
            *(percent(s["lists"][trials]["per_source"][source]["eer"]) for s in beside),
            percent(found["eer_same_source"]),
            f"{found['num_targets']:,}",
            f"{found['num_nontargets']:,}",
            f"{found['num_same_source']:,}",
        ]
        for source, found in sources.items()
    ]
    return Table(
        f"EER by source, {trials} list, {chosen['label']}, %",
        [
            "source",
            "EER",
            *(s["label"] for s in beside),
            "same source",
            "targets",
            "non-targets",
            "of same source",
        ],
        rows,
        [False] * len(rows),
        _missing(results, figures),
    )


def _missing(results: dict[str, Any], figures: dict[str, Any]) -> list[str]:
    note = missing_note(figures, results["nan_trials"]["policy"])
    return [f"All rows: {note}"] if note else []


def _where(results: dict[str, Any]) -> tuple[str, list[str]]:
    """Name the system and list whose errors are told, and the note on its NaN."""
    errors = results["errors"]
    system = next(s for s in results["systems"] if s["name"] == errors["system"])
    notes = _missing(results, system["lists"][errors["list"]])
    return f"{errors['list']} list, {system['label']}", notes


def pair_table(results: dict[str, Any]) -> Table | None:
    """List pairs of different speakers that are taken for one another."""
    where, notes = _where(results)
    rows = [
        [
            *pair["speakers"],
            f"{pair['num_trials']:,}",
            percent(pair["accepted"]),
            "--" if pair["mean_score"] is None else f"{pair['mean_score']:.3f}",
        ]
        for pair in results["errors"]["pairs"]
        if pair["accepted"]
    ]
    if not rows:
        return None
    return Table(
        f"Speakers most often confused, {where}",
        ["speaker", "taken for", "trials", "accepted %", "mean score"],
        rows,
        [False] * len(rows),
        notes,
        words=(1,),
    )


def speaker_table(results: dict[str, Any]) -> Table | None:
    """List the speakers with the largest errors."""
    where, notes = _where(results)
    found = results["errors"]["speakers"]
    rows = [
        [
            row["speaker"],
            percent(row["missed"]),
            f"{row['num_targets']:,}",
            percent(row["accepted"]),
            f"{row['num_nontargets']:,}",
            row["nearest"] or "--",
        ]
        for row in found
        if row["missed"] or row["accepted"]
    ][:MAX_SPEAKERS]
    if not rows:
        return None
    return Table(
        f"Speakers with the most errors ({len(rows)} of {len(found)}), {where}",
        ["speaker", "missed %", "targets", "accepted %", "non-targets", "nearest"],
        rows,
        [False] * len(rows),
        notes,
        words=(5,),
    )


def worst_table(results: dict[str, Any], kind: str) -> Table | None:
    """List single trials by name: ``worst_targets`` or ``worst_nontargets``."""
    where, _ = _where(results)
    found = results["errors"][kind]
    if not found:
        return None
    what = {
        "worst_targets": "One speaker, lowest scores",
        "worst_nontargets": "Different speakers, highest scores",
    }[kind]
    rows = [
        [
            "no score" if trial["score"] is None else f"{trial['score']:.3f}",
            trial["enroll"],
            trial["test"],
        ]
        for trial in found
    ]
    return Table(
        f"{what}, {where}",
        ["score", "enrolled", "tested"],
        rows,
        [False] * len(rows),
        [],
        words=(1, 2),
    )


def choice_table(results: dict[str, Any]) -> Table | None:
    """Show the figures of training speakers that chose the settings of backends."""
    backend = results["backend"]
    if not backend["folds"]:
        return None
    count = max(len(row["folds"]) for row in backend["folds"])
    rows = [
        [
            row["name"],
            percent(row["mean"]),
            *(map(percent, row["folds"]) if row["folds"] else ["--"] * count),
        ]
        for row in backend["folds"]
    ]
    return Table(
        "How settings were chosen: EER on folds of training speakers, %",
        ["backend", "mean", *(f"fold {n + 1}" for n in range(count))],
        rows,
        [row["chosen"] for row in backend["folds"]],
        [f"{row['name']}: {row['error']}" for row in backend["folds"] if row["error"]],
    )


def missing_table(results: dict[str, Any]) -> Table | None:
    """Name the utterances whose trials have no score; None if all have one."""
    named = results["nan_trials"]["named"]
    if not named:
        return None
    rows = [
        [entry["utt_id"], entry["file"], entry["why"], plain(entry["trials"])]
        for entry in named
    ]
    policy = results["nan_trials"]["policy"]
    done = {"filter": "left out", "count": "counted as errors"}[policy]
    return Table(
        f"Utterances without a finite score: {len(rows)}, their trials are {done}",
        ["utterance", "file", "why", "trials"],
        rows,
        [False] * len(rows),
        [],
        numeric=False,
    )
