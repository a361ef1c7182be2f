"""A result measured again: the weights of a bundle on the audio it was scored on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speechbrain_ext.data.manifest import split_hash
from speechbrain_ext.errors import UserError
from speechbrain_ext.report.speaker.results import scores_path
from speechbrain_ext.scoring.trials import read_scores

#: How far another machine's figures may be off. On the same one they are equal.
RATE_TOLERANCE = 0.005  # EER, minDCF, Cllr
SCORE_TOLERANCE = 2e-3  # of the range of a list's scores
CODEC_TOLERANCES = {
    "snr_db": 0.05,
    "si_sdr_db": 0.05,
    "pesq_wb": 0.03,
    "stoi": 0.003,
    "estoi": 0.003,
    "log_spectral_distance_db": 0.03,
}
_RATES = ("eer", "min_dcf_0.01", "min_dcf_0.05", "cllr", "min_cllr")
#: task -> the manifests whose hash the result names
_ROLES = {
    "speaker": ("train", "valid", "cohort", "test"),
    "codec": ("train", "valid", "test"),
}


def check_data(data: str | os.PathLike) -> None:
    """Find out at once whether there is something to measure from.

    Raises
    ------
    UserError
        If there is no such folder, or no test manifest in it.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise UserError(f"verify: --data {data}: no such folder")
    if (folder / "test.json").is_file():
        return
    below = sorted(path.parent for path in folder.glob("*/test.json"))
    hint = f"--data {below[0]}" if below else "./run.sh --stop_stage prepare"
    raise UserError(
        f"verify: --data {data}: no manifests in it (no test.json); it is the folder "
        f"that stage prepare fills\n  Next: {hint}"
    )


def audio_problems(
    results: dict[str, Any], experiment: Path, data: str | os.PathLike
) -> tuple[list[str], str]:
    """Embed or encode again, score, and compare.

    Arguments
    ---------
    results : dict
        Of the bundle.
    experiment : Path
        The unpacked bundle; its figures and scores are replaced by new ones.
    data : str or PathLike
        Split folder (speakers), or folder of the manifests (codec).

    Returns
    -------
    tuple of list of str and str
        What differs, a line each; and what was compared, with the tolerance.
    """
    data = Path(data)
    paths = [data / f"{role}.json" for role in _ROLES[results["task"]]]
    try:
        found = split_hash(*(path for path in paths if path.exists()))
    except UserError as error:
        return [str(error).splitlines()[0]], ""
    wanted = results["conditions"]["split_hash"]
    if found != wanted:
        return [
            f"{data} is another split: its hash is {found[:16]}, the result is of "
            f"{str(wanted)[:16]}"
        ], ""
    measure = {"speaker": _speaker, "codec": _codec}[results["task"]]
    try:
        return measure(results, experiment, data)
    except UserError as error:
        return [f"can't be measured: {str(error).splitlines()[0]}"], ""


def _speaker(results, experiment: Path, data: Path) -> tuple[list[str], str]:
    from speechbrain_ext.tasks.speaker.embed import embed_split
    from speechbrain_ext.tasks.speaker.score import score

    before = {
        (system["name"], name): read_scores(
            scores_path(experiment, system["name"], name)
        )[1]
        for system in results["systems"]
        for name in system["lists"]
    }
    nan = results["nan_trials"]
    embed_split(experiment, data, allow_nonfinite=True, log=lambda _: None)
    again = score(
        experiment,
        data,
        backend=results["backend"]["asked"],
        nan_trials=nan["policy"],
        max_nan_trials=max(nan["allowed"], nan["most"]),
        calibrate=any(s["calibrated"] for s in results["systems"]),
        draws=1,
    )
    problems, worst = [], 0.0
    for (system, name), scores in before.items():
        path = scores_path(experiment, system, name)
        off = _furthest(scores, read_scores(path)[1]) if path.exists() else math.inf
        worst = max(worst, off)
        if not off <= SCORE_TOLERANCE:
            problems.append(f"{system}, {name}: scores are off by {off:.3g} of a range")
    problems += _speaker_differences(results, again)
    return problems, (
        f"{sum(map(len, before.values())):,} scores of {len(before)} lists, furthest "
        f"off {worst:.1e} of a range (allowed {SCORE_TOLERANCE}); rates within "
        f"{RATE_TOLERANCE}"
    )


def _furthest(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference of scores as part of their range; NaN stands for NaN."""
    if one.shape != other.shape or (np.isnan(one) != np.isnan(other)).any():
        return math.inf
    kept = np.isfinite(one) & np.isfinite(other)
    if not kept.any():
        return 0.0
    spread = float(np.ptp(one[kept])) or 1.0
    return float(np.abs(one[kept] - other[kept]).max()) / spread


def _speaker_differences(results: dict, again: dict) -> Iterator[str]:
    new = {system["name"]: system["lists"] for system in again["systems"]}
    for system in results["systems"]:
        for name, figures in system["lists"].items():
            other = new.get(system["name"], {}).get(name)
            if other is None:
                yield f"{system['name']}, {name}: was not found again"
                continue
            for key in _RATES:
                yield from _difference(
                    f"{system['name']}, {name}: {key}",
                    figures[key],
                    other[key],
                    RATE_TOLERANCE,
                )
    if again["backend"]["chosen"] != results["backend"]["chosen"]:
        yield (
            f"backend.chosen: is {results['backend']['chosen']}, was found to be "
            f"{again['backend']['chosen']}"
        )


def _codec(results, experiment: Path, data: Path) -> tuple[list[str], str]:
    from speechbrain_ext.tasks.codec.evaluate import evaluate

    again = evaluate(experiment, data / "test.json")
    new = {
        (system["name"], system["kbps"]): {f["utt_id"]: f for f in system["files"]}
        for system in again["systems"]
    }
    problems, count = [], 0
    for system in results["systems"]:
        if system["name"] != "ours":  # Opus is what the machine has installed
            continue
        files = new.get((system["name"], system["kbps"]), {})
        for file in system["files"]:
            other = files.get(file["utt_id"], {})
            where = f"{system['kbps']} kbps, {file['utt_id']}"
            for key, tolerance in CODEC_TOLERANCES.items():
                if other.get(key) is None and other and key.startswith("pesq"):
                    continue  # not installed here
                count += 1
                problems += _difference(
                    f"{where}: {key}", file.get(key), other.get(key), tolerance
                )
    return problems, (
        f"{count:,} figures of our codec within "
        + ", ".join(f"{key} {value}" for key, value in CODEC_TOLERANCES.items())
    )


def _difference(where: str, old: Any, new: Any, tolerance: float) -> Iterator[str]:
    if old is None and new is None:
        return
    if None in (old, new) or not abs(old - new) <= tolerance:
        yield f"{where}: is {old}, measured again {new}"
