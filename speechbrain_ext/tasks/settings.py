"""What a recipe asks for, held against what a run can do; its manifests."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from speechbrain_ext.data.manifest import ManifestError, Utterance, verify_manifest
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.errors import UserError
from speechbrain_ext.ranges import range_faults
from speechbrain_ext.tasks.experiment import check_device


def world_size() -> int:
    """Return the number of ranks that train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def runs_on_cpu(run_opts: Mapping) -> bool:
    """Whether a run without a further choice of a device takes the CPU."""
    device = run_opts.get("device")
    return not torch.cuda.is_available() if device is None else device == "cpu"


def setting_faults(hparams: Mapping, run_opts: Mapping) -> list[str]:
    """Name the values of the right type with which no task could train an epoch.

    Arguments
    ---------
    hparams, run_opts : Mapping
        Of a `Recipe`.

    Returns
    -------
    list of str
        One line for each; empty if there is none.

    Raises
    ------
    UserError
        If ``--device`` is not there.
    """
    epochs = hparams["epoch_counter"].limit
    faults = range_faults({**hparams, "number_of_epochs": epochs})
    crops = world_size() * hparams["batch_size"]
    if hparams["crops_per_epoch"] < crops:
        faults.append(
            f"crops_per_epoch must be >= batch_size ({crops}), got "
            f"{hparams['crops_per_epoch']}"
        )
    if 0 < hparams["crop_seconds"] * hparams["sample_rate"] < 1:
        faults.append(f"crop_seconds {hparams['crop_seconds']} are less than a sample")
    device = run_opts.get("device")
    if device is not None:
        check_device(device)
    on_cpu = runs_on_cpu(run_opts)
    for name in ("precision", "eval_precision"):
        if on_cpu and run_opts.get(name, hparams.get(name)) == "fp16":
            faults.append(f"{name} fp16 needs a GPU; on a CPU: --{name}=bf16 or fp32")
    return faults


def refuse(faults: list[str]) -> None:
    """Raise a `UserError` that tells all faults of a recipe's settings, if any."""
    if faults:
        raise UserError("train:\n  " + "\n  ".join(faults))


def manifests(hparams: Mapping) -> tuple[dict, dict]:
    """Read and verify the manifests to learn from and to choose by."""
    return (
        manifest_at(hparams["train_manifest"], hparams["sample_rate"]),
        manifest_at(hparams["valid_manifest"], hparams["sample_rate"]),
    )


def manifest_at(path: str, sample_rate: int) -> dict[str, Utterance]:
    """Read and verify a manifest, files included, before anything is computed.

    Raises
    ------
    ManifestError
        If it is missing or empty, a file is missing or changed, or the audio has
        another sample rate, in Hz.
    """
    utterances = verify_manifest(path)
    if not utterances:
        raise ManifestError(f"{path}: no utterances; prepare data: --stage prepare")
    other = {u.sample_rate for u in utterances.values()} - {sample_rate}
    if other:
        raise ManifestError(
            f"{path}: audio at {sorted(other)} Hz, but the recipe's sample_rate is "
            f"{sample_rate}; prepare the data again, or give --sample_rate={max(other)}"
        )
    return utterances


def enough(utterances: Mapping[str, Utterance], seed: int, seconds: float) -> list:
    """Draw utterances of about ``seconds`` in all, or take all if they are less."""
    order = sorted(
        utterances.values(),
        key=lambda u: generator_for(seed, 0, u.utt_id, "first weights").random(),
    )
    chosen, total = set(), 0.0
    for utterance in order:
        if total < seconds:
            chosen.add(utterance.utt_id)
            total += utterance.duration
    return [u for u in utterances.values() if u.utt_id in chosen]
