"""The command line of the stage tokenize; its help imports no torch."""

from __future__ import annotations

import click
from rich.console import Console

from speechbrain_ext.codec.interleaving import PATTERNS
from speechbrain_ext.report.codec.tokens import tokens_table
from speechbrain_ext.report.tables import print_table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option(
    "--data",
    required=True,
    type=click.Path(),
    help="Folder of train.json, valid.json and test.json.",
)
@click.option(
    "--codebooks",
    type=click.IntRange(min=1),
    help="The first N of the codec's; default: 2.",
)
@click.option(
    "--token_kbps",
    "kbps",
    type=click.FloatRange(min=0, min_open=True),
    help="The same by their nominal rate.",
)
@click.option(
    "--interleaving",
    "pattern",
    type=click.Choice(PATTERNS),
    default="coarse_first",
    show_default=True,
    help="Order of the codes.",
)
@click.option(
    "--vocab_size",
    type=click.IntRange(min=1),
    help="Tokens in all; default: what tells the valid files in the fewest bits.",
)
@click.option("--device", help="Default: a GPU if there is one.")
@click.option("--force", is_flag=True, help="Encode anew, also after an interruption.")
@click.option(
    "--skip_without_codes", is_flag=True, help="A codec without codes: say so, exit 0."
)
def command(experiment, data, **settings):
    """Turn the speech of --data into tokens of EXPERIMENT's codec: EXPERIMENT/tokens.

    Nothing is lost: every utterance is read back from its tokens and compared with the
    codec's own codes and waveform.
    """
    # Here, since it imports torch: --help shall not wait for it.
    from speechbrain_ext.tasks.codec.tokenize import tokenize

    record = tokenize(experiment, data, **settings)
    if "skipped" in record:
        click.echo(f"tokenize: skipped: {record['skipped']}")
        return
    print_table(tokens_table(record), Console())
    click.echo(
        f"{record['verified']['utterances']} utterances: codes and waveforms come back "
        f"from their tokens as the codec's own; written: {experiment}/tokens"
    )
