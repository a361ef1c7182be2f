"""Score speaker embeddings: ``python recipes/speaker/score.py EXP --data=SPLIT``."""

import sys

import click

from speechbrain_ext.cli import run
from speechbrain_ext.tasks.speaker.backends import CHOICES
from speechbrain_ext.tasks.speaker.score import score


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help="The split folder.")
@click.option(
    "--backend",
    type=click.Choice(CHOICES),
    default="auto",
    help="auto: WCCN and AS-norm if it can be learned; folds: best of train speakers.",
)
@click.option(
    "--nan_trials",
    type=click.Choice(["count", "filter", "raise"]),
    default="count",
    help="A trial without score is an error of the system, left out, or the end.",
)
@click.option("--max_nan_trials", type=click.IntRange(min=0), default=0)
@click.option("--calibrate/--no_calibrate", help="Scores become likelihood ratios.")
def command(experiment, data, **settings):
    """Score the embeddings of EXPERIMENT on the trials of unseen speakers."""
    score(experiment, data, **settings)


if __name__ == "__main__":
    sys.exit(run(command, sys.argv[1:], "score.py"))
