"""``speechbrain-ext score SCORES``: the figures of any scores, of any toolkit."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console

from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.report.speaker.text import missing_note, percent, small
from speechbrain_ext.report.tables import Table, print_table
from speechbrain_ext.scoring.figures import FARS, NOT_CALIBRATED, trial_figures
from speechbrain_ext.scoring.score_files import read_any_scores
from speechbrain_ext.scoring.trials import Trials

_NAMED = 5
#: Figure -> its label
FIGURES = {
    "eer": "EER %",
    "min_dcf_0.01": "minDCF, prior .01",
    "min_dcf_0.05": "minDCF, prior .05",
    "min_cllr": "min Cllr, bits",
    "cllr": "Cllr, bits",
}


def figure_tables(
    figures: dict, name: str, policy: str, fars: list[float] | tuple[float, ...]
) -> list[Table]:
    """Tables of `figures.trial_figures`: errors and costs, and thresholds."""
    missing = missing_note(figures, policy)
    notes = [missing] if missing else []

    def cell(key: str, shown: str) -> str:
        why = figures["not_measured"].get(key)
        if why == NOT_CALIBRATED:
            why = "only of log-likelihood ratios: --ratios says that these are"
        return f"{shown} {_mark(notes, f'not measured: {why}')}" if why else shown

    rows = [
        [
            label,
            cell(key, percent(figures[key]) if key == "eer" else small(figures[key])),
        ]
        for key, label in FIGURES.items()
    ]
    if missing:
        rows[0][1] += " [1]"
    counts = f"{figures['num_targets']:,} targets, {figures['num_nontargets']:,} others"
    points = [("EER", figures["eer"], figures["eer"], figures["eer_threshold"])]
    points += [
        (f"FAR {100 * rate:g} %", point["far"], point["frr"], point["threshold"])
        for rate, point in zip(fars, figures["thresholds"], strict=False)
    ]
    operating = [
        [at, "none" if t is None else f"{t:.6g}", percent(far), percent(frr)]
        for at, far, frr, t in points
    ]
    return [
        Table(
            f"{name}: {counts}",
            ["figure", "value"],
            rows,
            [False] * len(rows),
            notes,
        ),
        Table(
            "Thresholds: accept what scores at least this",
            ["at", "threshold", "false alarms %", "misses %"],
            operating,
            [False] * len(operating),
            [],
        ),
    ]


def _mark(notes: list[str], note: str) -> str:
    if note not in notes:
        notes.append(note)
    return f"[{notes.index(note) + 1}]"


def odd_scores(scores: np.ndarray, eer: float) -> list[str]:
    """Say what about the scores may not be meant so."""
    notes = []
    infinite = [int((scores == sign * np.inf).sum()) for sign in (1, -1)]
    if any(infinite):
        notes.append(
            f"{infinite[0]:,} scores are +Inf and {infinite[1]:,} -Inf: they count as "
            "higher and lower than all others"
        )
    if eer > 0.5:
        notes.append(
            f"EER {percent(eer)} %: targets score lower than non-targets. Are these "
            "distances? --negate turns them into scores"
        )
    return notes


def _name_missing(path: Path, scores: np.ndarray, trials: Trials | None) -> list[str]:
    """Name the first trials without score."""
    where = np.flatnonzero(np.isnan(scores))
    more = [f"  and {len(where) - _NAMED:,} more"] if len(where) > _NAMED else []
    if trials is None:
        return [f"  trial {n + 1} of {path}" for n in where[:_NAMED]] + more
    return [
        f"  {trials.ids[trials.enroll[n]]} {trials.ids[trials.test[n]]}"
        for n in where[:_NAMED]
    ] + more


@click.command("score", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scores_file", metavar="SCORES", type=click.Path())
@click.option(
    "--trials",
    "keys",
    metavar="KEYFILE",
    type=click.Path(),
    help='Labels of scores without: a list of "1 a b" or "a b target".',
)
@click.option("--negate", is_flag=True, help="Lower is more alike: distances.")
@click.option(
    "--nan_trials",
    type=click.Choice(["count", "filter", "raise"]),
    default="count",
    show_default=True,
    help="A NaN is an error of the system, or left out, or the end.",
)
@click.option(
    "--max_nan_trials",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="More trials without score than this: exit 1, also with filter.",
)
@click.option(
    "--far",
    "fars",
    multiple=True,
    type=click.FloatRange(0, 1),
    help="False alarm rate whose threshold is told; repeatable.",
)
@click.option("--ratios", is_flag=True, help="Scores are log-likelihood ratios: Cllr.")
@click.option("--plots", type=click.Path(), help="Folder for DET plot and histogram.")
def score(
    scores_file, keys, negate, nan_trials, max_nan_trials, fars, ratios, plots
) -> int:
    """Tell EER, minDCF, Cllr and thresholds of the trials in SCORES.

    \b
    A line of SCORES is one of these, parted by blanks, tabs or commas:
      label enrol test score    trial list with scores
      enrol test score label    Kaldi, WeSpeaker
      enrol test label score    SpeechBrain
      score label, label score
      enrol test score          with --trials
    A label is 1 or target, 0 or nontarget. A header line may name the columns; where
    more than one layout fits, it must. Also read: .npz of exp/*/scores.

    Exit code 1 if more trials than --max_nan_trials have no score.
    """  # noqa: D301
    path = Path(scores_file)
    scores, labels, trials, notes = read_any_scores(path, keys)
    if negate:
        scores = -scores
    missing = int(np.isnan(scores).sum())
    named = _name_missing(path, scores, trials)
    if missing and nan_trials == "raise":
        raise WorkError("\n".join([f"score: {missing:,} trials have no score", *named]))
    fars = list(fars) or list(FARS)
    figures = trial_figures(
        scores, labels, nan=nan_trials, calibrated=ratios, fars=fars
    )
    if figures["eer"] is None:
        raise UserError(f"score: {path}: {figures['not_measured']['eer']}")
    console = Console()
    for table in figure_tables(figures, path.name, nan_trials, fars):
        print_table(table, console)
    for note in (*notes, *odd_scores(scores, figures["eer"])):
        click.echo(f"note: {note}", err=True)
    if plots:
        folder = Path(plots)
        _draw(path.stem, scores, labels, figures, fars, folder, nan_trials)
        click.echo(f"written: DET.png and score_histograms.png in {plots}")
    if missing > max_nan_trials:
        raise WorkError(
            "\n".join(
                [
                    f"score: {missing:,} trials have no score (allowed: "
                    f"{max_nan_trials:,}, --max_nan_trials)",
                    *named,
                    "  Next: mend them, or accept so many: "
                    f"--nan_trials={nan_trials} --max_nan_trials={missing}",
                ]
            )
        )
    return 0


def _draw(name, scores, labels, figures, fars, folder: Path, nan: str) -> None:
    # matplotlib takes a second to import; --help shall not wait for it.
    from speechbrain_ext.report.speaker.pictures import named_thresholds
    from speechbrain_ext.report.speaker.plots import plot_det, plot_histograms

    plot_det({name: {name: (scores, labels)}}, folder / "DET.png", nan=nan)
    points = named_thresholds(figures, fars)
    plot_histograms({name: (scores, labels, points)}, folder / "score_histograms.png")
