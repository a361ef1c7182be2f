"""Tables of a codec: its scores beside Opus, and the margins."""

from __future__ import annotations

from typing import Any

from speechbrain_ext.report.codec.results import (
    METRICS,
    margins_over_opus,
    rate_digits,
)
from speechbrain_ext.report.codec.tokens import NOTE, tokens_table
from speechbrain_ext.report.tables import Page, Table

LABELS = {"ours": "ours", "fidelity": "ours, SNR held", "opus": "Opus"}
RATE_NOTES = {
    "nominal": "Our rates are nominal: codebooks x bits x frames per second.",
    "whole files": "Our rates are those of whole files, header and checksum included.",
    "measured payload": (
        "Those of Opus are measured: its packets without the Ogg container, over the "
        "duration of the files. Opus is aligned to a fraction of a sample before it is "
        "scored."
    ),
}


def codec_page(results: dict[str, Any]) -> Page:
    """Say what stands on the page of a codec, in order."""
    table = score_table(results)
    tokens = results.get("tokens")
    return Page(
        str(results["conditions"].get("model") or "Codec"),
        f"{table.title}. Scored {results['created']}.",
        [part for part in (table, margin_table(results), rate_note(results)) if part],
        [tokens_table(tokens), NOTE] if tokens else [],
    )


def rate_note(results: dict[str, Any]) -> str:
    """Say what the rates of these systems count."""
    kinds = {system["rate_kind"] for system in results["systems"]}
    told = [note for kind, note in RATE_NOTES.items() if kind in kinds]
    return " ".join(["↓: less is better.", *told])


def _metrics_shown(results: dict[str, Any]) -> list[str]:
    return [
        name
        for name in METRICS
        if any(name in system["mean"] for system in results["systems"])
    ]


def score_table(results: dict[str, Any]) -> Table:
    """All systems, the rates of both in one order, so that neighbours compare."""
    names = _metrics_shown(results)
    notes: list[str] = []

    def cell(system: dict[str, Any], name: str) -> str:
        value = system["mean"].get(name)
        reasons = system["mean"].get("not_measured", {}).get(name, {})
        text = "not measured" if value is None else f"{value:.{METRICS[name][1]}f}"
        if value is not None and not reasons:
            return text
        total = len(system["files"])
        because = ", ".join(
            reason if count == total else f"{reason} ({count} of {total} files)"
            for reason, count in reasons.items()
        )
        heading = METRICS[name][0]
        if value is None:
            note = f"{heading} not measured: {because or 'not asked for'}"
        else:
            measured = total - sum(reasons.values())
            note = f"{heading} over {measured} of {total} files; not measured: "
            note += because
        if note not in notes:
            notes.append(note)
        return f"{text} [{notes.index(note) + 1}]"

    systems = sorted(results["systems"], key=lambda system: system["kbps"])
    rows = [
        [
            LABELS.get(system["name"], system["name"]),
            f"{system['kbps']:.{rate_digits(system)}f}",
            _rate(system),
            *(cell(system, name) for name in names),
        ]
        for system in systems
    ]
    files = systems[0]["files"]
    return Table(
        f"Mean over {len(files)} test files",
        ["codec", "kbps", "rate", *(_heading(name) for name in names)],
        rows,
        [system["name"] != "opus" for system in systems],
        notes,
        heading="Scores",
    )


def _rate(system: dict[str, Any]) -> str:
    """Say what a rate counts, in a word or two."""
    word = system["rate_kind"].split()[0]
    if "nominal_kbps" in system:
        return f"{word}, of {system['nominal_kbps']:.1f} nominal"
    return word


def _heading(name: str) -> str:
    heading, _, more_is_better = METRICS[name]
    return heading if more_is_better else f"{heading} ↓"


def margin_table(results: dict[str, Any]) -> Table | None:
    """Ours minus Opus at no higher rate; None where there is nothing to compare."""
    margins = margins_over_opus(results)
    if not margins:
        return None
    names = _metrics_shown(results)
    digits = max(map(rate_digits, results["systems"]))
    rows = [
        [
            f"{row['opus_kbps']:.{digits}f}",
            f"{row['our_kbps']:.{digits}f}",
            *(
                "not measured"
                if row[name] is None
                else f"{row[name]:+.{METRICS[name][1]}f}"
                for name in names
            ),
        ]
        for row in margins
    ]
    return Table(
        "Ours minus Opus, at no higher rate",
        ["Opus kbps", "our kbps", *(_heading(name) for name in names)],
        rows,
        [False] * len(rows),
        [],
    )
