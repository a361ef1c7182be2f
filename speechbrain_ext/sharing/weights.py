"""Tensors in a file that can hold nothing but tensors: safetensors, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import atomic_path


def write_weights(
    path: str | os.PathLike,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors; the same tensors give the same bytes.

    Arguments
    ---------
    path : str or PathLike
        The file; it is whole or as it was.
    tensors : Mapping
        Name -> tensor, of any shape and device. Tensors that share memory are written
        each on its own.
    metadata : Mapping, optional
        Text to text, kept in the header as JSON under ``speechbrain_ext``.
    """
    # safetensors refuses shared memory; it orders tensors by dtype and name, but
    # entries of the header by chance, so there is one at most.
    header = {"speechbrain_ext": json.dumps(metadata, sort_keys=True)}
    whole = {
        name: tensors[name].detach().to("cpu").clone().contiguous()
        for name in sorted(tensors)
    }
    with atomic_path(Path(path)) as draft:
        save_file(whole, draft, header if metadata else None)


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read tensors to the CPU.

    Raises
    ------
    UserError
        If there is no such file, or it is not a whole safetensors file.
    """
    try:
        return load_file(path, device="cpu")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); get it again, or export "
            "it again: speechbrain-ext export EXP"
        ) from error
