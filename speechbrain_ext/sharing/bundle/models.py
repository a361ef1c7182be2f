"""The weights that are an experiment's result, taken out of its checkpoint."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from speechbrain_ext.errors import UserError

if TYPE_CHECKING:
    import torch


class Model(NamedTuple):
    """Trained weights.

    Attributes
    ----------
    weights : bytes
        A safetensors file.
    facts : dict
        ``module`` (its name in the recipe), ``checkpoint`` (SHA-256 of the weights'
        file in the experiment; for those who know it), and what training measured.
    """

    weights: bytes
    facts: dict[str, Any]


def trained_model(folder: Path, task: str) -> Model:
    """Take the weights that scoring used out of an experiment.

    Raises
    ------
    UserError
        If there is no trained model of a known task.
    """
    if task not in _LOADERS:
        raise UserError(
            f"pack: {folder}: no weights of the task '{task}' can be packed; known: "
            f"{', '.join(_LOADERS)}. The recipe alone: --no_result"
        )
    module, facts = _LOADERS[task](folder)
    # A tiny valid set may have no EER at all; JSON has no NaN.
    odd = {k for k, v in facts.items() if isinstance(v, float) and not math.isfinite(v)}
    facts |= dict.fromkeys(odd)
    return Model(_safetensors(module), facts)


def _speaker(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    from speechbrain_ext.tasks.speaker.weights import load_encoder

    encoder, info = load_encoder(folder, "cpu")
    return encoder, {
        "module": "encoder",
        "checkpoint": info["sha256"],
        "epochs": info["epochs"],
        "valid_eer": info["valid_eer"],
    }


def _codec(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    from speechbrain_ext.tasks.codec.weights import load_codec

    codec, info = load_codec(folder, stage="pack")
    return codec, {
        "module": "codec",
        "checkpoint": info["sha256"],
        "epoch": info["epoch"],
        "snr": info["valid_snr_db"],
    }


_LOADERS: dict[str, Callable[[Path], tuple[Any, dict[str, Any]]]] = {
    "codec": _codec,
    "speaker": _speaker,
}


def _safetensors(module: torch.nn.Module) -> bytes:
    import torch

    from speechbrain_ext.sharing.weights import write_weights

    state = module.state_dict()
    odd = [name for name, value in state.items() if not torch.is_tensor(value)]
    if odd:
        raise UserError(
            f"pack: {type(module).__name__} keeps what is no tensor in its state: "
            f"{', '.join(odd)}; only tensors can be packed"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_weights(path, state)
        return path.read_bytes()
