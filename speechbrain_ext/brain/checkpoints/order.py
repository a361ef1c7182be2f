"""Which checkpoint is better: a non-finite metric is the worst there is."""

from __future__ import annotations

import datetime
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from speechbrain.utils.checkpoints import Checkpoint, ckpt_recency

#: What YAML's safe loader gives back as it was.
_SCALARS = (str, bool, int, float, type(None), datetime.date)


def plain_meta(value: Any) -> Any:
    """Turn meta data into what any YAML reader reads back.

    Tensors and NumPy numbers become numbers, tuples and sets lists, anything else
    text. Stock writes such objects as Python tags, and then reads no checkpoint of
    that folder any more.

    Example
    -------
    >>> plain_meta({"loss": torch.tensor(0.5), "shape": (1, 2)})
    {'loss': 0.5, 'shape': [1, 2]}
    """
    if type(value) in _SCALARS or type(value) is datetime.datetime:
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return value.item() if value.numel() == 1 else plain_meta(value.tolist())
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return plain_meta(value.tolist())
    if isinstance(value, Mapping):
        return {plain_meta(key): plain_meta(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_meta(item) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return str(value)


def _rank(value: Any, *, lowest: bool) -> tuple:
    """Sort key of one metric; every non-finite number, and None, comes last."""
    is_number = isinstance(value, numbers.Real)
    if value is None or (is_number and not math.isfinite(value)):
        return (0, 0)
    return (1, -value if lowest else value)


def _rank_of_key(value: Any) -> tuple:
    """Sort key of what a user's function returned; Inf means what they meant by it."""
    if isinstance(value, (torch.Tensor, numbers.Real)) and math.isnan(value):
        return (0, 0)
    return (1, value)


def ranked(
    checkpoints: Iterable[Checkpoint],
    importance_key: Callable[[Checkpoint], Any] | None = None,
    max_key: str | None = None,
    min_key: str | None = None,
    ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
) -> list[Checkpoint]:
    """Sort checkpoints, best first, as stock does, but whatever their order was.

    Arguments
    ---------
    checkpoints : Iterable[Checkpoint]
        From any folder, in any order.
    importance_key, max_key, min_key, ckpt_predicate
        As for ``Checkpointer.find_checkpoints``.

    Returns
    -------
    list[Checkpoint]
        Those that the predicate allows and that have the key. A NaN or Inf under
        ``max_key`` or ``min_key`` ranks below every finite value; among equals the
        most recent one is first.

    Raises
    ------
    ValueError
        If a key function and a key are both given.
    """
    if importance_key and (max_key or min_key):
        raise ValueError(
            "VerifiedCheckpointer: give only one of 'importance_key', 'max_key' and "
            "'min_key'"
        )
    key = max_key or min_key
    if key:
        checkpoints = [c for c in checkpoints if key in c.meta]
    if ckpt_predicate is not None:
        checkpoints = [c for c in checkpoints if ckpt_predicate(c)]
    newest = sorted(
        checkpoints, key=lambda c: (ckpt_recency(c), str(c.path)), reverse=True
    )
    if key:
        return sorted(
            newest, key=lambda c: _rank(c.meta[key], lowest=not max_key), reverse=True
        )
    if importance_key:
        return sorted(
            newest, key=lambda c: _rank_of_key(importance_key(c)), reverse=True
        )
    return newest
