"""``results.json``: the one place that holds the figures of an experiment.

RESULTS.md, plots and report.html are generated from it and never typed. Its shape::

    {"task": "codec",
     "created": "2026-01-31T12:00:00+00:00",
     "command": what recomputes it,
     "conditions": {"split_hash", "seed", "config_hash", "versions": {package: version},
                    "train_seconds", "parameters", "device", "threads", ...},
     "systems": [{"name": "ours" or "opus",
                  "kbps": float,
                  "rate_kind": "nominal" or "measured payload",
                  "mean": what mean_scores says of the files,
                  "files": [{"utt_id", **what score_pair says}, ...]}, ...],
     "health": {"rejected_files": int, "rejected_batches": int, ...},
     "left_out": [{"utt_id", "reason", "cause", "epoch", "batch", "dump"}, ...]}

A figure that could not be measured is ``null`` with its reason in ``not_measured``. A
condition that is not known is ``null``. Wherever there is an SNR there is a PESQ, or
the reason why not, beside it: SNR alone flatters a waveform codec. The means are
checked against the files when read, so an edited figure is found. ``left_out`` names
the train utterances in quarantine and is absent where there are none.

The waveforms lie beside it, in ``reconstructions/<folder>/<utt_id>.wav``, the originals
in the folder ``reference``; `system_folder` names the others.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json

#: metric -> (heading, digits after the point, whether more is better). PESQ follows
#: SNR: beside it in every table, on a narrow screen too.
METRICS = {
    "snr_db": ("SNR dB", 2, True),
    "pesq_wb": ("PESQ-WB", 2, True),
    "si_sdr_db": ("SI-SDR dB", 2, True),
    "stoi": ("STOI", 3, True),
    "estoi": ("ESTOI", 3, True),
    "log_spectral_distance_db": ("LSD dB", 2, False),
}
RATE_KINDS = ("nominal", "measured payload")
CONDITIONS = (
    "split_hash",
    "seed",
    "config_hash",
    "versions",
    "train_seconds",
    "parameters",
    "device",
    "threads",
)


class ResultsError(UserError):
    """A ``results.json`` that is missing, broken or edited."""


def system_folder(system: dict[str, Any]) -> str:
    """Name the folder of a system's waveforms, such as ``ours_8.0k``."""
    return f"{system['name']}_{system['kbps']:.1f}k"


def write_results(path: str | os.PathLike, results: dict[str, Any]) -> dict[str, Any]:
    """Check results and write them atomically.

    Arguments
    ---------
    path : str or PathLike
        Where ``results.json`` shall be.
    results : dict
        As the module's documentation says.

    Returns
    -------
    dict
        The same results.

    Raises
    ------
    ResultsError
        If they are not of that shape; all problems in one message, nothing written.
    """
    _refuse(path, find_problems(results))
    write_json(path, results)
    return results


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """Read ``results.json`` and check it.

    Raises
    ------
    ResultsError
        If the file is missing, is no JSON, or is not what `write_results` wrote; all
        problems in one message, with the command that makes it anew.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(path, ["there is no such file"])
    except (OSError, ValueError) as error:
        _refuse(path, [f"can't be read as JSON: {error}"])
    _refuse(path, find_problems(results))
    return results


def _refuse(path: str | os.PathLike, problems: list[str]) -> None:
    if problems:
        raise ResultsError(
            f"results error ({len(problems)}) in {path}\n  "
            + "\n  ".join(problems)
            + "\nmake it anew with: ./run.sh --stage evaluate --force"
        )


def find_problems(results: Any) -> list[str]:
    """List what is wrong with results; empty if nothing is."""
    if not isinstance(results, dict):
        return [f"must be an object, is {type(results).__name__}"]
    problems = [
        f"{key}: missing"
        for key in ("task", "created", "command", "conditions", "systems", "health")
        if key not in results
    ]
    if problems:
        return problems
    if results["task"] != "codec":
        problems.append(f"task: is {results['task']!r}; only 'codec' is known")
    for key in ("conditions", "health"):
        if not isinstance(results[key], dict):
            return [*problems, f"{key}: must be an object"]
    problems += [
        f"conditions.{key}: missing (null if it is not known)"
        for key in CONDITIONS
        if key not in results["conditions"]
    ]
    systems = results["systems"]
    if not isinstance(systems, list) or not systems:
        return [*problems, "systems: must be a list with at least one entry"]
    problems += _left_out_problems(results.get("left_out", []))
    for index, system in enumerate(systems):
        where = f"systems[{index}]"
        try:
            problems += [f"{where}.{text}" for text in _system_problems(system)]
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"{where}: {type(error).__name__} {error}")
    return problems


def _left_out_problems(left_out: Any) -> list[str]:
    if not isinstance(left_out, list):
        return [f"left_out: must be a list, is {type(left_out).__name__}"]
    return [
        f"left_out[{index}]: must have utt_id, reason and dump"
        for index, entry in enumerate(left_out)
        if not isinstance(entry, dict) or not {"utt_id", "reason", "dump"} <= set(entry)
    ]


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
