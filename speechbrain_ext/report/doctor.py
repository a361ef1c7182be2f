"""``speechbrain-ext doctor EXP``: health of a training, and the next command.

The checklist for every new run, read from the files of the
experiment; needs neither the model nor the data nor torch.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import read_json
from speechbrain_ext.next_command import next_command
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.task_folders import PLACES
from speechbrain_ext.unpacked import is_unpacked

#: A VQ loss of 6.31 was the sign of codebooks with huge values.
MAX_VQ_LOSS = 2.0
#: A codebook of which less than this share is used is dying.
MIN_CODE_USAGE = 0.1
MAX_REJECTED_FILES = 0.2
#: How much lower a valid SNR may be that is said to hold.
SNR_SLACK_DB = 0.1

#: An error rate of 50 % is a coin's; half of the way to it is no speaker encoder.
MAX_VALID_EER = 0.25

_SPEAKER_TASK = re.compile(r"^task: *\S*\.speaker *$", re.MULTILINE)
_STFT_WARNING = re.compile(r"window was not provided|ComplexHalf", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One line of the checklist.

    Attributes
    ----------
    passed : bool or None
        None: can't be told yet.
    text : str
        What was looked at, and the figure.
    advice : str
        The next command, where it did not pass.
    """

    passed: bool | None
    text: str
    advice: str = ""

    def __str__(self) -> str:
        """Return the line as it is printed."""
        mark = {True: "pass", False: "FAIL", None: " -- "}[self.passed]
        advice = f"\n        next: {self.advice}" if self.passed is False else ""
        return f"  {mark}  {self.text}{advice}"


def examine(experiment: str | Path) -> list[Finding]:
    """Go through the checklist.

    Arguments
    ---------
    experiment : str or Path
        Folder that a training run writes.

    Returns
    -------
    list of Finding
        In the order of the checklist.

    Raises
    ------
    UserError
        If the folder is no experiment.
    """
    folder = Path(experiment)
    if not (folder / "hyperparams.yaml").exists():
        raise UserError(
            f"doctor: {folder} is no experiment (no hyperparams.yaml in it); start one "
            f"with {next_command('./run.sh --stage train', folder)}"
        )
    log = folder / "train_log.txt"
    rows = read_train_log(log) if log.exists() else []
    rows = [row for row in rows if row["epoch"] > 0]  # 0: before any step
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8", errors="replace")
    checks: list[Callable[[Path, list[dict]], Finding]] = [
        _epoch_completed,
        _losses_finite,
        *(_OF_SPEAKERS if _SPEAKER_TASK.search(text) else _OF_CODECS),
        _no_stft_warnings,
        _batches_accepted,
        _files_accepted,
        _checkpoint_there,
    ]
    found = [check(folder, rows) for check in checks]
    return [replace(one, advice=next_command(one.advice, folder)) for one in found]


def _epoch_completed(folder, rows) -> Finding:
    if not rows and is_unpacked(folder):
        return Finding(None, "epochs completed: the bundle does not say")
    return Finding(
        bool(rows),
        f"epochs completed: {len(rows)}",
        f"look at {folder / 'log.txt'}, then ./run.sh --stage train",
    )


def _losses_finite(folder, rows) -> Finding:
    bad = [
        row["epoch"]
        for row in rows
        if not math.isfinite(row.get("train loss", math.nan))
    ]
    return Finding(
        not bad if rows else None,
        "train loss is finite"
        + (f", but not in epoch {bad[0]:.0f}" if bad else " in every epoch"),
        "./run.sh --stage train --preset ultrasafe --tag ultrasafe",
    )


def _snr_finite(folder, rows) -> Finding:
    values = [row["valid snr"] for row in rows if "valid snr" in row]
    best = max((v for v in values if math.isfinite(v)), default=math.nan)
    return Finding(
        all(map(math.isfinite, values)) if values else None,
        f"valid SNR is finite, best {best:.2f} dB" if values else "valid SNR is finite",
        f"speechbrain-ext analyze-nan {folder}, and look at {folder / 'log.txt'}",
    )


def _vq_small(folder, rows) -> Finding:
    if not rows or "train vq" not in rows[-1]:
        return Finding(None, f"VQ loss below {MAX_VQ_LOSS:g}")
    vq = rows[-1]["train vq"]
    return Finding(
        vq < MAX_VQ_LOSS,
        f"VQ loss {vq:.3g}, below {MAX_VQ_LOSS:g}",
        "./run.sh --stage train --tag slow --learning_rate=3e-4",
    )


def _losses_fall(folder, rows) -> Finding:
    losses = [row["train loss"] for row in rows if "train loss" in row]
    if len(losses) < 2:
        return Finding(None, "train loss falls (needs two epochs)")
    change = f"{losses[0]:.3g} -> {losses[-1]:.3g}"
    snr = [row["valid snr"] for row in rows if "valid snr" in row]
    if losses[-1] >= losses[0] and len(snr) > 1 and snr[-1] >= snr[0] - SNR_SLACK_DB:
        # First weights from the data can be as good as what training finds.
        return Finding(
            True,
            f"train loss is flat: {change}; valid SNR holds: {snr[0]:.2f} -> "
            f"{snr[-1]:.2f} dB",
        )
    return Finding(
        losses[-1] < losses[0],
        f"train loss falls: {change}",
        "./run.sh --stage train --tag slow --learning_rate=3e-4",
    )


def _codes_used(folder, rows) -> Finding:
    if not rows or "train usage" not in rows[-1]:
        return Finding(None, "codes are used")
    usage = rows[-1]["train usage"]
    return Finding(
        usage >= MIN_CODE_USAGE,
        f"codes used in a batch: {usage:.0%} of the codebooks",
        "./run.sh --stage train --tag revive --codec.quantizer.dead_threshold=0.2",
    )


def _eer_finite(folder, rows) -> Finding:
    values = [row["valid eer"] for row in rows if "valid eer" in row]
    if not values:
        return Finding(None, "valid EER is finite")
    finite = [value for value in values if math.isfinite(value)]
    if not finite and (why := _why_no_eer(folder)):
        return Finding(
            None,
            f"valid EER is not measured: {why}; the checkpoint is chosen by valid loss",
        )
    best = min(finite, default=math.nan)
    return Finding(
        len(finite) == len(values),
        f"valid EER is finite, best {best:.1%}",
        "look whether valid.json has two utterances of two speakers, then at "
        f"{folder / 'log.txt'}",
    )


def _why_no_eer(folder: Path) -> str:
    """Say what the valid utterances lack for an equal error rate; empty: nothing."""
    entries = read_json(_data_folder(folder) / "valid.json").values()
    counts = Counter(entry.get("spk_id") for entry in entries)
    if len(counts) == 1:
        return "all valid utterances are of one speaker"
    if max(counts.values(), default=0) == 1:
        return "no speaker has two valid utterances"
    return ""


def _eer_low(folder, rows) -> Finding:
    values = [row["valid eer"] for row in rows if "valid eer" in row]
    if values and not any(map(math.isfinite, values)):
        return Finding(None, f"valid EER below {MAX_VALID_EER:.0%}: not measured")
    if len(values) < 2 or not math.isfinite(values[-1]):
        return Finding(None, f"valid EER below {MAX_VALID_EER:.0%} (needs two epochs)")
    return Finding(
        values[-1] < MAX_VALID_EER,
        f"valid EER {values[-1]:.1%}, below {MAX_VALID_EER:.0%}",
        "./run.sh --stage train --tag mild --preset low_scale",
    )


def _speakers_learned(folder, rows) -> Finding:
    """Hold accuracy against its start: the loss grows with the margin's ramp."""
    found = [row["train accuracy"] for row in rows if "train accuracy" in row]
    if len(found) < 2:
        return Finding(None, "train accuracy rises (needs two epochs)")
    return Finding(
        found[-1] > found[0] or found[-1] > 0.99,
        f"train accuracy rises: {found[0]:.1%} -> {found[-1]:.1%}",
        "./run.sh --stage train --tag slow --preset low_lr",
    )


def _no_stft_warnings(folder, rows) -> Finding:
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    found = len(_STFT_WARNING.findall(text))
    return Finding(
        not found,
        f"STFT warnings in log.txt: {found}",
        "take losses from speechbrain_ext.losses, which keep float32 windows",
    )


def _batches_accepted(folder, rows) -> Finding:
    rejected = sum(row.get("train rejected", 0) for row in rows)
    dumps = sorted((folder / "debug_nan").glob("nan_batch_*.json"))
    where = f"look at {folder / 'log.txt'}"
    if dumps:
        where = f"speechbrain-ext analyze-nan {folder}"
    rejected = max(rejected, len(dumps))
    if not rejected and not any("train rejected" in row for row in rows):
        return Finding(None, "batches rejected: not logged")
    return Finding(rejected == 0, f"batches rejected: {rejected:.0f}", where)


def _files_accepted(folder, rows) -> Finding:
    data = _data_folder(folder)
    # The manifests of a split lie below the folder of the corpus.
    places = [place / "rejected.tsv" for place in (data, data.parent)]
    listed = next((place for place in places if place.exists()), None)
    if listed is None:
        return Finding(None, "files rejected in preparation: not listed")
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
    rejected = max(0, len(lines) - 1)
    manifests = [listed.parent / "utterances.json"]
    if not manifests[0].exists():
        manifests = [data / f"{role}.json" for role in ("train", "valid", "test")]
    kept = sum(
        len(json.loads(manifest.read_text(encoding="utf-8")))
        for manifest in manifests
        if manifest.exists()
    )
    return Finding(
        rejected <= MAX_REJECTED_FILES * (rejected + kept),
        f"files rejected in preparation: {rejected} of {rejected + kept}",
        f"read {listed}",
    )


def _data_folder(folder: Path) -> Path:
    """Where the train manifest lies; relative paths are those of egs/<corpus>."""
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^train_manifest: *(.+)$", text, re.MULTILINE)
    if not found:
        return folder
    manifest = Path(found.group(1).strip("'\" "))
    if not manifest.is_absolute() and not manifest.exists():
        manifest = folder.resolve().parent.parent / manifest
    return manifest.parent


def _checkpoint_there(folder, rows) -> Finding:
    if is_unpacked(folder):
        return Finding(True, f"weights are those of a bundle; use them: {_use(folder)}")
    found = len(list((folder / "save").glob("CKPT*/CKPT.yaml")))
    # After the first of several epochs there may be none yet.
    passed = None if not found and len(rows) == 1 else bool(found)
    return Finding(passed, f"checkpoints: {found}", "./run.sh --stage train")


def _use(folder: Path) -> str:
    """Name the command that uses an unpacked model."""
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8", errors="replace")
    task = "speaker" if _SPEAKER_TASK.search(text) else "codec"
    stage = PLACES[task].after_training
    told = next_command(f"./run.sh --stage {stage}", folder)
    name = shlex.quote(folder.resolve().name)
    return told.replace("./run.sh --stage", f"./run.sh --tag {name} --stage")


_OF_CODECS = (_snr_finite, _vq_small, _losses_fall, _codes_used)
_OF_SPEAKERS = (_eer_finite, _eer_low, _speakers_learned)


def render(findings: list[Finding]) -> str:
    """Return the checklist as text, with a verdict as its last line."""
    failed = sum(finding.passed is False for finding in findings)
    last = "training is healthy" if not failed else f"{failed} of {len(findings)} fail"
    return "\n".join([*map(str, findings), f"doctor: {last}"])


@click.command()
@click.argument("experiment", type=click.Path())
def doctor(experiment: str) -> int:
    """Tell whether the training in EXPERIMENT is healthy; exit code 1 if not."""
    findings = examine(experiment)
    click.echo(render(findings))
    return int(any(finding.passed is False for finding in findings))
