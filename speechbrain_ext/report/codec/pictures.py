"""Which pictures a codec's report has, and of which files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechbrain_ext.report.codec import plots
from speechbrain_ext.report.codec.players import describe_scores
from speechbrain_ext.report.codec.results import system_folder
from speechbrain_ext.report.codec.tables import LABELS


def draw_codec(
    results: dict[str, Any], folder: Path, rows: Sequence[Mapping[str, float]]
) -> list[Path]:
    """Draw rate against distortion, spectrograms, and the learning curves.

    Arguments
    ---------
    results : dict
        As `speechbrain_ext.report.results.read_results` returns them.
    folder : Path
        The experiment; pictures go into its ``plots/``.
    rows : sequence of mapping
        Its training log; may be empty.

    Returns
    -------
    list of Path
        The pictures that could be drawn, in order.
    """
    pictures = [folder / "plots" / "rate_distortion.png"]
    plots.plot_rate_distortion(results, pictures[0])
    wavs, sample_rate = choose_waveforms(results, folder / "reconstructions")
    if len(wavs) > 1:
        pictures.append(folder / "plots" / "spectrograms.png")
        plots.plot_spectrograms(wavs, sample_rate, pictures[-1])
    if rows:
        pictures.append(folder / "plots" / "training.png")
        plots.plot_training(rows, pictures[-1])
    return pictures


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
