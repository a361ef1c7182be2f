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
from speechbrain_ext.scoring.trials import Trials, read_scores

_NAMED = 5


def read_any_scores(
    path: str | Path,
) -> tuple[np.ndarray, np.ndarray, Trials | None]:
    """Read scores with names, or bare.

    Arguments
    ---------
    path : str or Path
        ``label enroll test score`` a line, or ``score label`` a line (label 1 or 0), or
        an ``.npz`` of `trials.write_scores`.

    Returns
    -------
    tuple
        Scores, float [num_trials]; labels, bool [num_trials]; the trials, or None if
        they have no names.

    Raises
    ------
    UserError
        If the file can't be read, naming the first bad lines.
    """
    path = Path(path)
    if path.suffix == ".npz" or _num_fields(path) != 2:
        trials, scores = read_scores(path)
        return scores, trials.labels, trials
    scores, labels, faults = [], [], []
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                fields = line.split()
                try:
                    score, label = fields
                    labels.append({"0": False, "1": True}[label])
                    scores.append(float(score))
                except (ValueError, KeyError):
                    if fields:
                        faults.append(f"  line {number}: {line.strip()[:80]}")
    except UnicodeDecodeError as error:
        raise UserError(f"score: {path} can't be read as text ({error})") from error
    if faults:
        more = [f"  and {len(faults) - _NAMED} more"] if len(faults) > _NAMED else []
        raise UserError(
            "\n".join(
                [f"{path}: each line must be <score> <0 or 1>", *faults[:_NAMED], *more]
            )
        )
    return np.array(scores), np.array(labels, dtype=bool), None


def _num_fields(path: Path) -> int:
    """Count the fields of the first line that is not empty."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return len(next((row for row in map(str.split, stream) if row), ()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"score: {path} can't be read as text ({error})") from error


def figure_tables(
    figures: dict, name: str, policy: str, fars: list[float] | tuple[float, ...]
) -> list[Table]:
    """Tables of `figures.trial_figures`: errors and costs, and thresholds."""
    missing = missing_note(figures, policy)
    counts = f"{figures['num_targets']:,} targets, {figures['num_nontargets']:,} others"
    rows = [
        ["EER %", percent(figures["eer"])],
        ["minDCF, prior .01", small(figures["min_dcf_0.01"])],
        ["minDCF, prior .05", small(figures["min_dcf_0.05"])],
        ["min Cllr, bits", small(figures["min_cllr"])],
    ]
    if figures["cllr"] is not None:
        rows.append(["Cllr, bits", small(figures["cllr"])])
    reasons = figures["not_measured"]
    if reasons.get("cllr") == NOT_CALIBRATED:
        reasons = reasons | {"cllr": "only of log-likelihood ratios: --ratios"}
    notes = [f"{heading}: {why}" for heading, why in reasons.items()]
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
            [*([missing] if missing else []), *notes],
        ),
        Table(
            "Thresholds: accept what scores at least this",
            ["at", "threshold", "false alarms %", "misses %"],
            operating,
            [False] * len(operating),
            [missing] if missing else [],
        ),
    ]


def _name_missing(path: Path, scores: np.ndarray, trials: Trials | None) -> list[str]:
    """Name the first trials without score."""
    where = np.flatnonzero(np.isnan(scores))[:_NAMED]
    if trials is None:
        return [f"  trial {trial + 1} of {path}" for trial in where]
    return [
        f"  {trials.ids[trials.enroll[trial]]} {trials.ids[trials.test[trial]]}"
        for trial in where
    ]


@click.command("score", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scores_file", metavar="SCORES", type=click.Path())
@click.option(
    "--nan_trials",
    type=click.Choice(["count", "filter", "raise"]),
    default="count",
    show_default=True,
    help="A NaN is an error of the system, or left out, or the end.",
)
@click.option("--max_nan_trials", type=click.IntRange(min=0), default=0)
@click.option("--far", "fars", multiple=True, type=click.FloatRange(0, 1))
@click.option("--ratios", is_flag=True, help="Scores are log-likelihood ratios: Cllr.")
@click.option("--plots", type=click.Path(), help="Folder for DET plot and histogram.")
def score(scores_file, nan_trials, max_nan_trials, fars, ratios, plots) -> int:
    """Tell EER, minDCF, Cllr and thresholds of the trials in SCORES.

    A line is "label enroll test score" or "score label", with label 1 for one speaker
    and 0 for two. Exit code 1 if more trials than --max_nan_trials have no score.
    """
    path = Path(scores_file)
    scores, labels, trials = read_any_scores(path)
    missing = int(np.isnan(scores).sum())
    if missing and nan_trials == "raise":
        named = _name_missing(path, scores, trials)
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
    if plots:
        folder = Path(plots)
        _draw(path.stem, scores, labels, figures, fars, folder, nan_trials)
        click.echo(f"written: DET.png and score_histograms.png in {plots}")
    if missing > max_nan_trials:
        named = _name_missing(path, scores, trials)
        more = [f"  and {missing - _NAMED:,} more"] if missing > _NAMED else []
        raise WorkError(
            "\n".join(
                [
                    f"score: {missing:,} trials have no score (allowed: "
                    f"{max_nan_trials:,}, --max_nan_trials)",
                    *named,
                    *more,
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
