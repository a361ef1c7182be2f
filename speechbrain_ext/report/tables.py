"""Text cells with footnotes, as Markdown and in the terminal.

report.html shows the same `Table`, so the three can't differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable


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
    words : tuple of int
        Columns of a numeric table that are text after all.
    heading : str
        Title in report.html; empty: the same.
    """

    title: str
    headings: list[str]
    rows: list[list[str]]
    ours: list[bool]
    notes: list[str]
    numeric: bool = True
    words: tuple[int, ...] = ()
    heading: str = ""

    def at_left(self, column: int) -> bool:
        """Tell whether a column holds text."""
        return column == 0 or not self.numeric or column in self.words


@dataclass(frozen=True)
class Page:
    """What is told of a task's results, in order.

    Arguments
    ---------
    heading : str
        Title of report.html.
    summary : str
        One sentence below it.
    blocks : list of Table or str
        Tables and paragraphs that come first; the terminal shows these tables.
    details : list of Table or str
        What follows the pictures.
    """

    heading: str
    summary: str
    blocks: list[Table | str]
    details: list[Table | str] = field(default_factory=list)


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


def escaped(text: str) -> str:
    """Keep a text within its cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(table: Table) -> str:
    """Write a table as Markdown, ours in bold; footnotes are not written."""
    lines = [
        "| " + " | ".join(table.headings) + " |",
        "".join(
            "|---" if table.at_left(column) else "|---:"
            for column in range(len(table.headings))
        )
        + "|",
    ]
    for cells, ours in zip(table.rows, table.ours, strict=True):
        cells = [
            f"**{cell}**" if ours and cell else cell for cell in map(escaped, cells)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def print_table(table: Table, console: Console) -> None:
    """Show a table in the terminal, with its footnotes below."""
    # A title within the table would be wrapped to its width.
    console.print(f"\n{escape(table.title)}", style="italic")
    shown = RichTable(
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for index, heading in enumerate(table.headings):
        side = "left" if table.at_left(index) else "right"
        shown.add_column(heading, justify=side, no_wrap=True)
    for cells, ours in zip(table.rows, table.ours, strict=True):
        shown.add_row(
            *(cell.replace("[", "\\[") for cell in cells),
            style="bold green" if ours else None,
        )
    console.print(shown)
    for number, note in enumerate(table.notes, 1):
        console.print(f"\\[{number}] {note}")
