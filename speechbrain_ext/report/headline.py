"""The figures of a result that one looks at first, without reading all of it.

Nothing is recomputed here: that is what `speechbrain_ext.report.results` is for.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain_ext.errors import UserError
from speechbrain_ext.report.codec.results import METRICS
from speechbrain_ext.report.speaker.text import interval, percent

#: Systems of speaker verification beside the chosen one that are always compared.
_REFERENCES = ("cosine", "channel")
#: Of a codec's figures, the first ones to look at, at each rate.
_FIRST = ("snr_db", "pesq_wb", "estoi")
#: The rate that stands for a codec in one line, if it has one so high, kbps.
_USUAL_KBPS = 8.0


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Arguments
    ---------
    value : float or None
        None if it was not measured.
    text : str
        As tables show it.
    interval : tuple of float or None
        95 % interval, if there is one.
    """

    value: float | None
    text: str
    interval: tuple[float, float] | None = None


def peek_results(path: str | os.PathLike) -> dict[str, Any] | None:
    """Read ``results.json`` without checking its figures; None without one.

    Raises
    ------
    UserError
        If it is there but is no JSON object with a task and systems.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    shape = {"task": str, "systems": list, "conditions": dict}
    if not isinstance(results, dict) or not all(
        isinstance(results.get(key), kind) for key, kind in shape.items()
    ):
        raise UserError(f"{path}: is no results.json: it has task, systems, conditions")
    return results


def figures_of(results: dict[str, Any]) -> dict[str, Figure]:
    """Return name -> figure of what is compared between results.

    Raises
    ------
    UserError
        If the systems are not of the task's shape.
    """
    find = _speaker_figures if results["task"] == "speaker" else _codec_figures
    try:
        return find(results)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"results of {results['task']!r} lack what every result has: "
            f"{type(error).__name__} {error}"
        ) from error


def _speaker_figures(results: dict[str, Any]) -> dict[str, Figure]:
    found = {}
    for system in results["systems"]:
        if not (system["chosen"] or system["name"] in _REFERENCES):
            continue
        label = "chosen backend" if system["chosen"] else system["label"]
        for trials, figures in system["lists"].items():
            eer, pair = figures["eer"], figures.get("eer_interval")
            text = percent(eer) + (f" {interval(pair)}" if pair else "")
            bounds = (pair[0], pair[1]) if pair else None
            found[f"EER %, {trials}, {label}"] = Figure(eer, text, bounds)
            if system["chosen"]:
                cost = figures["min_dcf_0.01"]
                shown = "--" if cost is None else f"{cost:.3f}"
                found[f"minDCF .01, {trials}, {label}"] = Figure(cost, shown)
    return found


def _codec_figures(results: dict[str, Any]) -> dict[str, Figure]:
    found = {}
    for system in _ours(results):
        if "nominal_kbps" in system:
            kbps = system["kbps"]
            found[f"kbps, of {_rate(system)}"] = Figure(kbps, f"{kbps:.2f}")
        for key in _FIRST:
            heading, digits, _ = METRICS[key]
            value = system["mean"].get(key)
            text = "not measured" if value is None else f"{value:.{digits}f}"
            found[f"{heading} at {_rate(system)}"] = Figure(value, text)
    return found


def _rate(system: dict[str, Any]) -> str:
    """Name a rate alike for all corpora; files of the same codes differ in size."""
    if "nominal_kbps" in system:
        return f"{system['nominal_kbps']:.1f} kbps nominal"
    return f"{system['kbps']:.1f} kbps"


def _ours(results: dict[str, Any]) -> list[dict[str, Any]]:
    ours = [system for system in results["systems"] if system["name"] == "ours"]
    return sorted(ours, key=lambda system: system["kbps"])


def headline(results: dict[str, Any]) -> str:
    """Say a result in one short line.

    Raises
    ------
    UserError
        As `figures_of`.
    """
    figures = figures_of(results)
    if results["task"] == "speaker":
        first = next((name for name in figures if name.endswith("chosen backend")), "")
        if not first:
            return "no backend is chosen"
        rate, _, rest = figures[first].text.partition(" ")
        return f"EER {rate} % {rest}".strip()
    ours = _ours(results)
    if not ours:
        return "no rate of ours"
    usual = [system for system in ours if system["kbps"] <= _USUAL_KBPS] or ours[:1]
    at = f"at {_rate(usual[-1])}"
    snr, pesq = (figures[f"{METRICS[key][0]} {at}"].text for key in _FIRST[:2])
    return f"SNR {snr} dB, PESQ {pesq} at {usual[-1]['kbps']:.1f} kbps"
