"""Figures of a codec in ``results.json``, and what can be checked about them.

An entry of ``systems``::

    {"name": "ours", "fidelity" (ours, where an SNR was asked for) or "opus",
     "kbps": float,
     "rate_kind": "nominal", "whole files" or "measured payload",
     "asked_snr_db": float, of "fidelity" alone,
     "nominal_kbps": float, of files of codes: what they would take uncoded,
     "mean": what mean_scores says of the files,
     "files": [{"utt_id", **what score_pair says}, ...]}

Wherever there is an SNR there is a PESQ, or the reason why not, beside it: SNR alone
flatters a waveform codec. The means are checked against the files.

The waveforms lie beside it, in ``reconstructions/<folder>/<utt_id>.wav``, the originals
in the folder ``reference``; `system_folder` names the others.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

#: metric -> (heading, digits after the point, whether more is better). PESQ follows
#: SNR: beside it in every table, on a narrow screen too.
METRICS = {
    "snr_db": ("SNR dB", 2, True),
    "pesq_wb": ("PESQ-WB", 2, True),
    "si_sdr_db": ("SI-SDR dB", 2, True),
    "stoi": ("STOI", 3, True),
    "estoi": ("ESTOI", 3, True),
    "log_spectral_distance_db": ("LSD dB", 2, False),
    "visqol": ("ViSQOL", 2, True),
}
RATE_KINDS = ("nominal", "whole files", "measured payload")


def system_folder(system: dict[str, Any]) -> str:
    """Name the folder of a system's waveforms, such as ``ours_8.0k``."""
    return f"{system['name']}_{system['kbps']:.{rate_digits(system)}f}k"


def rate_digits(system: dict[str, Any]) -> int:
    """Digits that keep rates apart: those of files are nearer to each other."""
    return 2 if system["rate_kind"] == "whole files" else 1


def codec_problems(results: dict[str, Any], folder: Path) -> list[str]:
    """List what is wrong with the systems of a codec's results.

    Arguments
    ---------
    results : dict
        Of a shape that `report.results` has accepted.
    folder : Path
        Not looked at: all that is recomputed stands in the results.

    Returns
    -------
    list of str
        A line for each problem.
    """
    problems = []
    for index, system in enumerate(results["systems"]):
        where = f"systems[{index}]"
        try:
            problems += [f"{where}.{text}" for text in _system_problems(system)]
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"{where}: {type(error).__name__} {error}")
    return problems


def _system_problems(system: dict[str, Any]) -> list[str]:
    from speechbrain_ext.scoring.signal import mean_scores

    problems = []
    kbps = system["kbps"]
    if not isinstance(kbps, (int, float)) or not 0 < kbps < math.inf:
        problems.append(f"kbps: is {kbps}; must be a positive number")
    if system["rate_kind"] not in RATE_KINDS:
        problems.append(f"rate_kind: is {system['rate_kind']!r}; one of {RATE_KINDS}")
    utt_ids = [file["utt_id"] for file in system["files"]]
    if not utt_ids or len(set(utt_ids)) != len(utt_ids):
        problems.append("files: must be a list of at least one, each utt_id once")
    mean = system["mean"]
    if "snr_db" in mean and "pesq_wb" not in mean:
        problems.append(f"mean: {system['name']} has snr_db but no pesq_wb beside it")
    expected = mean_scores(system["files"])
    for name in METRICS:
        found, wanted = mean.get(name), expected.get(name)
        if found is None and wanted is None:
            continue
        if None in (found, wanted) or not math.isclose(found, wanted, rel_tol=1e-6):
            problems.append(f"mean.{name}: is {found}, the files give {wanted}")
    return problems


def margins_over_opus(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare each rate of Opus with our best rate that is not above it.

    Returns
    -------
    list of dict
        For each rate of Opus that one of ours is at most as high as: ``opus_kbps``,
        ``our_kbps``, and for each metric our mean minus that of Opus (None where
        either is not measured).
    """
    ours = [system for system in results["systems"] if system["name"] == "ours"]
    rows = []
    for opus in sorted(results["systems"], key=lambda system: system["kbps"]):
        below = [system for system in ours if system["kbps"] <= opus["kbps"]]
        if opus["name"] != "opus" or not below:
            continue
        best = max(below, key=lambda system: system["kbps"])
        row: dict[str, Any] = {"opus_kbps": opus["kbps"], "our_kbps": best["kbps"]}
        for name in METRICS:
            pair = best["mean"].get(name), opus["mean"].get(name)
            row[name] = None if None in pair else pair[0] - pair[1]
        rows.append(row)
    return rows
