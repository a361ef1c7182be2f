"""Pictures of speaker verification: DET curves, score histograms, learning curves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    NullLocator,
    PercentFormatter,
)

from speechbrain_ext.report.plots import COLOURS, Panel, draw_curves, open_figure, say
from speechbrain_ext.scoring.metrics import det_curve, equal_error_rate

#: Rates in per cent that the axes of a DET plot may name.
_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90)
_UNTRAINED = "#888888"
_TARGET, _NONTARGET = COLOURS[0], COLOURS[1]


def plot_det(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    path: str | os.PathLike,
    *,
    chosen: str = "",
    nan: str = "count",
) -> None:
    """Draw misses over false alarms on probit axes, with points at the EER.

    On these axes (Martin et al., 1997, "The DET curve") normally distributed scores
    are straight lines.

    Arguments
    ---------
    panels : mapping
        Title to (label of a system to (scores, labels), each [num_trials]). A list
        without targets or non-targets says so.
    path : str or PathLike
        PNG to write.
    chosen : str
        Label of the system that is drawn bold.
    nan : {"count", "filter"}
        What a score that is NaN is.
    """
    systems = dict.fromkeys(name for panel in panels.values() for name in panel)
    colours = _colours(list(systems), chosen)
    with open_figure(path, 0.4 + 5.2 * len(panels), 6.2) as figure:
        for axes, (title, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0],
            panels.items(),
            strict=True,
        ):
            axes.set_title(title)
            rates = []
            drawn = [
                (name, scored)
                for name, scored in curves.items()
                if _drawable(*scored, nan)
            ]
            for name, (scores, labels) in drawn:
                far, frr, _ = det_curve(scores, labels, nan=nan)
                eer = equal_error_rate(scores, labels, nan=nan)[0]
                rates.append(eer)
                bold = name == chosen
                # Without an error there is no curve within the axes, only its end.
                num = (np.count_nonzero(~labels), np.count_nonzero(labels))
                num = num if eer else (10**9, 10**9)
                axes.plot(
                    _probit(far, num[0]),
                    _probit(frr, num[1]),
                    color=colours[name],
                    linewidth=2.4 if bold else 1.3,
                    zorder=3 if bold else 2,
                    label=f"{name}: EER {100 * eer:.2f} %",
                )
            if rates:
                limits = _probit_axes(axes, min(rates), max(rates))
                for (name, _), eer in zip(drawn, rates, strict=True):
                    # A rate of 0 lies infinitely far away: in the corner.
                    point = np.clip(_probit(np.array([eer]), 10**9), *limits)
                    axes.plot(
                        point, point, "o", color=colours[name], zorder=4, clip_on=False
                    )
                _legend_below(axes, 2)
            else:
                say(axes, "no target or no non-target trials")


def _colours(systems: Sequence[str], chosen: str) -> dict[str, str]:
    """Give ours the blue of every report, and what was not trained a grey."""
    others = iter(COLOURS[1:] * (1 + len(systems)))
    special = {chosen or systems[0]: COLOURS[0], "channel only": _UNTRAINED}
    return {name: special.get(name) or next(others) for name in systems}


def _legend_below(axes, ncols: int) -> None:
    """Keep the legend off the curves, which may go anywhere."""
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=ncols, fontsize=9.5
    )


def _drawable(scores: np.ndarray, labels: np.ndarray, nan: str) -> bool:
    kept = labels[~np.isnan(scores)] if nan == "filter" else labels
    return bool(kept.any() and not kept.all())


def _probit(rates: np.ndarray, num_trials: int) -> np.ndarray:
    """Clip at half a trial: a rate of 0 or 1 lies infinitely far away."""
    from scipy.special import ndtri

    half = 0.5 / num_trials
    return ndtri(np.clip(rates, half, 1 - half))


def _probit_axes(axes, lowest: float, highest: float) -> np.ndarray:
    """Square axes around the points of equal error, in per cent; returns the limits."""
    low, high = max(lowest / 20, 2e-4), min(max(2.5 * highest, 0.6), 0.95)
    ticks = [tick for tick in _TICKS if low <= tick / 100 <= high]
    places = _probit(np.array(ticks) / 100, 10**9)
    limits = _probit(np.array([low, high]), 10**9)
    axes.plot(limits, limits, ":", color="#888888", linewidth=1, zorder=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(places))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="false alarms, %", ylabel="misses, %")
    return limits


def plot_histograms(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[tuple[str, float]]]],
    path: str | os.PathLike,
) -> None:
    """Draw how the scores of targets and non-targets lie, with thresholds.

    Arguments
    ---------
    panels : mapping
        Title to (scores, labels, thresholds): [num_trials] twice, and pairs of a name
        and a score. Each kind of trial adds up to 1. Scores that are not finite are
        left out and counted in the legend.
    path : str or PathLike
        PNG to write.
    """
    with open_figure(path, 0.4 + 5.2 * len(panels), 4.6) as figure:
        for axes, (title, (scores, labels, thresholds)) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0],
            panels.items(),
            strict=True,
        ):
            axes.set_title(title)
            axes.set_xlabel("score")
            axes.set_ylabel("share of its kind (each adds up to 100 %)")
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            finite = np.isfinite(scores)
            if not finite.any():
                say(axes, "no finite score")
                continue
            bins = _bins(scores[finite])
            for name, chosen, colour in (
                ("non-target", ~labels, _NONTARGET),
                ("target", labels, _TARGET),
            ):
                kept = scores[chosen & finite]
                broken = int(np.count_nonzero(chosen & ~finite))
                label = name + (f" ({broken} not finite)" if broken else "")
                if kept.size:
                    axes.hist(
                        kept,
                        bins,
                        weights=np.full(kept.size, 1 / kept.size),
                        color=colour,
                        alpha=0.55,
                        label=label,
                    )
            _draw_thresholds(axes, thresholds)
            _legend_below(axes, 3)


def _bins(scores: np.ndarray) -> np.ndarray:
    low, high = scores.min(), scores.max()
    if high - low <= 1e-6 * max(1.0, abs(high)):  # constant: its digits say nothing
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, 61)


def _draw_thresholds(axes, thresholds: Sequence[tuple[str, float]]) -> None:
    """Vertical lines, told apart by their dashes, since they may lie close."""
    for (name, value), style in zip(thresholds, ("-", "--", ":", "-."), strict=False):
        axes.axvline(value, color="#333333", linewidth=1.2, linestyle=style, label=name)
    axes.margins(x=0.02)
    axes.set_ylim(top=1.05 * axes.get_ylim()[1])


def plot_training(rows: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draw how the loss fell, and the errors on held-out utterances.

    Arguments
    ---------
    rows : sequence of mapping
        As `speechbrain_ext.report.train_log.read_train_log` returns them.
    path : str or PathLike
        PNG to write. Epochs that are not finite are gaps, counted in the legend.
    """
    names = {name for row in rows for name in row}

    if not any(math.isfinite(row.get("valid eer", math.nan)) for row in rows):
        names.discard("valid eer")

    def there(*curves: tuple[str, str]) -> list[tuple[str, str]]:
        return [pair for pair in curves if pair[0] in names]

    panels = [
        Panel(
            "loss",
            there(("train loss", "train"), ("valid loss", "valid")),
            "upper right",
            falling=True,
        ),
    ]
    eer = there(("valid eer", "of their pieces"))
    if eer:
        title = "EER on the valid utterances"
        panels.append(Panel(title, eer, "upper right", in_percent=True))
    accuracy = there(
        ("train accuracy", "train"),
        ("valid accuracy", "valid"),
    )
    if accuracy:
        title = "accuracy: which speaker is it?"
        panels.append(Panel(title, accuracy, "lower right", in_percent=True))
    draw_curves(panels, rows, path)
