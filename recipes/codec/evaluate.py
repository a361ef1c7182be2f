"""Score a codec: ``python recipes/codec/evaluate.py EXP --test_manifest=...``."""

import sys

import click

from speechbrain_ext.cli import run
from speechbrain_ext.tasks.codec.evaluate import evaluate


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option("--test_manifest", required=True, type=click.Path())
@click.option("--kbps", help="Bitrates such as 4,8,16; default: the recipe's.")
@click.option("--snr", help="Ratios in dB to hold, such as 20,30 (wave codec).")
@click.option("--device", help="Default: a GPU if there is one.")
@click.option(
    "--nj",
    type=click.IntRange(min=1),
    help="Processes that measure; default: all cores.",
)
def command(experiment, test_manifest, kbps, snr, device, nj):
    """Score the best checkpoint of EXPERIMENT on the test files, beside Opus."""
    wanted = {"kbps": numbers("--kbps", kbps), "snr": numbers("--snr", snr)}
    evaluate(experiment, test_manifest, **wanted, device=device, jobs=nj)


def numbers(option: str, text: str | None) -> list[float] | None:
    """Read a list such as 4,8,16."""
    try:
        return [float(part) for part in text.split(",")] if text else None
    except ValueError:
        raise click.BadParameter(f"{option}: '{text}' is no list of numbers") from None


if __name__ == "__main__":
    sys.exit(run(command, sys.argv[1:], "evaluate.py"))
