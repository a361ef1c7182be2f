"""Which utterance and which layer: looked at only when a batch was rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from speechbrain_ext.brain.batches import batch_items, item_tensor, utterance_ids

#: Lines about single rows of a batch that a report holds at most.
_MAX_LINES = 50


def tensor_statistics(tensor: torch.Tensor) -> dict[str, Any]:
    """Shape, dtype, counts of NaN and Inf, and min, max, mean, std of the rest."""
    values = tensor.detach().reshape(-1)
    statistics: dict[str, Any] = {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
    if values.is_complex():
        values = torch.view_as_real(values).reshape(-1)
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
    """One line for each item row that holds NaN or Inf, with its utterance id.

    A tensor's rows are the utterances if there are as many rows as ids.
    """
    ids = utterance_ids(batch)
    lines = []
    more = 0
    for key, item in batch_items(batch).items():
        tensor = item_tensor(item)
        if tensor is None or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        rows = torch.atleast_1d(tensor.detach())
        rows = rows.reshape(len(rows), rows[:1].numel())
        bad = torch.where(~torch.isfinite(rows).all(1))[0].tolist()
        room = max(0, _MAX_LINES - len(lines))
        more += len(bad[room:])
        for row in bad[:room]:
            named = len(ids) == len(rows)
            who = f"utterance {ids[row]!r}" if named else f"row {row}"
            nan = int(rows[row].isnan().sum())
            inf = int(rows[row].isinf().sum())
            lines.append(f"{key} of {who} holds {nan} NaN and {inf} Inf")
    return lines + ([f"and {more} more rows"] if more else [])


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
        def hook(module, inputs, keywords, output):
            bad = not found and not _all_finite(output)
            if bad and _all_finite(inputs) and _all_finite(keywords):
                found.append(f"{name} ({type(module).__name__})")

        return hook

    for name, module in modules.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            hooks.append(module.register_forward_hook(listen(name), with_kwargs=True))
    try:
        with torch.no_grad():
            forward()
    except Exception:  # the evidence gathered so far still stands
        pass
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None
