"""What a batch is made of: PaddedBatch, mapping, tuple or list alike."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from speechbrain_ext.brain.padding import (
    like_pinned,
    restack,
    take_padded,
    take_rows,
)

#: Where a PaddedBatch keeps the names of its items.
_KEYS = "_PaddedBatch__keys"
#: What has no parts.
_ATOMS = (str, bytes, int, float, complex, type(None))


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
    keys = getattr(batch, _KEYS, None)
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
    items = _named_parts(batch) or {}
    for key in ("utt_id", "id"):
        found = items.get(key)
        if isinstance(found, np.ndarray) and found.ndim == 1:
            found = found.tolist()
        if isinstance(found, str):
            return [str(found)]
        if isinstance(found, (list, tuple)):
            return [str(value) for value in found]
    return []


def copy_batch(batch: Any) -> Any:
    """Copy a batch so that neither copy nor original sees what happens to the other.

    Arguments
    ---------
    batch : Any
        PaddedBatch, mapping, tuple, list, tensors, NumPy arrays, nested as they come.

    Returns
    -------
    Any
        The same kind of batch. Tensors keep device, dtype, strides, pinned memory and
        whether they need a gradient; a tensor that stands in two places still does. An
        object that can't be copied (a lock, a generator) is handed on as it is.

    Example
    -------
    >>> batch = {"id": ["a"], "wav": torch.zeros(1, 3)}
    >>> copied = copy_batch(batch)
    >>> _ = copied["wav"].fill_(1)
    >>> batch["wav"].sum().item()
    0.0
    """
    return _copied(batch, {})


def _copied(item: Any, done: dict[int, Any]) -> Any:
    if isinstance(item, _ATOMS):
        return item
    if id(item) in done:
        return done[id(item)]
    if isinstance(item, torch.Tensor):
        # Not deepcopy: of a view it would copy the whole storage it was cut from.
        new = like_pinned(item, item.detach().clone())
        new.requires_grad_(item.requires_grad)
    elif isinstance(item, np.ndarray):
        new = copy.deepcopy(item) if item.dtype.hasobject else item.copy()
    elif isinstance(item, Mapping):
        new = _mapping(item, {key: _copied(part, done) for key, part in item.items()})
    elif isinstance(item, (tuple, list)):
        new = _sequence(item, [_copied(part, done) for part in item])
    elif hasattr(item, _KEYS):
        new = copy.copy(item)
        for name, part in vars(item).items():
            vars(new)[name] = _copied(part, done)
    else:
        try:
            new = copy.deepcopy(item)
        except Exception:
            new = item
    done[id(item)] = new
    return new


def _mapping(original: Mapping, parts: dict) -> Any:
    """Put parts into a mapping of the original's class; a dict if it is read-only."""
    try:
        new = copy.copy(original)
        for key, part in parts.items():
            new[key] = part
    except TypeError:
        return parts
    return new


def _sequence(original: tuple | list, parts: list) -> Any:
    """Put parts into a tuple or list of the original's class."""
    if hasattr(original, "_fields"):
        return type(original)(*parts)
    return type(original)(parts)


class _CannotTellRowsError(Exception):
    """It is not clear which part of an item belongs to which utterance."""


def select_rows(batch: Any, keep: Sequence[int]) -> Any:
    """Take some utterances of a batch, as if the others had never been collated.

    A PaddedBatch is bit for bit the one that its collate function makes of the
    remaining examples: padding is cut back to the longest of them, relative lengths
    are scaled to it, and lists that can be stacked now are stacked. Padding that is
    no constant at the right end (another ``padding_func`` or mode), or lengths too
    coarse to count samples with (fp16, bf16), are left as they were; lengths stay
    right then. In other batches only rows are taken; a plain tensor keeps its padding.

    What does not belong to single utterances stays as it is: numbers, text, tensors
    with another leading size than the number of utterances.

    Arguments
    ---------
    batch : Any
        PaddedBatch, mapping, tuple, list, tensor or NumPy array, nested as they come.
        Utterances are counted by the ids that travel in it, else by the leading size
        that all tensors share.
    keep : Sequence[int]
        Rows to keep, at least one, from 0 on, in the order they shall have.

    Returns
    -------
    Any
        A batch of the same kind that shares no memory with the rows of the old one, or
        None where rows can't be told: leading sizes differ and no ids travel, an item
        may be read in two ways, utterances stand in the second dimension or end to end.

    Raises
    ------
    ValueError
        If ``keep`` is empty or names a row that is not there.

    Example
    -------
    >>> from speechbrain.dataio.batch import PaddedBatch
    >>> waves = {"a": torch.ones(4), "b": torch.ones(2), "c": torch.ones(1)}
    >>> batch = PaddedBatch([{"id": u, "wav": wav} for u, wav in waves.items()])
    >>> rest = select_rows(batch, [1, 2])
    >>> rest.id, rest.wav.data.shape, rest.wav.lengths.tolist()
    (['b', 'c'], torch.Size([2, 2]), [1.0, 0.5])
    """
    keep = [int(row) for row in keep]
    rows = _num_rows(batch)
    if rows is None:
        return None
    if not keep or min(keep) < 0 or max(keep) >= rows:
        raise ValueError(
            f"select_rows: keep must name rows from 0 to {rows - 1}, got {keep}"
        )
    if keep == list(range(rows)):
        return copy_batch(batch)
    try:
        return _Rows(rows, keep).of_batch(batch)
    except _CannotTellRowsError:
        return None


def _num_rows(batch: Any) -> int | None:
    """Count the utterances of a batch; None if it can't be told."""
    if hasattr(batch, _KEYS):
        return len(batch)
    utt_ids = utterance_ids(batch)
    if utt_ids:
        return len(utt_ids)
    sizes = {array.shape[0] for array in _arrays(batch) if array.ndim}
    return sizes.pop() if len(sizes) == 1 else None


def _arrays(item: Any) -> Iterator[torch.Tensor | np.ndarray]:
    """Find all tensors and NumPy arrays in an item, however deep."""
    if isinstance(item, (torch.Tensor, np.ndarray)):
        yield item
        return
    parts = vars(item) if hasattr(item, _KEYS) else item
    if isinstance(parts, Mapping):
        parts = list(parts.values())
    if isinstance(parts, (tuple, list)):
        for part in parts:
            yield from _arrays(part)


class _Rows:
    """Takes the rows ``keep`` of ``rows`` out of whatever a batch holds."""

    def __init__(self, rows: int, keep: list[int]):
        self.rows, self.keep = rows, keep
        #: Sums of integer items, one for each utterance: data laid out end to end.
        self.sums: set[int] = set()
        self.num_taken = 0

    def of_batch(self, batch: Any) -> Any:
        if hasattr(batch, _KEYS):
            return self.of_padded_batch(batch)
        self.sums = {
            int(array.sum())
            for array in _arrays(batch)
            if array.shape == (self.rows,) and _is_integer(array)
        }
        if isinstance(batch, (tuple, list)):
            if all(isinstance(part, Mapping) for part in batch):
                # Two batches side by side, or utterances that were not collated.
                raise _CannotTellRowsError
            new = _sequence(batch, [self.of_item(part) for part in batch])
        else:
            new = self.of_item(batch)
        if not self.num_taken:
            raise _CannotTellRowsError
        return new

    def of_padded_batch(self, batch: Any) -> Any:
        new = copy.copy(batch)
        items = {key: getattr(batch, key) for key in getattr(batch, _KEYS)}
        lists = [item for item in items.values() if self._is_plain_list(item)]
        # nonpadded_stack=False leaves a list that its collate function would stack.
        stacks = all(restack(item) is item for item in lists)
        for key, item in items.items():
            if self._is_plain_list(item):
                taken = self.of_list(item)
                setattr(new, key, restack(taken) if stacks else taken)
            else:
                setattr(new, key, self.of_item(item))
        new._PaddedBatch__length = len(self.keep)
        return new

    def _is_plain_list(self, item: Any) -> bool:
        return type(item) is list and len(item) == self.rows

    def of_list(self, item: tuple | list) -> Any:
        self.num_taken += 1
        return _sequence(item, [copy_batch(item[row]) for row in self.keep])

    def of_item(self, item: Any) -> Any:
        if isinstance(item, _ATOMS):
            return item
        if isinstance(item, (torch.Tensor, np.ndarray)):
            return self.of_array(item)
        if isinstance(item, torch.nn.utils.rnn.PackedSequence):
            raise _CannotTellRowsError
        if self._is_padded_data(item):
            self.num_taken += 1
            return type(item)(*take_padded(*item, self.keep))
        if isinstance(item, Mapping):
            return _mapping(item, {key: self.of_item(i) for key, i in item.items()})
        if hasattr(item, _KEYS) and len(item) == self.rows:
            return self.of_padded_batch(item)
        if isinstance(item, (tuple, list)):
            if len(item) != self.rows or hasattr(item, "_fields"):
                return _sequence(item, [self.of_item(part) for part in item])
            if not all(self._may_be_column(part) for part in item):
                return self.of_list(item)
            raise _CannotTellRowsError  # views of all, or one entry for each?
        if hasattr(item, "__len__") and len(item) == self.rows:
            raise _CannotTellRowsError
        return item

    def of_array(self, item: torch.Tensor | np.ndarray) -> Any:
        if not item.ndim:
            return item
        if isinstance(item, torch.Tensor) and item.layout is not torch.strided:
            raise _CannotTellRowsError
        if item.shape[0] == self.rows:
            self.num_taken += 1
            if isinstance(item, np.ndarray):
                return item[self.keep]
            return take_rows(item, self.keep)
        if self.rows in item.shape[1:] or item.shape[0] in self.sums:
            raise _CannotTellRowsError
        return item

    def _is_padded_data(self, item: Any) -> bool:
        return getattr(item, "_fields", None) == ("data", "lengths") and all(
            isinstance(part, torch.Tensor) and part.ndim and len(part) == self.rows
            for part in item
        )

    def _may_be_column(self, item: Any) -> bool:
        """Whether an item may hold something of every utterance."""
        if isinstance(item, _ATOMS) or not hasattr(item, "__len__"):
            return False
        if isinstance(item, (torch.Tensor, np.ndarray)):
            return item.ndim > 0 and item.shape[0] == self.rows
        if isinstance(item, Mapping) or hasattr(item, "_fields"):
            return any(a.ndim and a.shape[0] == self.rows for a in _arrays(item))
        return len(item) == self.rows


def _is_integer(array: torch.Tensor | np.ndarray) -> bool:
    if isinstance(array, np.ndarray):
        return np.issubdtype(array.dtype, np.integer)
    return not (array.is_floating_point() or array.is_complex()) and (
        array.dtype is not torch.bool
    )
