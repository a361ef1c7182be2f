"""How all pictures look, and learning curves."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from speechbrain_ext.files import atomic_path

#: Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@contextmanager
def open_figure(
    path: str | os.PathLike, width: float, height: float, dpi: int = 150
) -> Iterator[Figure]:
    """Open a figure that is written to ``path`` at the end, without any window."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure((width, height), layout="constrained")
        yield figure
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=dpi, metadata={"Software": None})


def say(axes, text: str) -> None:
    """Write into an empty panel why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes)


@dataclass(frozen=True)
class Panel:
    """One picture of `draw_curves`.

    Attributes
    ----------
    title : str
        What is drawn, with its unit.
    curves : list of tuple of str
        Name in the log, and label in the legend; one labelled "mean" is black.
    corner : str
        Place of the legend, in matplotlib's words.
    falling : bool
        Whether small values shall show: logarithmic where all are positive.
    in_percent : bool
        Whether values are shares, to be read in per cent.
    """

    title: str
    curves: list[tuple[str, str]]
    corner: str
    falling: bool = False
    in_percent: bool = False


def draw_curves(
    panels: Sequence[Panel],
    rows: Sequence[Mapping[str, float]],
    path: str | os.PathLike,
) -> None:
    """Draw figures of a training log over the epochs.

    Arguments
    ---------
    panels : sequence of Panel
        Two stand beside each other.
    rows : sequence of mapping
        As `speechbrain_ext.report.train_log.read_train_log` returns them.
    path : str or PathLike
        PNG to write. Epochs that are not finite are gaps, counted in the legend.
    """
    with open_figure(path, 5.2 * len(panels), 4.2) as figure:
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for index, (name, label) in enumerate(panel.curves):
                points = [(row["epoch"], row[name]) for row in rows if name in row]
                broken = sum(not math.isfinite(value) for _, value in points)
                if broken:
                    label += f" ({broken} not finite)"
                axes.plot(
                    *zip(*points, strict=True),
                    color="black" if label == "mean" else COLOURS[index % 6],
                    linestyle="--" if label == "mean" else "-",
                    marker="." if len(points) < 60 else None,
                    label=label,
                )
            axes.set_title(panel.title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if panel.curves:
                axes.legend(loc=panel.corner)
            else:
                say(axes, "not in the log")
            if panel.falling:
                _log_axis(axes)
            if panel.in_percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1))


def _log_axis(axes) -> None:
    """Make the axis logarithmic if every value is positive, so that small ones show."""
    values = np.concatenate([line.get_ydata() for line in axes.lines] or [[0.0]])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
