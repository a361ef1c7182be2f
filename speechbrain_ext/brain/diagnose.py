"""Which utterance and which layer: looked at only when a batch was rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def batch_items(batch: Any) -> dict[str, Any]:
    """Name the parts of a batch: PaddedBatch, mapping, tuple or list alike."""
    if isinstance(batch, Mapping):
        return dict(batch)
    keys = getattr(batch, "_PaddedBatch__keys", None)
    if keys is not None:
        return {key: getattr(batch, key) for key in keys}
    if isinstance(batch, (tuple, list)):
        return {str(index): item for index, item in enumerate(batch)}
    return {"batch": batch}


def item_tensor(item: Any) -> torch.Tensor | None:
    """Return the tensor of a batch item (the data of a PaddedData), or None."""
    data = getattr(item, "data", None)
    if isinstance(item, torch.Tensor):
        return item
    return data if isinstance(data, torch.Tensor) else None


def utterance_ids(batch: Any) -> list[str]:
    """Utterance ids that travel in the batch as ``id`` or ``utt_id``, else []."""
    items = batch_items(batch)
    for key in ("utt_id", "id"):
        if isinstance(items.get(key), (list, tuple)):
            return [str(value) for value in items[key]]
    return []


def tensor_statistics(tensor: torch.Tensor) -> dict[str, Any]:
    """Shape, dtype, counts of NaN and Inf, and min, max, mean, std of the rest."""
    values = tensor.detach().reshape(-1)
    statistics: dict[str, Any] = {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
    if tensor.is_complex():
        values = torch.view_as_real(tensor.detach()).reshape(-1)
    if values.is_floating_point():
        values = values.double()
        statistics["nan"] = int(values.isnan().sum())
        statistics["inf"] = int(values.isinf().sum())
        values = values[values.isfinite()]
    if values.numel():
        values = values.double()
        statistics["min"] = values.min().item()
        statistics["max"] = values.max().item()
        statistics["mean"] = values.mean().item()
        statistics["std"] = values.std(correction=0).item()
    return statistics


def bad_inputs(batch: Any) -> list[str]:
    """One line for each item row that holds NaN or Inf, with its utterance id."""
    ids = utterance_ids(batch)
    lines = []
    for key, item in batch_items(batch).items():
        tensor = item_tensor(item)
        if tensor is None or not tensor.is_floating_point() or tensor.dim() == 0:
            continue
        rows = tensor.detach().reshape(tensor.shape[0], -1)
        for row in torch.where(~torch.isfinite(rows).all(1))[0].tolist():
            who = f"utterance {ids[row]!r}" if row < len(ids) else f"row {row}"
            nan = int(rows[row].isnan().sum())
            inf = int(rows[row].isinf().sum())
            lines.append(f"{key} of {who} holds {nan} NaN and {inf} Inf")
    return lines


def _all_finite(value: Any) -> bool:
    """Whether every floating tensor inside a module's input or output is finite."""
    if isinstance(value, torch.Tensor):
        if not (value.is_floating_point() or value.is_complex()):
            return True
        return bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(map(_all_finite, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(_all_finite, value))
    if hasattr(value, "__dataclass_fields__"):
        return all(map(_all_finite, vars(value).values()))
    return True


def first_bad_module(
    modules: torch.nn.Module, forward: Callable[[], Any]
) -> str | None:
    """Run ``forward`` again and name the first module that turns finite into not.

    Arguments
    ---------
    modules : torch.nn.Module
        Where to listen; every submodule gets a hook for this one run.
    forward : Callable[[], Any]
        The forward pass on the rejected batch; the caller restores state around it.

    Returns
    -------
    str or None
        ``"encoder.0 (Conv1d)"``, or None if no module's output went bad.
    """
    found: list[str] = []
    hooks = []

    def listen(name: str):
        def hook(module, inputs, output):
            bad = not found and not _all_finite(output)
            if bad and _all_finite(inputs):
                found.append(f"{name} ({type(module).__name__})")

        return hook

    for name, module in modules.named_modules():
        if name:
            hooks.append(module.register_forward_hook(listen(name)))
    try:
        with torch.no_grad():
            forward()
    except Exception:  # the evidence gathered so far still stands
        pass
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None
