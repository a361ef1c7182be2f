"""Search the wave codec's settings: ``python recipes/codec/tune.py EXP [EXP ...]``."""

import sys

import click

from speechbrain_ext.cli import run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiments", type=click.Path(), nargs=-1, required=True)
@click.option("--output", type=click.Path(), help="Default: tuned.yaml in the first.")
@click.option("--evaluations", type=click.IntRange(min=1), default=100)
@click.option("--num_files", type=click.IntRange(min=1), default=8)
@click.option("--kbps", default="7.5,12", help="Rates to listen at.")
@click.option("--lsd_weight", default=0.1, help="PESQ that a dB of LSD costs.")
@click.option("--start", type=click.Path(), help="A preset to start from.")
@click.option("--seed", type=int, default=1)
@click.option("--restart", is_flag=True, help="Forget an earlier search.")
def command(experiments, output, kbps, **options):
    """Search what a wave codec hears with, on train files of EXPERIMENTS.

    What is searched for is a high PESQ-WB and a low log-spectral distance (LSD).

    Writes a preset; train again with --preset FILE. Stopped by Ctrl-C, it has written
    the best so far, and goes on when it is started again.
    """
    from speechbrain_ext.tasks.codec.tune import tune

    try:
        rates = [float(rate) for rate in kbps.split(",")]
    except ValueError:
        raise click.BadParameter(f"--kbps: '{kbps}' is no list of numbers") from None
    print(tune(experiments, output, kbps=rates, **options))


if __name__ == "__main__":
    sys.exit(run(command, sys.argv[1:], "tune.py"))
