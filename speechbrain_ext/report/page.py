"""What is told of results, in order: RESULTS.md, and the tables of the terminal.

Each task says what stands on its `Page`; everything around it is the same for all.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from speechbrain_ext.report.codec.tables import codec_page
from speechbrain_ext.report.facts import fact_groups
from speechbrain_ext.report.speaker.tables import speaker_page
from speechbrain_ext.report.tables import (
    Page,
    Table,
    escaped,
    markdown_table,
    print_table,
)

#: task -> what stands on its page
PAGES = {"codec": codec_page, "speaker": speaker_page}


def describe(results: dict[str, Any]) -> Page:
    """Say what stands on the page of results that `read_results` accepted."""
    return PAGES[results["task"]](results)


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


def condition_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """All that is known beside the figures as pairs of text, in one list."""
    return [row for rows in fact_groups(results).values() for row in rows]


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
    page = describe(results)
    parts = [
        "# Results",
        "Generated from `results.json` by `speechbrain-ext report`; do not edit.",
    ]
    for block in (*page.blocks, *page.details):
        if isinstance(block, str):
            parts.append(block)
            continue
        parts += [f"## {block.title}", markdown_table(block)]
        if block.notes:
            parts.append(
                "\n".join(f"[{i}] {note}." for i, note in enumerate(block.notes, 1))
            )
    left_out = left_out_table(results)
    if left_out:
        parts += [f"## {left_out.title}", markdown_table(left_out), LEFT_OUT_NOTE]
    parts += [
        "## Command",
        f"```\n{results['command']}\n```",
        "## Conditions",
        "\n".join(
            ["| condition | value |", "|---|---|"]
            + [
                f"| {key} | {escaped(value)} |"
                for key, value in condition_rows(results)
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def render_summary(results: dict[str, Any], folder: str | os.PathLike) -> str:
    """Write summary.txt, which run.sh ends with: one sentence and the first table.

    Arguments
    ---------
    results : dict
        As `speechbrain_ext.report.results.read_results` returns them.
    folder : str or PathLike
        The experiment, to say where everything else stands.
    """
    page = describe(results)
    stream = io.StringIO()
    console = Console(file=stream, width=200, color_system=None)
    table = next(block for block in page.blocks if isinstance(block, Table))
    print_table(table, console)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join(
        [
            page.summary,
            "",
            *filter(None, lines),
            "",
            f"All tables: {Path(folder) / 'RESULTS.md'}",
            "",
        ]
    )


def print_results(results: dict[str, Any], console: Console | None = None) -> None:
    """Print the first tables of the page in the terminal, and what was left out."""
    console = console or Console()
    for block in describe(results).blocks:
        if isinstance(block, Table):
            print_table(block, console)
    left_out = left_out_table(results)
    if left_out:
        names = escape(", ".join(row[0] for row in left_out.rows))
        console.print(f"{left_out.title} ({names}); reasons are in RESULTS.md")
