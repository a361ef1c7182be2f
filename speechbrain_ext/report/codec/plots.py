"""Pictures of a codec: rate against quality, spectrograms, learning curves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from speechbrain_ext.report.codec.results import METRICS
from speechbrain_ext.report.plots import COLOURS, Panel, draw_curves, open_figure, say

SYSTEMS = {
    "ours": ("ours", COLOURS[0], "o"),
    "fidelity": ("ours, SNR held", COLOURS[2], "^"),
    "opus": ("Opus", COLOURS[1], "s"),
}


def plot_rate_distortion(
    results: dict[str, Any],
    path: str | os.PathLike,
    metrics: Sequence[str] | None = None,
) -> None:
    """Draw quality over bitrate, ours and Opus, one panel for each metric.

    Arguments
    ---------
    results : dict
        As `speechbrain_ext.report.results.read_results` returns them.
    path : str or PathLike
        PNG to write.
    metrics : sequence of str or None
        Metrics to show. A panel without any figure says so. None: SNR and PESQ, and
        ViSQOL where it was measured.
    """
    if metrics is None:
        # Codecs are searched by SNR and PESQ. What none of them was searched by stands
        # beside them, so that the picture does not flatter.
        unsearched = any(s["mean"].get("visqol") for s in results["systems"])
        metrics = ("snr_db", "pesq_wb", *(("visqol",) if unsearched else ()))
    with open_figure(path, 5.2 * len(metrics), 4.2) as figure:
        rates = [system["kbps"] for system in results["systems"]]
        for axes, metric in zip(
            figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
        ):
            heading, _, more_is_better = METRICS[metric]
            better = "" if more_is_better else ", less is better"
            axes.set_title(f"{heading}{better}")
            drawn = [_draw_system(axes, results, name, metric) for name in SYSTEMS]
            if not any(drawn):
                say(axes, "not measured")
            _log_rate_axis(axes, rates)
        figure.axes[0].legend(loc="upper left")


def _draw_system(axes, results: dict[str, Any], name: str, metric: str) -> bool:
    label, colour, marker = SYSTEMS[name]
    points = sorted(
        (system["kbps"], system["mean"][metric])
        for system in results["systems"]
        if system["name"] == name and system["mean"].get(metric) is not None
    )
    if not points:
        return False
    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=label)
    return True


def _log_rate_axis(axes, rates: Sequence[float]) -> None:
    """Octaves of bitrate, labelled with whole numbers people know."""
    axes.set_xscale("log", base=2)
    low, high = min(rates) / 1.15, max(rates) * 1.15
    axes.set_xlim(low, high)
    ticks = [0.5, 1, 2, 4, 8, 16, 24, 32, 64]
    axes.xaxis.set_major_locator(
        FixedLocator([tick for tick in ticks if low <= tick <= high])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.set_xlabel("bitrate, kbps")


def plot_spectrograms(
    wavs: Mapping[str, np.ndarray],
    sample_rate: int,
    path: str | os.PathLike,
    *,
    range_db: float = 80.0,
    seconds: float = 4.0,
) -> None:
    """Draw spectrograms under each other, on one time axis and one colour scale.

    Arguments
    ---------
    wavs : mapping of str to np.ndarray
        Title of each panel and its waveform, [time]; the first is the reference, whose
        strongest bin is 0 dB.
    sample_rate : int
        In Hz.
    path : str or PathLike
        PNG to write.
    range_db : float
        What lies deeper than this is black.
    seconds : float
        How much is drawn, from the first sound on.
    """
    from scipy.signal import ShortTimeFFT, get_window

    reference = next(iter(wavs.values()))
    # The first sample above -40 dB of the peak: many files start with silence.
    loud = np.flatnonzero(np.abs(reference) > 0.01 * np.abs(reference).max())
    start = max(0, (int(loud[0]) if loud.size else 0) - sample_rate // 20)
    stop = min(reference.size, start + round(seconds * sample_rate))
    size = round(0.025 * sample_rate)
    stft = ShortTimeFFT(
        get_window("hann", size), size // 5, sample_rate, mfft=4 * size, scale_to="psd"
    )
    levels = {
        title: 10 * np.log10(stft.spectrogram(_at_least(wav[start:stop], size)) + 1e-20)
        for title, wav in wavs.items()
    }
    top = next(iter(levels.values())).max()
    duration = (stop - start) / sample_rate
    with open_figure(path, 9, 0.6 + 1.75 * len(wavs), dpi=100) as figure:
        panels = figure.subplots(len(wavs), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, level) in zip(panels, levels.items(), strict=True):
            image = axes.imshow(
                np.clip(level - top, -range_db, 0),
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=-range_db,
                vmax=0,
                extent=(0, duration, 0, sample_rate / 2000),
                interpolation="nearest",
            )
            axes.set_title(title)
            axes.set_ylabel("kHz")
            axes.grid(False)
        panels[-1].set_xlabel("time, s")
        figure.colorbar(image, ax=list(panels), label="dB", aspect=40, pad=0.01)


def _at_least(wav: np.ndarray, size: int) -> np.ndarray:
    """Continue a shorter waveform by silence; NaN and Inf become silence as well."""
    wav = np.nan_to_num(wav, nan=0.0, posinf=0.0, neginf=0.0)
    return np.pad(wav, (0, max(0, size - wav.size)))


def plot_training(rows: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draw how the losses fell, and what the codec does on the valid files.

    Arguments
    ---------
    rows : sequence of mapping
        As `speechbrain_ext.report.train_log.read_train_log` returns them.
    path : str or PathLike
        PNG to write. Epochs that are not finite are gaps, counted in the legend.
    """
    losses = [("train loss", "loss"), ("train recon", "recon"), ("train vq", "vq")]
    names = {name for row in rows for name in row}
    valid = [("valid loss", "loss")] if "valid loss" in names else []
    snrs = sorted((n for n in names if n.startswith("valid snr")), key=_rate_of)
    losses = [pair for pair in losses if pair[0] in names]
    snrs = [(name, _snr_label(name)) for name in snrs]
    panels = [
        Panel("loss", losses, "upper right", falling=True),
        Panel("SNR on the valid files, dB", snrs, "lower right"),
    ]
    if valid:
        # Such a run chooses by it: what mends the sound may cost SNR.
        panels.insert(1, Panel("loss on the valid files", valid, "upper right", True))
    draw_curves(panels, rows, path)


def _rate_of(name: str) -> float:
    """Bitrate in a name like ``valid snr_8k``; the mean comes last."""
    digits = name.rpartition("_")[2].rstrip("k")
    try:
        return float(digits)
    except ValueError:
        return math.inf


def _snr_label(name: str) -> str:
    rate = _rate_of(name)
    return "mean" if math.isinf(rate) else f"{rate:g} kbps"
