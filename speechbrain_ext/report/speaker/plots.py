"""Pictures of speaker verification: DET curves, score histograms, learning curves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from speechbrain_ext.report.plots import COLOURS, Panel, draw_curves, open_figure, say
from speechbrain_ext.scoring.metrics import det_curve, equal_error_rate

#: Rates in per cent that the axes of a DET plot may name.
_TICKS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80)
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
    systems = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(systems)}
    with open_figure(path, 0.4 + 5.2 * len(panels), 5.2) as figure:
        for axes, (title, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0],
            panels.items(),
            strict=True,
        ):
            axes.set_title(title)
            rates = [1.0]
            for name, (scores, labels) in curves.items():
                if not _drawable(scores, labels, nan):
                    continue
                far, frr, _ = det_curve(scores, labels, nan=nan)
                eer = equal_error_rate(scores, labels, nan=nan)[0]
                least = 50 / max(1, min(labels.sum(), (~labels).sum()))
                rates += [100 * eer, least]
                bold = name == chosen
                axes.plot(
                    *(
                        _probit(rate, labels, kind)
                        for rate, kind in ((far, 0), (frr, 1))
                    ),
                    color=colours[name],
                    linewidth=2.4 if bold else 1.3,
                    zorder=3 if bold else 2,
                    label=f"{name}: {100 * eer:.2f} %",
                )
                point = _probit_of(np.clip(eer, 1e-6, 1 - 1e-6))
                axes.plot(
                    point, point, "o", color=colours[name], markersize=6, zorder=4
                )
            _probit_axes(axes, rates)
            if axes.lines:
                axes.legend(loc="upper right", title="equal error rate")
            else:
                say(axes, "no target or no non-target trials")


def _drawable(scores: np.ndarray, labels: np.ndarray, nan: str) -> bool:
    kept = labels[~np.isnan(scores)] if nan == "filter" else labels
    return bool(kept.any() and not kept.all())


def _probit_of(rate):
    from scipy.special import ndtri

    return ndtri(rate)


def _probit(rate: np.ndarray, labels: np.ndarray, kind: int) -> np.ndarray:
    """Clip at half a trial: a rate of 0 or 1 lies infinitely far away."""
    half = 0.5 / np.count_nonzero(labels == bool(kind))
    return _probit_of(np.clip(rate, half, 1 - half))


def _probit_axes(axes, rates: Sequence[float]) -> None:
    """Square axes from the smallest rate of interest to a bit above the largest EER."""
    low = max(0.01, min(0.5, min(rate for rate in rates if rate > 0)))
    high = min(99.0, max(40.0, 1.5 * max(rates)))
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    for axis, limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        limits(_probit_of(low / 100), _probit_of(high / 100))
        axis.set_major_locator(FixedLocator([_probit_of(t / 100) for t in ticks]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(
            FuncFormatter(lambda _, index: f"{ticks[index]:g}" if ticks else "")
        )
    axes.plot(
        axes.get_xlim(), axes.get_xlim(), ":", color="#888888", linewidth=1, zorder=1
    )
    axes.lines[-1].set_label("_equal")
    axes.set_aspect("equal")
    axes.set_xlabel("false alarms, %")
    axes.set_ylabel("misses, %")


def plot_histograms(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[tuple[str, float]]]],
    path: str | os.PathLike,
) -> None:
    """Draw how the scores of targets and non-targets lie, with thresholds.

    Arguments
    ---------
    panels : mapping
        Title to (scores, labels, thresholds): [num_trials] twice, and pairs of a name
        and a score. Each kind of trial has area 1. Scores that are not finite are left
        out and counted in the legend.
    path : str or PathLike
        PNG to write.
    """
    with open_figure(path, 0.4 + 5.2 * len(panels), 4.2) as figure:
        for axes, (title, (scores, labels, thresholds)) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0],
            panels.items(),
            strict=True,
        ):
            axes.set_title(title)
            axes.set_xlabel("score")
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            finite = np.isfinite(scores)
            if not finite.any():
                say(axes, "no finite score")
                continue
            bins = np.linspace(scores[finite].min(), scores[finite].max() + 1e-9, 61)
            for name, chosen, colour in (
                ("non-target", ~labels, _NONTARGET),
                ("target", labels, _TARGET),
            ):
                kept = scores[chosen & finite]
                broken = int(np.count_nonzero(chosen & ~finite))
                label = name + (f" ({broken} not finite)" if broken else "")
                if kept.size:
                    axes.hist(
                        kept, bins, density=True, color=colour, alpha=0.55, label=label
                    )
            _draw_thresholds(axes, thresholds)
            axes.legend(loc="upper right")


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

    def there(*curves: tuple[str, str]) -> list[tuple[str, str]]:
        return [pair for pair in curves if pair[0] in names]

    panels = [
        Panel(
            "loss",
            there(("train loss", "train"), ("valid loss", "valid")),
            "upper right",
            falling=True,
        ),
        Panel(
            "EER on the valid utterances",
            there(("valid eer", "of 3 s pieces"), ("valid EER", "of 3 s pieces")),
            "upper right",
        ),
    ]
    accuracy = there(
        ("train accuracy", "train"),
        ("train acc", "train"),
        ("valid accuracy", "valid"),
        ("valid acc", "valid"),
    )
    if accuracy:
        panels.append(Panel("accuracy: which speaker is it?", accuracy, "lower right"))
    draw_curves(panels, rows, path)
