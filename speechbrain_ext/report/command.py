"""``speechbrain-ext report EXP``: everything people read, from ``results.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile

from speechbrain_ext.files import write_text
from speechbrain_ext.report.html import describe_scores, write_html
from speechbrain_ext.report.results import ResultsError, read_results, system_folder
from speechbrain_ext.report.tables import LABELS, print_results, render_markdown
from speechbrain_ext.report.train_log import read_train_log


def make_report(folder: str | os.PathLike) -> dict[str, Any]:
    """Write RESULTS.md, ``plots/`` and report.html of an experiment.

    Arguments
    ---------
    folder : str or PathLike
        An experiment with ``results.json``. The learning curves need
        ``train_log.txt``, the spectrograms and players ``reconstructions/``; where
        these are missing the report goes without.

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
    from speechbrain_ext.report import plots

    folder = Path(folder)
    results = read_results(folder / "results.json")
    write_text(folder / "RESULTS.md", render_markdown(results))
    pictures = [folder / "plots" / "rate_distortion.png"]
    plots.plot_rate_distortion(results, pictures[0])
    wavs, sample_rate = choose_waveforms(results, folder / "reconstructions")
    if len(wavs) > 1:
        pictures.append(folder / "plots" / "spectrograms.png")
        plots.plot_spectrograms(wavs, sample_rate, pictures[-1])
    log = folder / "train_log.txt"
    rows = read_train_log(log) if log.exists() else []
    if rows:
        pictures.append(folder / "plots" / "training.png")
        plots.plot_training(rows, pictures[-1])
    write_html(results, folder, pictures)
    return results


def choose_waveforms(
    results: dict[str, Any], folder: Path
) -> tuple[dict[str, np.ndarray], int]:
    """Pick what the spectrograms show: the original, two of our rates, and Opus.

    The utterance is the first; Opus is taken at the rate nearest to 8 kbps, ours at
    the nearest rate that is not above it and at the highest.

    Returns
    -------
    tuple of dict and int
        Title to waveform, [time], the original first; and the sample rate in Hz. Files
        that are not there, or of another length, are left out.
    """
    ours, opus = (
        sorted(
            (system for system in results["systems"] if system["name"] == name),
            key=lambda system: system["kbps"],
        )
        for name in ("ours", "opus")
    )
    near = min(opus, key=lambda system: abs(system["kbps"] - 8), default=None)
    chosen = [near] if near else []
    if ours:
        limit = near["kbps"] if near else 8
        below = [system for system in ours if system["kbps"] <= limit] or ours[:1]
        chosen = (
            [below[-1]] + ([ours[-1]] if ours[-1] is not below[-1] else []) + chosen
        )
    wavs: dict[str, np.ndarray] = {}
    sample_rate = 0
    scores = results["systems"][0]["files"][0]
    path = folder / "reference" / f"{scores['utt_id']}.wav"
    if path.exists():
        wavs["original"], sample_rate = soundfile.read(path, dtype="float32")
    for system in chosen:
        path = folder / system_folder(system) / f"{scores['utt_id']}.wav"
        if not path.exists() or not wavs:
            continue
        wav = soundfile.read(path, dtype="float32")[0]
        found = next(f for f in system["files"] if f["utt_id"] == scores["utt_id"])
        if wav.shape == wavs["original"].shape:
            label = f"{LABELS[system['name']]} {system['kbps']:.1f} kbps"
            wavs[f"{label}: {describe_scores(found)}"] = wav
    return wavs, sample_rate


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
def report(experiment: str) -> None:
    """Write RESULTS.md, plots and report.html of EXPERIMENT, and print the scores.

    Everything is made from results.json; nothing is measured again.
    """
    folder = Path(experiment)
    if not folder.is_dir():
        raise ResultsError(
            f"report: there is no folder {folder}; give the experiment's, for example "
            "egs/telugu/exp/transform_espeak"
        )
    print_results(make_report(folder))
    click.echo(f"written: {folder / 'RESULTS.md'}, {folder / 'report.html'}, plots/")
