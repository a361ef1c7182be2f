"""Embed a split: ``python recipes/speaker/embed.py EXP --data SPLIT_FOLDER``."""

import sys

import click

from speechbrain_ext.cli import run
from speechbrain_ext.tasks.speaker.embed import embed_split
from speechbrain_ext.tasks.speaker.embedder import BATCH_SECONDS, MAX_SECONDS

SECONDS = {"type": click.FloatRange(min=0, min_open=True), "show_default": True}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help="Split folder.")
@click.option("--device", help="Default: a GPU if there is one.")
@click.option(
    "--batch_seconds", default=BATCH_SECONDS, help="Audio in a batch.", **SECONDS
)
@click.option(
    "--max_seconds", default=MAX_SECONDS, help="Longer: chunks, averaged.", **SECONDS
)
@click.option("--allow_nonfinite", is_flag=True, help="NaN or Inf: exit 0 all the same.")
def command(experiment, data, **settings):
    """Embed test.json and cohort.json of --data by EXPERIMENT's best checkpoint."""
    embed_split(experiment, data, **settings)


if __name__ == "__main__":
    sys.exit(run(command, sys.argv[1:], "embed.py"))
