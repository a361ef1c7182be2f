"""Weights of an experiment that came as a bundle: safetensors beside its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.sharing.weights import read_weights

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"

#: What scoring asks of a checkpoint, by the name of the module.
KNOWN = {"encoder": ("epochs", "valid_eer"), "codec": ("epoch", "snr")}


def brings_weights(folder: Path, save_folder: Path) -> bool:
    """Whether an experiment's weights came with a bundle: nothing was trained since."""
    return (
        not any(save_folder.glob("CKPT*"))
        and (folder / MANIFEST).is_file()
        and (folder / WEIGHTS).is_file()
    )


def load_packed(
    module: torch.nn.Module, folder: Path, save_folder: Path, name: str
) -> dict[str, Any] | None:
    """Load the weights that a bundle brought along, where nothing was trained since.

    Arguments
    ---------
    module : torch.nn.Module
        Gets the weights in place.
    folder : Path
        The experiment.
    save_folder : Path
        Its checkpoints; they come first.
    name : str
        What the recipe calls the module: a key of `KNOWN`.

    Returns
    -------
    dict or None
        What the bundle says of the model (None where it says nothing), and ``sha256``
        of the weights' file; None if there are checkpoints or no bundle.

    Raises
    ------
    UserError
        If the weights are another module's, damaged, or not those of the recipe.
    """
    if not brings_weights(folder, save_folder):
        return None
    manifest = folder / MANIFEST
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        facts = dict(told["model"])
        sha256 = told["files"][WEIGHTS]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{manifest}: no manifest of a bundle ({error}); unpack it again"
        ) from error
    if facts.get("module") != name:
        raise UserError(
            f"{folder}: the bundle brought weights of '{facts.get('module')}', but "
            f"'{name}' is needed here: another task"
        )
    if sha256_file(folder / WEIGHTS) != sha256:
        raise UserError(
            f"{folder / WEIGHTS} is not what {manifest.name} says; unpack it again: "
            "speechbrain-ext unpack BUNDLE FOLDER"
        )
    try:
        module.load_state_dict(read_weights(folder / WEIGHTS))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{folder / WEIGHTS} does not fit the recipe beside it: {first}"
        ) from error
    return {key: facts.get(key) for key in KNOWN[name]} | {"sha256": sha256}
