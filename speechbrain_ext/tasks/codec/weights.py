"""Which weights of a codec experiment are its result, and how to get them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import Checkpoint

from speechbrain_ext.brain.checkpoints.checkpoint import VerifiedCheckpointer
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.next_command import next_command
from speechbrain_ext.tasks.codec.code_model import attach_code_model
from speechbrain_ext.tasks.conditions import trained_recipe
from speechbrain_ext.tasks.packed import WEIGHTS, load_packed


def load_codec(
    experiment: str | os.PathLike, device: str | torch.device = "cpu", *, stage: str
) -> tuple[torch.nn.Module, dict]:
    """Load the codec that an experiment ended with.

    Arguments
    ---------
    experiment : str or PathLike
        Folder that training wrote; it may have been moved.
    device : str or torch.device
        Where to.
    stage : str
        Who asks, for messages.

    Returns
    -------
    torch.nn.Module
        `TransformCodec`, `SEANetCodec` or `WaveCodec`, in evaluation mode.
    dict
        ``checkpoint`` (path below the experiment), ``sha256`` (of the weights file),
        ``recipe`` (the `Recipe`), ``epoch``, ``valid_snr_db``.

    Raises
    ------
    UserError
        If it is no experiment of a codec, or there is no whole checkpoint.
    """
    folder = Path(experiment)
    recipe = trained_recipe(folder, stage)
    codec = recipe.hparams["modules"].get("codec")
    if codec is None:
        raise UserError(f"{stage}: {folder} holds no codec, but another task")
    save_folder = Path(recipe.hparams["save_folder"])
    if packed := load_packed(codec, folder, save_folder, "codec"):
        return codec.to(device).eval(), {
            "checkpoint": WEIGHTS,
            "sha256": packed["sha256"],
            "recipe": recipe,
            "epoch": packed["epoch"],
            "valid_snr_db": packed["snr"],
        }
    found = load_best(codec, save_folder, stage=stage)
    return codec.to(device).eval(), {
        "checkpoint": str(found.path.relative_to(folder)),
        "sha256": sha256_file(found.paramfiles["codec"]),
        "recipe": recipe,
        "epoch": found.meta["epoch"],
        "valid_snr_db": found.meta["snr"],
    }


def load_best(
    codec: torch.nn.Module, save_folder: Path, *, stage: str = "evaluate"
) -> Checkpoint:
    """Load the best checkpoint, and return it.

    That is the one with the highest valid SNR, or with the lowest valid loss where the
    recipe chose by it.

    Raises
    ------
    UserError
        If there is none, or it is damaged or of another model; ``stage`` says who asks.
    """
    checkpointer = VerifiedCheckpointer(save_folder, {"codec": codec})
    train = next_command("./run.sh --stage train", save_folder.parent)
    if not any(save_folder.glob("CKPT*")):
        raise UserError(
            f"{stage}: no checkpoint in {save_folder}; train first: {train}"
        )
    try:
        by_loss = any("loss" in c.meta for c in checkpointer.list_checkpoints())
        best = {"min_key": "loss"} if by_loss else {"max_key": "snr"}
        found = checkpointer.recover_if_possible(**best)
    except UserError:  # damaged, and it says which file
        raise
    except (
        RuntimeError,
        KeyError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{stage}: the checkpoint in {save_folder} does not fit its recipe, or is "
            f"damaged: {first}\n  Next: {train} --force"
        ) from error
    if found is None:
        raise UserError(
            f"{stage}: the checkpoints in {save_folder} were written within an epoch "
            f"and have no validation yet; let training finish: {train}"
        )
    attach_code_model(codec, save_folder)
    return found
