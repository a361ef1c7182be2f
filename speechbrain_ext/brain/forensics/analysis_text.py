"""The analysis of dumps as text: in colours on a terminal, plain in a pipe."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from speechbrain_ext.brain.forensics.issues import who

_WIDTH = 88
_BAR = 40
_MAX_ROWS = 20
_MAX_RANGES = 5
_MAX_PATTERNS = 20
_HEADING, _BAD, _REMARK, _COMMAND = "bold", "red", "yellow", "bold green"

#: A line and its style.
Line = tuple[str, str]


def print_analyses(
    analyses: Sequence[dict[str, Any]],
    patterns: Sequence[dict[str, Any]],
    broken: Sequence[dict[str, str]],
    *,
    brief: bool = False,
    pictures: Sequence[Path] = (),
    console: Console | None = None,
) -> None:
    """Print each dump in full, then what all of them share.

    Arguments
    ---------
    analyses, patterns, broken
        As `analyze_files` and `find_patterns` return them.
    brief : bool
        Only the overview.
    pictures : sequence of Path
        Plots that were written.
    console : rich.console.Console, optional
        Where to; stdout.
    """
    console = console or Console()

    def show(lines) -> None:
        for text, style in lines:
            # Soft: a pipe gets whole lines, whatever its width is said to be.
            console.print(
                text, style=style or None, markup=False, highlight=False, soft_wrap=True
            )

    if not brief:
        for analysis in analyses:
            show(describe_dump(analysis))
    if len(analyses) > 1 or brief:
        show(describe_all(analyses, patterns))
    if pictures:
        show([(f"written: {', '.join(map(str, pictures))}", "")])
    if broken:
        show([(f"not readable: {len(broken)} of {len(broken) + len(analyses)}", _BAD)])


def _field(name: str, text: Any, style: str = "") -> Iterator[Line]:
    """One fact, wrapped under itself."""
    lines = textwrap.wrap(
        str(text),
        _WIDTH - 14,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for index, line in enumerate(lines or [""]):
        yield f"  {name if not index else '':<11} {line}", style


def _some(names: Sequence[Any], limit: int = 12) -> str:
    more = len(names) - limit
    text = ", ".join(map(str, names[:limit]))
    return text + (f" and {more} more" if more > 0 else "")


def number(value: Any) -> str:
    """Write a number shortly; what is not known is a dash."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}"


def describe_dump(analysis: dict[str, Any]) -> Iterator[Line]:
    """Describe one dump, line by line with styles."""
    yield "", ""
    yield f"{analysis['name']}: rejected, {analysis['cause']}", _HEADING
    yield from _basics(analysis)
    for name, facts in analysis["items"].items():
        yield "", ""
        if facts["kind"] == "labels":
            yield from _describe_labels(name, facts)
        else:
            yield from _describe_values(name, facts, analysis)
    if analysis["gradients"] or analysis["buffers"]:
        yield "", ""
        yield from _describe_gradients(analysis)
    yield "", ""
    yield from _describe_issues(analysis)


def _basics(analysis: dict[str, Any]) -> Iterator[Line]:
    context, diagnosis = analysis["context"], analysis["diagnosis"]
    yield from _field("file", analysis["file"])
    place = f"batch {analysis['batch']} of epoch {analysis['epoch']}"
    for key in ("step", "optimizer_step", "rank"):
        if context.get(key) is not None and (key, context[key]) != ("rank", 0):
            place += f", {key.replace('_', ' ')} {context[key]}"
    yield from _field("place", place)
    yield from _field(
        "loss",
        f"{number(analysis['loss'])}; gradient norm {number(analysis['grad_norm'])}; "
        f"precision {analysis['precision'] or 'not known'}",
    )
    yield from _field("utterances", _some(analysis["utt_ids"]) or "not named")
    if analysis["paths"]:
        yield from _field("files", _some(analysis["paths"], 6))
    if diagnosis.get("cause"):
        detail = diagnosis.get("detail")
        text = diagnosis["cause"] + (f": {detail}" if detail else "")
        yield from _field("diagnosis", text, _BAD)
        where = [
            diagnosis.get(key) for key in ("module", "operation", "phase", "source")
        ]
        if any(where):
            yield from _field("first in", ", ".join(str(w) for w in where if w))
        if diagnosis.get("loss_terms"):
            terms = diagnosis["loss_terms"].items()
            yield from _field(
                "loss terms", ", ".join(f"{k} {_number_or_text(v)}" for k, v in terms)
            )
    elif analysis["module"]:
        yield from _field("first in", analysis["module"])
    if analysis["incident"]:
        weights = analysis["weights"] or "weights not kept"
        yield from _field("incident", f"{analysis['incident']} ({weights})")
    made = [f"{k} {v}" for k, v in analysis["versions"].items() if v != "None"]
    for key in ("device", "task", "recipe", "config_hash"):
        if context.get(key):
            made.append(f"{key.replace('_', ' ')} {context[key]}")
    yield from _field("made with", ", ".join(made) or "not known")
    for line in analysis["left_out"]:
        yield from _field("left out", line, _REMARK)
    for line in analysis["notes"]:
        yield from _field("note", line, _REMARK)


def _number_or_text(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) else str(value)


def _head(name: str, facts: dict[str, Any]) -> str:
    shape = ", ".join(map(str, facts["shape"]))
    kind = "" if facts["kind"] in name else f"{facts['kind']} "
    return f"{name}: {kind}[{shape}] {facts['dtype']}"


def _describe_values(name, facts, analysis) -> Iterator[Line]:
    bad = facts.get("nan") or facts.get("inf")
    rate = analysis["sample_rate"] if facts["kind"] == "audio" else None
    rated = f", {rate} Hz" if rate else ""
    count = math.prod(facts["shape"])
    counted = f"{facts.get('nan', 0)} NaN, {facts.get('inf', 0)} Inf of {count} values"
    yield f"{_head(name, facts)}{rated}", _HEADING
    yield from _field("non-finite", counted, _BAD if bad else "")
    if "mean" in facts:
        yield from _field(
            "values",
            "  ".join(f"{k} {number(facts[k])}" for k in ("min", "max", "mean", "std")),
        )
    elif count:
        yield from _field("values", "none is finite", _BAD)
    if not facts["values"]:
        yield from _field("note", "values not kept: only their statistics", _REMARK)
        return
    if "percentiles" in facts:
        found = facts["percentiles"].items()
        cells = [(f"{key}%", number(value)) for key, value in found]
        wide = [max(map(len, cell)) for cell in cells]
        for index, title in enumerate(("percentile", "value")):
            row = [c[index].rjust(w) for c, w in zip(cells, wide, strict=True)]
            yield f"  {title:<11} {' '.join(row)}", ""
    rows = {e["row"]: e for e in facts.get("levels", [])}
    for title in ("largest", "smallest"):
        told = [_extreme(entry, facts, rows, rate) for entry in facts[title]]
        wide = max(map(len, told), default=0) + 3
        for index in range(0, len(told), 2):
            pair = [text.ljust(wide) for text in told[index : index + 2]]
            yield f"  {title if not index else '':<11} {''.join(pair)}".rstrip(), ""
    yield from _describe_bad(facts)
    yield from _describe_levels(facts)


def _extreme(entry, facts, rows, rate) -> str:
    place = entry["place"]
    text = f"{number(entry['value']):>10} at {place}"
    row = rows.get(place[0]) if place else None
    if rate:
        text += f" {place[facts['time_axis']] / rate:.3f} s"
    return text + (f" {row['utt_id']}" if row and row["utt_id"] else "")


def _describe_bad(facts) -> Iterator[Line]:
    unit = "samples" if facts["kind"] == "audio" else "steps"
    for entry in facts["bad"][:_MAX_ROWS]:
        yield f"  {who(entry)}: {entry['nan']} NaN, {entry['inf']} Inf", _BAD
        if len(facts["shape"]) < 2:
            continue
        for part in entry["ranges"][:_MAX_RANGES]:
            text = f"{unit} {part['start']}-{part['stop'] - 1}"
            seconds = " ({:.4f}-{:.4f} s)"
            if part["stop"] - part["start"] == 1:
                text, seconds = f"{unit[:-1]} {part['start']}", " ({:.4f} s)"
            if "seconds" in part:
                text += seconds.format(*part["seconds"])
            text += ", in the padding" if part["padding"] else ""
            yield f"    {part['what']} at {text}", _BAD
        if entry["num_ranges"] > _MAX_RANGES:
            yield f"    and {entry['num_ranges'] - _MAX_RANGES} more ranges", _BAD
    if len(facts["bad"]) > _MAX_ROWS:
        yield f"  and {len(facts['bad']) - _MAX_ROWS} more rows", _BAD


def _describe_levels(facts) -> Iterator[Line]:
    levels = facts.get("levels", [])
    if not levels:
        return
    headings = ("utterance", "length", "peak", "RMS dBFS", "clipped", "DC", "")
    rows = [
        (
            str(entry["utt_id"] or f"row {entry['row']}"),
            f"{entry['seconds']:.2f} s" if "seconds" in entry else entry["samples"],
            number(entry["peak"]),
            "-" if entry["rms_db"] is None else f"{entry['rms_db']:.1f}",
            "-" if entry["clipped"] is None else f"{entry['clipped']:.1%}",
            number(entry["dc"]),
            "silent" if entry["silent"] else "",
        )
        for entry in levels[:_MAX_ROWS]
    ]
    yield from _table(headings, rows)
    if len(levels) > _MAX_ROWS:
        yield f"  and {len(levels) - _MAX_ROWS} more utterances", ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[Line]:
    """Columns as wide as they need to be; the first is on the left, numbers right."""
    cells = [list(map(str, row)) for row in [headings, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for index, row in enumerate(cells):
        first, *others = zip(row, widths, strict=True)
        text = "  ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)])
        yield f"  {text}".rstrip(), _HEADING if not index else ""


def _describe_labels(name, facts) -> Iterator[Line]:
    yield _head(name, facts), _HEADING
    if "min" not in facts:
        yield from _field("values", "none")
        return
    yield from _field(
        "values",
        f"{facts['unique']} different, from {facts['min']:.0f} to {facts['max']:.0f}"
        + (f"; {facts['num_classes']} classes" if facts.get("num_classes") else ""),
    )
    total = math.prod(facts["shape"])
    shown = list(facts["counts"].items())[:10]
    wide = max(len(label) for label, _ in shown)
    most = shown[0][1]
    for index, (label, count) in enumerate(shown):
        bar = "#" * max(1, round(_BAR * count / most))
        title = "counts" if not index else ""
        text = f"{label.rjust(wide)} {bar:<{_BAR}} {count} ({count / total:.1%})"
        yield f"  {title:<11} {text}", ""
    if facts["unique"] > len(shown):
        yield f"  {'':<11} and {facts['unique'] - len(shown)} more", ""
    for entry in facts.get("out_of_range", [])[:_MAX_RANGES]:
        owner = f" ({entry['utt_id']})" if entry["utt_id"] else ""
        text = f"{entry['value']} at {entry['place']}{owner}"
        yield from _field("out of range", text, _BAD)


def _describe_gradients(analysis) -> Iterator[Line]:
    gradients, buffers = analysis["gradients"], analysis["buffers"]
    yield "gradients", _HEADING
    if "parameters" in gradients:
        bad = gradients["nonfinite"]
        yield from _field(
            "non-finite",
            f"{bad} of {gradients['with_gradient']} tensors "
            f"({gradients['parameters']} parameters)",
            _BAD if bad else "",
        )
    bad = gradients.get("bad", [])
    for entry in bad[:10]:
        counts = f": {entry['nan']} NaN, {entry['inf']} Inf" if "nan" in entry else ""
        yield f"    {entry['name']}{counts}", _BAD
    if len(bad) > 10:
        yield f"    and {max(gradients.get('nonfinite', 0), len(bad)) - 10} more", _BAD
    for index, entry in enumerate(gradients.get("largest", [])[:3]):
        text = f"{entry['name']}: max {number(entry['max_abs'])}, norm "
        yield from _field("largest" * (not index), text + number(entry["norm"]))
    if buffers:
        yield from _field("buffers", f"spoiled by forward: {_some(buffers, 5)}", _BAD)


def _describe_issues(analysis) -> Iterator[Line]:
    yield "issues", _HEADING
    for issue in analysis["issues"]:
        mark = issue["cause"] or "remark"
        lines = textwrap.wrap(f"{mark}: {issue['text']}", _WIDTH - 4)
        for index, line in enumerate(lines):
            yield f"  {'-' if not index else ' '} {line}", _style(issue)
    if not analysis["issues"]:
        yield "  none beside the diagnosis", ""
    if analysis["recommendations"]:
        yield "what to do", _HEADING
    for index, advice in enumerate(analysis["recommendations"], 1):
        lines = textwrap.wrap(f"{advice['cause']}: {advice['text']}", _WIDTH - 5)
        for place, line in enumerate(lines):
            yield f"  {f'{index}.' if not place else '  '} {line}", ""
        if advice["command"]:
            yield f"       {advice['command']}", _COMMAND


def _style(issue: dict[str, Any]) -> str:
    return _BAD if issue["cause"] else _REMARK


def describe_all(
    analyses: Sequence[dict[str, Any]], patterns: Sequence[dict[str, Any]]
) -> Iterator[Line]:
    """Describe all dumps in a table, and what they share."""
    yield "", ""
    yield f"all {len(analyses)} dumps" if len(analyses) > 1 else "overview", _HEADING
    folders = {Path(analysis["file"]).parent for analysis in analyses}
    yield from _left_table(
        ("dump", "likely cause", "first bad layer", "utterances blamed"),
        [
            (
                analysis["name"].removeprefix("nan_")
                if len(folders) == 1
                else analysis["file"],
                analysis["likely_cause"] or analysis["cause"],
                analysis["module"] or "-",
                _some(analysis["culprits"], 3) or "-",
            )
            for analysis in analyses
        ],
    )
    if len(analyses) < 2:
        return
    yield "", ""
    yield "what they share", _HEADING
    for pattern in patterns[:_MAX_PATTERNS]:
        count, total = len(pattern["dumps"]), pattern["of"]
        share = f"all {total} dumps" if count == total else f"{count} of {total} dumps"
        style = _BAD if pattern["what"] == "blamed utterance" else ""
        yield f"  {pattern['what']} {pattern['value']} is in {share}", style
    if len(patterns) > _MAX_PATTERNS:
        yield f"  and {len(patterns) - _MAX_PATTERNS} more (--json lists them)", ""
    if not patterns:
        yield "  nothing: neither utterance, file, layer, cause, epoch nor place", ""


def _left_table(headings, rows) -> Iterator[Line]:
    cells = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for index, row in enumerate(cells):
        text = "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))
        yield f"  {text}".rstrip(), _HEADING if not index else ""
