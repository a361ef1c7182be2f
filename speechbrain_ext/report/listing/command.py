"""``speechbrain-ext list``: which recipes, experiments and results are here."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from speechbrain_ext.checkout import project_root
from speechbrain_ext.errors import without_controls
from speechbrain_ext.report.listing.inventory import (
    list_experiments,
    list_recipes,
    list_results,
)

KINDS = ("recipes", "experiments", "results")

#: Columns of the page, and fewest of the last cell.
_WIDTH, _NARROWEST = 100, 20


def render_list(found: Mapping[str, Sequence[Mapping[str, Any]]], here: Path) -> str:
    """Write what was found as text of 100 columns."""
    parts = []
    for kind, entries in found.items():
        groups: dict[str, list[list[str]]] = {}
        for entry in entries:
            place = _place(entry, here)
            groups.setdefault(place, []).append(_CELLS[kind](entry))
        lines = [f"{kind} ({len(entries)})" if entries else f"{kind}: none"]
        for place, rows in groups.items():
            lines += [*([place] if place else []), *_columns(rows)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _place(entry: Mapping[str, Any], here: Path) -> str:
    """Return the folder that an entry lies in, as seen from here; recipes have none."""
    if "path" not in entry:
        return ""
    folder = Path(entry["path"]).parent
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return f"{folder}/"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align all cells; the last one is wrapped within its column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)]
        start = "  " + "  ".join([*cells, ""])
        room = max(_WIDTH - len(start), _NARROWEST)
        lines = textwrap.wrap(row[-1], room) or [""]
        yield (start + lines[0]).rstrip()
        yield from (" " * len(start) + line for line in lines[1:])


def _recipe_cells(entry: Mapping[str, Any]) -> list[str]:
    results = f" ({entry['results']})" if entry["results"] else ""
    return [entry["name"], entry["about"] + results]


def _experiment_cells(entry: Mapping[str, Any]) -> list[str]:
    epochs = "" if entry["epoch"] is None else f"{entry['epoch']}/{entry['epochs']}"
    health = [
        text
        for count, text in (
            (entry["rejected_batches"], f"{entry['rejected_batches']} rejected"),
            (entry["left_out"], f"{entry['left_out']} left out"),
            (entry["forced"], "forced"),
        )
        if count
    ]
    return [
        Path(entry["path"]).name,
        f"{entry['state']} {epochs}".rstrip(),
        ", ".join(health) or "healthy",
        (entry["when"] or "")[len("2026-") :],
        entry["problem"] or entry["figure"] or "",
    ]


def _result_cells(entry: Mapping[str, Any]) -> list[str]:
    what = entry["problem"] or entry["figure"]
    return [Path(entry["path"]).name, str(entry["digest"] or "")[:12], what]


_CELLS = {
    "recipes": _recipe_cells,
    "experiments": _experiment_cells,
    "results": _result_cells,
}


@click.command("list", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_command(kind: str | None, as_json: bool) -> None:
    """List recipes, experiments and results; all three, or one KIND.

    Experiments are those below egs/ and in the current folder. Figures are read, not
    recomputed: `speechbrain-ext report EXP` checks them.
    """
    root, here = project_root(), Path.cwd()
    find = {
        "recipes": lambda: list_recipes(root),
        "experiments": lambda: list_experiments(root, here),
        "results": lambda: list_results(root),
    }
    found = {name: find[name]() for name in ([kind] if kind else KINDS)}
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        click.echo(without_controls(render_list(found, here)))
