"""The rejected batch on disk: ``nan_batch_<batch>_epoch_<epoch>.pt`` and ``.json``.

The ``.pt`` file loads with ``torch.load(path, weights_only=True)`` and holds plain
dicts, lists, numbers, text and tensors only:

``schema`` (int), ``batch`` and ``epoch`` (int), ``cause`` (str), ``loss`` and
``grad_norm`` (float), ``utt_ids`` (list of str), ``items`` (name -> tensor or list),
``lengths`` (name -> tensor, where padded), ``random`` (``torch_cpu`` state before the
batch). The ``.json`` beside it holds the same facts as text and statistics instead of
tensors, so that it can be read without torch.
"""

from __future__ import annotations

import logging
import math
import platform
from pathlib import Path
from typing import Any

import torch

from speechbrain_ext import __version__
from speechbrain_ext.brain.batches import batch_items, item_tensor, utterance_ids
from speechbrain_ext.brain.diagnose import tensor_statistics
from speechbrain_ext.brain.verdict import Verdict
from speechbrain_ext.files import atomic_path, write_json

SCHEMA = 1
logger = logging.getLogger(__name__)


def finite_or_text(value: Any) -> Any:
    """Make JSON of floats that JSON has no word for: ``"nan"``, ``"inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: finite_or_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_text(item) for item in value]
    return value


def plain_items(batch: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Split a batch into plain items and the relative lengths of padded ones."""
    items, lengths = {}, {}
    for key, item in batch_items(batch).items():
        tensor = item_tensor(item)
        if tensor is not None:
            # A clone: a view would bring the whole storage it was cut from.
            items[key] = tensor.detach().cpu().clone()
            length = getattr(item, "lengths", None)
            if isinstance(length, torch.Tensor):
                lengths[key] = length.detach().cpu().clone()
        elif isinstance(item, (list, tuple)) and all(
            isinstance(value, (str, int, float)) for value in item
        ):
            items[key] = [_builtin(value) for value in item]
        elif isinstance(item, (str, int, float)):
            items[key] = _builtin(item)
    return items, lengths


def _builtin(value: str | int | float) -> str | int | float:
    """Make plain text or a plain number of a subclass, NumPy's and enums included."""
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def write_dump(
    folder: Path,
    batch: Any,
    verdict: Verdict,
    *,
    batch_index: int,
    epoch: int,
    report: dict[str, Any],
    random_before: torch.Tensor,
    max_megabytes: float,
) -> Path:
    """Write one rejected batch; both files are whole or not there.

    Arguments
    ---------
    folder : Path
        ``debug_nan`` of the experiment; made if missing.
    batch : Any
        The batch as the Brain got it.
    verdict : Verdict
        Why it was rejected.
    batch_index, epoch : int
        1-based position; an existing dump of the same place is replaced.
    report : dict
        Findings for people: bad inputs, gradients, module, precision, versions.
    random_before : torch.Tensor
        State of the CPU generator before the batch.
    max_megabytes : float
        A batch larger than this is written without its tensors, and says so.

    Returns
    -------
    Path
        The ``.pt`` file.
    """
    items, lengths = plain_items(batch)
    size = sum(t.nbytes for t in items.values() if isinstance(t, torch.Tensor)) / 1e6
    name = f"nan_batch_{batch_index}_epoch_{epoch}"
    facts = {
        "schema": SCHEMA,
        "batch": batch_index,
        "epoch": epoch,
        "cause": verdict.cause,
        "loss": verdict.loss,
        "grad_norm": verdict.grad_norm,
        "utt_ids": utterance_ids(batch),
    }
    text = {
        **facts,
        **report,
        "statistics": {
            key: tensor_statistics(item)
            for key, item in items.items()
            if isinstance(item, torch.Tensor)
        },
        "versions": {
            "speechbrain_ext": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    if size > max_megabytes:
        items = {k: v for k, v in items.items() if not isinstance(v, torch.Tensor)}
        text["left_out"] = f"tensors of {size:.0f} MB (limit {max_megabytes:g} MB)"
    with atomic_path(folder / f"{name}.pt") as temporary:
        torch.save(
            {
                **facts,
                "items": items,
                "lengths": lengths,
                "random": {"torch_cpu": random_before},
            },
            temporary,
        )
    write_json(folder / f"{name}.json", finite_or_text(text))
    return folder / f"{name}.pt"
