"""``speechbrain-ext diff A B``: what is different, and does it matter."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from speechbrain_ext.errors import without_controls
from speechbrain_ext.report.diff.comparison import Row, Section, compare
from speechbrain_ext.report.diff.sides import Side, open_side

#: Columns of the page: key, A, B and a note, with gaps between them.
_WIDTH, _KEY, _NOTE, _GAP = 100, 33, 15, 2
#: A hash is shown by so many digits.
_DIGITS = 12
_HASH = re.compile(r"[0-9a-f]{40,64}")


def render_diff(a: Side, b: Side, sections: Sequence[Section]) -> str:
    """Write the comparison as text of 100 columns."""
    lines = [f"A  {a.name} ({a.kind})", f"B  {b.name} ({b.kind})"]
    for section in sections:
        if section.name == "history" and not section.compared:
            continue
        lines += ["", *_heading(section), *_rows(section.rows)]
    if not any(section.rows for section in sections):
        lines += ["", "No difference in what both have."]
    return "\n".join(lines)


def _heading(section: Section) -> Iterator[str]:
    if not section.compared:
        yield f"{section.name}: {section.note}"
        return
    count = len(section.rows)
    said = f"{count} of {section.compared} differ" if count else "equal"
    yield f"{section.name}: {said}"
    if section.note and (count or section.name == "configuration"):
        yield from textwrap.wrap(
            f"({section.note})", _WIDTH, initial_indent="  ", subsequent_indent="   "
        )


def _rows(rows: Sequence[Row]) -> Iterator[str]:
    """Key, A, B and the note side by side, each within its column."""
    note = _NOTE if any(row.note for row in rows) else 0
    gaps = _GAP * (4 if note else 3)
    value = (_WIDTH - gaps - _KEY - note) // 2
    widths = [_KEY, value, value, note]
    if note:
        yield _line(["", "A", "B", "B - A"], widths)
    for row in rows:
        texts = [row.key, row.a or '""', row.b or '""', row.note]
        cells = [
            _wrapped(text, width)
            for text, width in zip(texts, widths, strict=True)
            if width
        ]
        for number in range(max(map(len, cells))):
            yield _line([c[number] if number < len(c) else "" for c in cells], widths)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
    return (" " * _GAP + (" " * _GAP).join(padded)).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text at spaces, commas and dots, or where it must be."""
    text = _HASH.sub(lambda found: found[0][:_DIGITS], text)
    lines = [""]
    for part in re.split(r"(?<=[ .,:])", text):
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        while len(part) > width:
            lines[-1], part = part[:width], part[width:]
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


@click.command("diff", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a", metavar="EXP_A")
@click.argument("b", metavar="EXP_B")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def diff(a: str, b: str, as_json: bool) -> int:
    """Show what differs between two experiments: settings, figures, data, code.

    Recipes (.yaml), bundles (.zip) and results (.json) can be given too; what only one
    of two has is not compared. Where things are put, and times, are no difference. Exit
    code 0: no difference, 1: some, 2: there is nothing to compare.
    """
    sides = open_side(a), open_side(b)
    sections = compare(*sides)
    different = any(section.rows for section in sections)
    if as_json:
        said = {
            "a": {"name": sides[0].name, "kind": sides[0].kind},
            "b": {"name": sides[1].name, "kind": sides[1].kind},
            "equal": not different,
            "sections": {section.name: asdict(section) for section in sections},
        }
        click.echo(json.dumps(said, indent=1, ensure_ascii=False))
    else:
        click.echo(without_controls(render_diff(*sides, sections)))
    return int(different)
