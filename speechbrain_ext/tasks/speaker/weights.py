"""Which weights of an experiment are its result, and how to get them.

In this order: averaged weights (``save/averaged/CKPT+...``, a checkpoint of the encoder
alone, written when training has ended), else the checkpoint in ``save`` that lost the
fewest valid utterances to NaN, of these the one with the lowest valid EER, and then
loss; else what a bundle brought along. Averaged weights have a folder of their own so
that a training that is started again never resumes from them.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import Checkpoint

from speechbrain_ext.brain.checkpoints.checkpoint import VerifiedCheckpointer
from speechbrain_ext.config import load_recipe
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.next_command import next_command
from speechbrain_ext.tasks.packed import WEIGHTS, load_packed

#: Below the save folder.
AVERAGED = "averaged"


def valid_rank(checkpoint: Checkpoint) -> tuple[float, float, float]:
    """Rank a checkpoint by valid EER, then loss; what is not finite comes last.

    Before all by the number of utterances that have no finite embedding: they are not
    in the EER, which would be the better the more of them there are.
    """
    meta = checkpoint.meta
    return tuple(
        -value if value is not None and math.isfinite(value) else -math.inf
        for value in (meta.get("nonfinite", 0), meta.get("eer"), meta.get("loss"))
    )


def averages(save_folder: Path) -> bool:
    """Whether there is a checkpoint of averaged weights."""
    return any((save_folder / AVERAGED).glob("CKPT*/CKPT.yaml"))


def save_average(save_folder: Path, encoder: torch.nn.Module, meta: dict) -> None:
    """Write the encoder's weights as those of the result; verified, whole or not."""
    checkpointer = VerifiedCheckpointer(save_folder / AVERAGED, {"encoder": encoder})
    checkpointer.save_and_keep_only(meta=meta)


def forget_average(save_folder: Path) -> None:
    """Remove the averaged weights: training goes on, they are not its result."""
    shutil.rmtree(save_folder / AVERAGED, ignore_errors=True)


def load_encoder(
    experiment: str | Path, device: str | torch.device | None = None
) -> tuple[torch.nn.Module, dict]:
    """Load the encoder that an experiment ended with.

    Arguments
    ---------
    experiment : str or Path
        Folder that `train` wrote; it may have been moved.
    device : str, torch.device or None
        Where to; None: a GPU if there is one.

    Returns
    -------
    SpeakerEncoder
        In evaluation mode.
    dict
        ``checkpoint`` (path below the experiment), ``sha256`` (of the weights file),
        ``recipe`` (the `Recipe`), ``sample_rate`` (Hz), ``epochs`` (list: one, or those
        averaged), ``valid_eer``.

    Raises
    ------
    UserError
        If it is no experiment, or there is no checkpoint of an epoch that is whole.
    """
    folder = Path(experiment)
    if not (folder / "hyperparams.yaml").exists():
        raise UserError(
            f"{folder} is no experiment (no hyperparams.yaml in it); train first: "
            + next_command("./run.sh --stage train", folder)
        )
    recipe = load_recipe(folder / "hyperparams.yaml", {"output_folder": str(folder)})
    encoder = recipe.hparams["modules"].get("encoder")
    if encoder is None:
        raise UserError(
            f"{folder} holds no speaker encoder, but another task; embeddings, "
            "comparing and ONNX are for speaker models\n  Next, for any model: "
            f"speechbrain-ext export {folder}"
        )
    save_folder = Path(recipe.hparams["save_folder"])
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if packed := load_packed(encoder, folder, save_folder, "encoder"):
        return encoder.to(device).eval(), {
            "checkpoint": WEIGHTS,
            "sha256": packed["sha256"],
            "recipe": recipe,
            "sample_rate": recipe.hparams["sample_rate"],
            "epochs": packed["epochs"],
            "valid_eer": packed["valid_eer"],
        }
    averaged = averages(save_folder)
    if averaged:
        save_folder = save_folder / AVERAGED
    if not any(save_folder.glob("CKPT*")):
        raise UserError(
            f"no checkpoint in {save_folder}; train first: "
            + next_command("./run.sh --stage train", folder)
        )
    checkpointer = VerifiedCheckpointer(save_folder, {"encoder": encoder})
    try:
        found = checkpointer.recover_if_possible(
            importance_key=valid_rank, ckpt_predicate=lambda c: "eer" in c.meta
        )
    except (RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"the checkpoint in {save_folder} does not fit its recipe: {first}\n"
            f"  Next: {next_command('./run.sh --stage train', folder)} --force"
        ) from error
    if found is None:
        raise UserError(
            f"the checkpoints in {save_folder} were written within an epoch and have "
            "no valid EER yet; let training finish: "
            + next_command("./run.sh --stage train", folder)
        )
    meta = found.meta
    return encoder.to(device).eval(), {
        "checkpoint": str(found.path.relative_to(folder)),
        "sha256": sha256_file(found.paramfiles["encoder"]),
        "recipe": recipe,
        "sample_rate": recipe.hparams["sample_rate"],
        "epochs": list(meta.get("epochs") or [meta.get("epoch")]),
        "valid_eer": meta["eer"],
    }
