"""Which pictures the report of speaker verification has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechbrain_ext.report.speaker import plots
from speechbrain_ext.report.speaker.results import chosen_system, scores_path
from speechbrain_ext.scoring.figures import FARS
from speechbrain_ext.scoring.trials import read_scores


def draw_speaker(
    results: dict[str, Any], folder: Path, rows: Sequence[Mapping[str, float]]
) -> list[Path]:
    """Draw DET curves, score histograms, and the learning curves.

    Arguments
    ---------
    results : dict
        As `speechbrain_ext.report.results.read_results` returns them.
    folder : Path
        The experiment; without its ``scores/`` there are only learning curves.
    rows : sequence of mapping
        Its training log; may be empty.

    Returns
    -------
    list of Path
        The pictures that could be drawn, in order.
    """
    pictures = []
    if (folder / "scores").is_dir():
        pictures = [
            folder / "plots" / name for name in ("DET.png", "score_histograms.png")
        ]
        chosen = chosen_system(results)
        nan = results["nan_trials"]["policy"]
        lists = [name for name in ("main", "hard") if name in chosen["lists"]]
        lists = lists or list(chosen["lists"])[:2]
        titles = {name: f"{name} list" for name in lists}
        if len(lists) == 2 and _same(
            *(_scored(folder, chosen["name"], n) for n in lists)
        ):
            titles = {lists[0]: f"{lists[0]} list; {lists[1]} has the same trials"}
        panels = {
            title: {
                system["label"]: _scored(folder, system["name"], name)
                for system in results["systems"]
            }
            for name, title in titles.items()
        }
        plots.plot_det(panels, pictures[0], chosen=chosen["label"], nan=nan)
        cosine = next(s for s in results["systems"] if s["name"] == "cosine")
        shown = [chosen] if chosen is cosine else [chosen, cosine]
        plots.plot_histograms(
            {
                f"{system['label']}, {lists[0]} list": (
                    *_scored(folder, system["name"], lists[0]),
                    named_thresholds(system["lists"][lists[0]]),
                )
                for system in shown
            },
            pictures[1],
        )
    if rows:
        pictures.append(folder / "plots" / "training.png")
        plots.plot_training(rows, pictures[-1])
    return pictures


def _scored(folder: Path, system: str, trials: str):
    scored, scores = read_scores(scores_path(folder, system, trials))
    return scores, scored.labels


def _same(one, other) -> bool:
    """Whether two lists have the same scores and labels, up to their order."""
    if len(one[0]) != len(other[0]):
        return False
    sorted_ = [np.array(pair, np.float64)[:, np.lexsort(pair)] for pair in (one, other)]
    return np.array_equal(*sorted_, equal_nan=True)


def named_thresholds(
    figures: dict[str, Any], fars: Sequence[float] = FARS
) -> list[tuple[str, float]]:
    """Named scores at which decisions change; those that do not exist are left out."""
    named = [("at EER", figures["eer_threshold"])]
    named += [
        (f"FAR {100 * rate:g} %", point["threshold"])
        for rate, point in zip(fars, figures["thresholds"], strict=False)
    ]
    return [(name, value) for name, value in named if value is not None]
