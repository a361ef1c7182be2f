"""Tables of results: Markdown for RESULTS.md, and one for the terminal.

Both are made from the same `Table`, as is the one in report.html, so they can't differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from speechbrain_ext.report.results import METRICS, margins_over_opus

LABELS = {"ours": "ours", "opus": "Opus"}


@dataclass(frozen=True)
class Table:
    """Text cells with footnotes.

    Arguments
    ---------
    title : str
        What the figures are.
    headings : list of str
        One per column.
    rows : list of list of str
        Cells; a cell with a footnote ends in ``[n]``.
    ours : list of bool
        Which rows are ours.
    notes : list of str
        Footnotes; the first has the number 1.
    numeric : bool
        Whether all cells but the first of a row are figures, which stand at the right.
    """

    title: str
    headings: list[str]
    rows: list[list[str]]
    ours: list[bool]
    notes: list[str]
    numeric: bool = True


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
            f"{system['kbps']:.1f}",
            system["rate_kind"].split()[0],
            *(cell(system, name) for name in names),
        ]
        for system in systems
    ]
    files = systems[0]["files"]
    return Table(
        f"Mean over {len(files)} test files",
        ["codec", "kbps", "rate", *(_heading(name) for name in names)],
        rows,
        [system["name"] == "ours" for system in systems],
        notes,
    )


def _heading(name: str) -> str:
    heading, _, more_is_better = METRICS[name]
    return heading if more_is_better else f"{heading} ↓"


def margin_table(results: dict[str, Any]) -> Table | None:
    """Ours minus Opus at no higher rate; None where there is nothing to compare."""
    margins = margins_over_opus(results)
    if not margins:
        return None
    names = _metrics_shown(results)
    rows = [
        [
            f"{row['opus_kbps']:.1f}",
            f"{row['our_kbps']:.1f}",
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


def left_out_table(results: dict[str, Any]) -> Table | None:
    """Train utterances in quarantine with their reasons; None if there are none."""
    left_out = results.get("left_out")
    if not left_out:
        return None
    keys = ("utt_id", "reason", "cause", "epoch", "batch", "dump")
    rows = [
        ["" if entry.get(key) is None else str(entry[key]) for key in keys]
        for entry in left_out
    ]
    return Table(
        f"Left out of training: {len(rows)}",
        ["utterance", *keys[1:]],
        rows,
        [False] * len(rows),
        [],
        numeric=False,
    )


LEFT_OUT_NOTE = (
    "These utterances made a batch non-finite and are in quarantine: masked at once, "
    "not drawn from the next epoch on. Dumps lie in the experiment's folder; "
    "`speechbrain-ext analyze-nan` reads them."
)


def plain(value: Any) -> str:
    """Write a condition as text: numbers short, mappings and lists flat."""
    if value is None:
        return "not known"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def condition_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Conditions and health as pairs of text."""
    pairs = {"created": results["created"], **results["conditions"]}
    pairs.update(results["health"])
    rows = []
    for key, value in pairs.items():
        # A seed is a name, not a quantity.
        text = str(value) if key == "seed" else plain(value)
        rows.append((key.replace("_", " "), text))
    return rows


RATE_NOTE = (
    "↓: less is better. Our rates are nominal: codebooks x bits x frames per second. "
    "Those of Opus are measured: its packets without the Ogg container, over the "
    "duration of the files. Opus is aligned to a fraction of a sample before it is "
    "scored."
)


def render_markdown(results: dict[str, Any]) -> str:
    """Write RESULTS.md.

    Arguments
    ---------
    results : dict
        As `speechbrain_ext.report.results.read_results` returns them.

    Returns
    -------
    str
        Markdown, a function of ``results`` alone.
    """
    parts = [
        "# Results",
        "Generated from `results.json` by `speechbrain-ext report`; do not edit.",
    ]
    for table in (score_table(results), margin_table(results)):
        if table:
            parts += [f"## {table.title}", _markdown_table(table)]
            if table.notes:
                parts.append(
                    "\n".join(f"[{i}] {note}." for i, note in enumerate(table.notes, 1))
                )
    parts.append(RATE_NOTE)
    left_out = left_out_table(results)
    if left_out:
        parts += [f"## {left_out.title}", _markdown_table(left_out), LEFT_OUT_NOTE]
    parts += [
        "## Command",
        f"```\n{results['command']}\n```",
        "## Conditions",
        "\n".join(
            ["| condition | value |", "|---|---|"]
            + [
                f"| {key} | {_escaped(value)} |"
                for key, value in condition_rows(results)
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown_table(table: Table) -> str:
    width = len(table.headings)
    lines = [
        "| " + " | ".join(table.headings) + " |",
        "|---" + ("|---:" if table.numeric else "|---") * (width - 1) + "|",
    ]
    for cells, ours in zip(table.rows, table.ours, strict=True):
        cells = [f"**{cell}**" if ours else cell for cell in map(_escaped, cells)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def print_results(results: dict[str, Any], console: Console | None = None) -> None:
    """Print the scores and the margins over Opus as tables in the terminal."""
    console = console or Console()
    for table in (score_table(results), margin_table(results)):
        if not table:
            continue
        shown = RichTable(
            title=table.title,
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
        )
        for index, heading in enumerate(table.headings):
            side = "left" if index == 0 else "right"
            shown.add_column(heading, justify=side, no_wrap=True)
        for cells, ours in zip(table.rows, table.ours, strict=True):
            shown.add_row(
                *(cell.replace("[", "\\[") for cell in cells),
                style="bold green" if ours else None,
            )
        console.print(shown)
        for number, note in enumerate(table.notes, 1):
            console.print(f"\\[{number}] {note}")
    left_out = left_out_table(results)
    if left_out:
        names = escape(", ".join(row[0] for row in left_out.rows))
        console.print(f"{left_out.title} ({names}); reasons are in RESULTS.md")
