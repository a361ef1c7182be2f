"""One page to read, look at and listen to: ``report.html``.

Tables, plots and style are inside the file; only the audio players point at the
waveforms in ``reconstructions/`` beside it. No script, nothing from the network.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from speechbrain_ext.files import write_text
from speechbrain_ext.report.codec.players import render_players
from speechbrain_ext.report.page import (
    LEFT_OUT_NOTE,
    condition_rows,
    describe,
    left_out_table,
)
from speechbrain_ext.report.tables import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea;
  --page: #f6f7f9; --card: #fff; --ours: #0072b2; --tint: #eaf3fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b4;
  --line: #313a46; --page: #14181e; --card: #1c222a; --ours: #6cb8ec;
  --tint: #1d2f3d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p, li { color: var(--soft); } p.lead { margin: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .75rem; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; }
tr.ours td { background: var(--tint); } tr.ours td:first-child { color: var(--ours);
  font-weight: 700; }
.word { text-align: left; }
.text th, .text td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
.conditions td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
.conditions td:first-child { color: var(--soft); width: 11rem; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 9px; }
img.wide { min-width: 34rem; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin: .5rem 0; padding: 0 .9rem; }
summary { cursor: pointer; padding: .6rem 0; font-weight: 600;
  overflow-wrap: anywhere; }
.player { display: grid; grid-template-columns: 9rem 1fr 14.5rem; gap: .2rem .8rem;
  align-items: center; padding: .35rem 0; border-top: 1px solid var(--line); }
.player.ours b { color: var(--ours); }
.player span { color: var(--soft); font-size: .88rem; text-align: right; }
audio { width: 100%; height: 2.2rem; }
pre { margin: 0; padding: .8rem 1rem; overflow-x: auto; }
@media (max-width: 40rem) { th, td { padding: .42rem .5rem; font-size: .9rem; }
  .player { grid-template-columns: 1fr auto; }
  .player audio { grid-column: 1 / -1; grid-row: 2; } }
"""


def render_html(
    results: dict[str, Any], folder: str | os.PathLike, plots: Sequence[Path]
) -> str:
    """Write the page.

    Arguments
    ---------
    results : dict
        As `speechbrain_ext.report.results.read_results` returns them.
    folder : str or PathLike
        Where the page will lie, and ``reconstructions/`` with it. Waveforms that are
        not there have no player.
    plots : sequence of Path
        PNG files to put into the page.

    Returns
    -------
    str
        The HTML.
    """
    page = describe(results)
    heading = f"{page.heading}: {Path(folder).resolve().name}"
    parts = [
        f"<h1>{escape(heading)}</h1>",
        f"<p class=lead>{escape(page.summary)}</p>",
        *map(_block, page.blocks),
    ]
    parts += [_picture(path) for path in plots]
    parts += [
        _listen(results, Path(folder)),
        *map(_block, page.details),
        _left_out(results),
        "<h2>Command</h2>",
        f"<div class=card><pre>{escape(results['command'])}</pre></div>",
        "<h2>Conditions</h2><div class=card><table class=conditions>",
        *(
            f"<tr><td>{escape(key)}</td><td>{escape(text)}</td></tr>"
            for key, text in condition_rows(results)
        ),
        "</table></div>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def write_html(
    results: dict[str, Any], folder: str | os.PathLike, plots: Sequence[Path]
) -> Path:
    """Write ``report.html`` into ``folder`` atomically; returns its path."""
    path = Path(folder) / "report.html"
    write_text(path, render_html(results, folder, plots))
    return path


def _listen(results: dict[str, Any], folder: Path) -> str:
    return render_players(results, folder) if results["task"] == "codec" else ""


def _block(block: Table | str) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block.replace('`', ''))}</p>"
    heading = escape(block.heading or block.title)
    return f"<h2>{heading}</h2>{_table(block)}\n{_notes(block)}".rstrip()


def _table(table: Table) -> str:
    # The first column is text in every table; the style says that.
    words = [
        " class=word" if table.numeric and index in table.words else ""
        for index in range(len(table.headings))
    ]
    head = "".join(
        f"<th{word}>{escape(heading)}</th>"
        for word, heading in zip(words, table.headings, strict=True)
    )
    rows = "".join(
        f"<tr{' class=ours' if ours else ''}>"
        + "".join(
            f"<td{word}>{escape(cell)}</td>"
            for word, cell in zip(words, cells, strict=True)
        )
        + "</tr>"
        for cells, ours in zip(table.rows, table.ours, strict=True)
    )
    return (
        f"<div class=card><table{'' if table.numeric else ' class=text'}>"
        f"<thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _left_out(results: dict[str, Any]) -> str:
    table = left_out_table(results)
    if not table:
        return ""
    return (
        f"<h2>{escape(table.title)}</h2>{_table(table)}"
        f"<p>{escape(LEFT_OUT_NOTE.replace('`', ''))}</p>"
    )


def _notes(table: Table) -> str:
    if not table.notes:
        return ""
    return (
        "<ol>" + "".join(f"<li>{escape(note)}</li>" for note in table.notes) + "</ol>"
    )


def _picture(path: Path) -> str:
    title = path.stem[:1].upper() + path.stem[1:].replace("_", " ")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f"<h2>{escape(title)}</h2><div class=card><img class=wide "
        f'alt="{escape(title)}" src="data:image/png;base64,{data}"></div>'
    )
