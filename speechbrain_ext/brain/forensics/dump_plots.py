"""Picture of a rejected batch: what it sounds like, where it is bad, how loud."""

from __future__ import annotations

import math
import os
from typing import Any

import matplotlib
import numpy as np

from speechbrain_ext.brain.forensics.dump import Dump
from speechbrain_ext.brain.forensics.evidence import row_names, waveforms
from speechbrain_ext.report.plots import COLOURS, open_figure

#: Rows that a picture shows at most, those with NaN or Inf first.
_MAX_ROWS = 8
#: A longer waveform is drawn as its envelope in this many pieces.
_PIECES = 1500
_FLOOR_DB = -100.0
_BAD_COLOUR = COLOURS[1]


def plot_dump(dump: Dump, analysis: dict[str, Any], path: str | os.PathLike) -> bool:
    """Draw the rows of a dump with their bad places, and their levels.

    Arguments
    ---------
    dump : Dump
        The dump.
    analysis : dict
        What `analyze_dump` found in it.
    path : str or PathLike
        PNG to write.

    Returns
    -------
    bool
        Whether there was audio or a [batch, time, channel] tensor to draw; if not,
        nothing is written.
    """
    name = _item_to_draw(analysis["items"])
    if name is None:
        return False
    facts = analysis["items"][name]
    audio = facts["kind"] == "audio"
    rows = _rows_to_draw(analysis, facts)
    rate = analysis["sample_rate"] if audio else None
    height = 1.0 + 1.25 * max(2, len(rows))
    with open_figure(path, 11 if audio else 8, height, dpi=100) as figure:
        title = f"{dump.name}: {analysis['likely_cause'] or dump.cause}"
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
        grid = figure.add_gridspec(
            len(rows), 2 if audio else 1, width_ratios=(3, 1)[: 1 + audio]
        )
        first = None
        for index, row in enumerate(rows):
            axes = figure.add_subplot(grid[index, 0], sharex=first)
            first = first or axes
            if audio:
                _draw_waveform(axes, dump, name, row, rate)
            else:
                _draw_features(axes, dump.items[name][row].float().numpy())
            _mark_bad(axes, facts, row, rate)
            name_of_row = row_names(dump, facts["shape"][0])[row]
            _title(axes, facts, row, name_of_row, analysis["culprits"])
            axes.tick_params(labelbottom=index == len(rows) - 1)
        axes.set_xlabel("time, s" if rate else "samples" if audio else "steps")
        if audio:
            _draw_levels(figure.add_subplot(grid[:, 1]), facts["levels"])
    return True


def _item_to_draw(items: dict[str, dict]) -> str | None:
    """Pick the audio item, one with NaN or Inf first; else a 3-d tensor."""
    fitting = [
        (facts["kind"] != "audio", not facts.get("bad"), name)
        for name, facts in items.items()
        if facts["values"]
        and 0 not in facts["shape"]
        and "complex" not in facts["dtype"]
        and (
            facts["kind"] == "audio"
            or (facts["kind"] == "data" and len(facts["shape"]) == 3)
        )
    ]
    return min(fitting)[2] if fitting else None


def _rows_to_draw(analysis, facts) -> list[int]:
    bad = [entry["row"] for entry in facts["bad"]]
    utt_ids = analysis["utt_ids"]
    if len(utt_ids) == facts["shape"][0]:
        blamed = set(analysis["culprits"])
        bad += [row for row, utt_id in enumerate(utt_ids) if utt_id in blamed]
    every = dict.fromkeys([*bad, *range(facts["shape"][0])])
    return sorted(list(every)[:_MAX_ROWS])


def _draw_waveform(axes, dump: Dump, name: str, row: int, rate: int | None) -> None:
    array, valid = waveforms(dump, name)
    wav = array[row].mean(1) if array.shape[2] > 1 else array[row, :, 0]
    wav = np.where(np.isfinite(wav), wav, 0.0).astype(np.float64)
    step = max(1, math.ceil(len(wav) / _PIECES))
    times = np.arange(0, len(wav), step) / (rate or 1)
    low = np.minimum.reduceat(wav, np.arange(0, len(wav), step))
    high = np.maximum.reduceat(wav, np.arange(0, len(wav), step))
    if step > 1:
        axes.fill_between(times, low, high, color=COLOURS[0], linewidth=0.6)
    else:
        axes.plot(times, wav, color=COLOURS[0], linewidth=0.8)
    if valid[row] < len(wav):
        end = len(wav) / (rate or 1)
        axes.axvspan(valid[row] / (rate or 1), end, color="#e4e4e4", linewidth=0)
    axes.set_xlim(0, len(wav) / (rate or 1))


def _draw_features(axes, values: np.ndarray) -> None:
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="white")
    shown = np.ma.masked_invalid(values.T)
    axes.imshow(
        shown, origin="lower", aspect="auto", cmap=colours, interpolation="nearest"
    )
    axes.grid(False)
    axes.set_ylabel("channel", fontsize=8)


def _mark_bad(axes, facts, row: int, rate: int | None) -> None:
    """Stripes over NaN and Inf, at least as wide as can be seen."""
    entry = next((entry for entry in facts["bad"] if entry["row"] == row), None)
    left, right = axes.get_xlim()
    least = (right - left) / 300
    for part in entry["ranges"] if entry else []:
        start, stop = (place / (rate or 1) for place in (part["start"], part["stop"]))
        axes.axvspan(
            start, max(stop, start + least), color=_BAD_COLOUR, alpha=0.6, linewidth=0
        )


def _title(axes, facts, row: int, name: str | None, culprits: list[str]) -> None:
    """Name a row; one that is to blame in colour, with what is wrong about it."""
    entry = next((entry for entry in facts["bad"] if entry["row"] == row), None)
    level = facts["levels"][row] if "levels" in facts else {}
    remarks = []
    if entry:
        remarks.append(f"{entry['nan']} NaN, {entry['inf']} Inf")
    if level.get("silent"):
        remarks.append("silent")
    if level.get("peak") is not None and level["peak"] > 1.0:
        remarks.append(f"peak {level['peak']:.3g}")
    text = ": ".join([name or f"row {row}", *([", ".join(remarks)] if remarks else [])])
    colour = _BAD_COLOUR if entry or name in culprits else "black"
    axes.set_title(text, fontsize=9, fontweight="normal", color=colour, pad=3)
    axes.tick_params(labelsize=8)


def _draw_levels(axes, levels: list[dict[str, Any]]) -> None:
    """RMS of every utterance as a bar, its peak as a point."""
    places = np.arange(len(levels))
    decibels = [
        (max(_FLOOR_DB, entry["rms_db"]), _decibels(entry["peak"]))
        if entry["rms_db"] is not None
        else (_FLOOR_DB, _FLOOR_DB)
        for entry in levels
    ]
    rms, peak = zip(*decibels, strict=True)
    colours = [_BAD_COLOUR if entry["silent"] else COLOURS[0] for entry in levels]
    axes.barh(
        places, np.array(rms) - _FLOOR_DB, left=_FLOOR_DB, color=colours, height=0.6
    )
    axes.plot(peak, places, "|", color="black", markersize=10, markeredgewidth=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(_FLOOR_DB, max(6.0, *peak) + 3)
    axes.invert_yaxis()
    names = [str(e["utt_id"] or f"row {e['row']}") for e in levels]
    axes.set_yticks(places, names if len(names) <= 32 else [""] * len(names))
    axes.tick_params(labelsize=8)
    axes.set_title(
        "level, dBFS (bar: RMS, line: peak)", fontsize=9, fontweight="normal"
    )


def _decibels(peak: float) -> float:
    return max(_FLOOR_DB, 20 * math.log10(peak)) if peak else _FLOOR_DB
