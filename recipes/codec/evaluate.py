"""Score a codec: ``python recipes/codec/evaluate.py EXP --test_manifest=...``."""

import sys

import click

from speechbrain_ext.cli import run
from speechbrain_ext.tasks.codec.evaluate import evaluate


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option("--test_manifest", required=True, type=click.Path())
@click.option("--kbps", help="Bitrates such as 4,8,16; default: the recipe's.")
@click.option("--device", help="Default: a GPU if there is one.")
@click.option("--nj", type=int, help="Processes that measure; default: all cores.")
def command(experiment, test_manifest, kbps, device, nj):
    """Score the best checkpoint of EXPERIMENT on the test files, beside Opus."""
    try:
        rates = [float(rate) for rate in kbps.split(",")] if kbps else None
    except ValueError:
        raise click.BadParameter(f"--kbps: '{kbps}' is no list of numbers") from None
    evaluate(experiment, test_manifest, kbps=rates, device=device, jobs=nj)


if __name__ == "__main__":
    sys.exit(run(command, sys.argv[1:], "evaluate.py"))
