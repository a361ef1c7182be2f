"""What a batch is made of: PaddedBatch, mapping, tuple or list alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def batch_items(batch: Any) -> dict[str, Any]:
    """Name the parts of a batch: PaddedBatch, mapping, tuple or list alike.

    Tensors inside an item that is itself a list or mapping get names such as ``0.1``.
    """
    named = _named_parts(batch)
    if named is None:
        return {"batch": batch}
    items = {}
    for key, item in named.items():
        inner = batch_items(item) if _holds_tensor(item) else None
        if inner is None:
            items[key] = item
        else:
            items |= {f"{key}.{name}": part for name, part in inner.items()}
    return items


def _named_parts(batch: Any) -> dict[str, Any] | None:
    """Parts of one level, or None if ``batch`` has none."""
    if isinstance(batch, Mapping):
        return {str(key): item for key, item in batch.items()}
    keys = getattr(batch, "_PaddedBatch__keys", None)
    if keys is not None:
        return {str(key): getattr(batch, key) for key in keys}
    if isinstance(batch, (tuple, list)) and item_tensor(batch) is None:
        return {str(index): item for index, item in enumerate(batch)}
    return None


def _holds_tensor(item: Any) -> bool:
    """Whether there is a tensor somewhere inside a container."""
    parts = _named_parts(item)
    return parts is not None and any(
        item_tensor(part) is not None or _holds_tensor(part) for part in parts.values()
    )


def item_tensor(item: Any) -> torch.Tensor | None:
    """Return the dense tensor of a batch item (the data of a PaddedData), or None."""
    tensor = item if isinstance(item, torch.Tensor) else getattr(item, "data", None)
    if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
        return tensor
    return None


def utterance_ids(batch: Any) -> list[str]:
    """Utterance ids that travel in the batch as ``id`` or ``utt_id``, else []."""
    items = batch_items(batch)
    for key in ("utt_id", "id"):
        if isinstance(items.get(key), str):
            return [str(items[key])]
        if isinstance(items.get(key), (list, tuple)):
            return [str(value) for value in items[key]]
    return []
