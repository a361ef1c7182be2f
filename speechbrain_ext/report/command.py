"""``speechbrain-ext report EXP``: everything people read, from ``results.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from speechbrain_ext.files import write_text
from speechbrain_ext.report.codec.tokens import read_tokens
from speechbrain_ext.report.html import write_html
from speechbrain_ext.report.page import print_results, render_markdown, render_summary
from speechbrain_ext.report.results import ResultsError, read_results
from speechbrain_ext.report.train_log import read_train_log


def make_report(folder: str | os.PathLike) -> dict[str, Any]:
    """Write RESULTS.md, summary.txt, ``plots/`` and report.html of an experiment.

    Arguments
    ---------
    folder : str or PathLike
        An experiment with ``results.json``. The learning curves need
        ``train_log.txt``, the spectrograms and players ``reconstructions/``, the table
        of tokens ``tokens/``; where these are missing the report goes without.

    Returns
    -------
    dict
        The results.

    Raises
    ------
    ResultsError
        If ``results.json`` is missing or broken.
    """
    # matplotlib takes a second to import; --help shall not wait for it.
    from speechbrain_ext.report.codec.pictures import draw_codec
    from speechbrain_ext.report.speaker.pictures import draw_speaker

    folder = Path(folder)
    results = read_results(folder / "results.json")
    if results["task"] == "codec" and (tokens := read_tokens(folder)):
        results = {**results, "tokens": tokens}
    write_text(folder / "RESULTS.md", render_markdown(results))
    write_text(folder / "summary.txt", render_summary(results, folder))
    draw = {"codec": draw_codec, "speaker": draw_speaker}[results["task"]]
    log = folder / "train_log.txt"
    pictures = draw(results, folder, read_train_log(log) if log.exists() else [])
    write_html(results, folder, pictures)
    return results


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option("--quiet", is_flag=True, help="Write, and print no tables.")
def report(experiment: str, quiet: bool) -> None:
    """Write RESULTS.md, plots and report.html of EXPERIMENT, and print the scores.

    Everything is made from results.json; nothing is measured again.
    """
    folder = Path(experiment)
    if not folder.is_dir():
        raise ResultsError(
            f"report: there is no folder {folder}; give the experiment's, for example "
            "egs/telugu/exp/transform_espeak"
        )
    results = make_report(folder)
    if not quiet:
        print_results(results)
    click.echo(f"written: {folder / 'RESULTS.md'}, {folder / 'report.html'}, plots/")
