"""Own copies of the last batches, in memory that is used again and again."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch

from speechbrain_ext.brain.memory.containers import ATOMS

#: Copies keep the place of the original in a cache line: vector kernels start there.
_LINE = 64
#: Bytes of the widest element.
_WIDEST = 16
#: A new chunk of memory has room for so many batches like the one that needs it.
_BATCHES_PER_CHUNK = 4


#: With one of these, a class has its own way to be copied.
_COPIED_BY_COPY = frozenset(
    {"__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"}
    | {"__slots__", "__new__", "__getnewargs__", "__getnewargs_ex__"}
)


class _Held:
    """Stands in a remembered batch where the tensor or array with this number was."""

    __slots__ = ("number", "is_array", "needs_grad")

    def __init__(self, number: int, is_array: bool, needs_grad: bool):
        self.number, self.is_array, self.needs_grad = number, is_array, needs_grad


def _rebuild(item: Any, leaf: Callable[[Any], Any]) -> Any:
    """Copy the structure of a batch; ``leaf`` gives what stands for each leaf."""
    kind = type(item)
    if kind in ATOMS:
        return item
    if kind is list or kind is tuple:
        if ATOMS.issuperset(map(type, item)):
            return kind(item)
        return kind([_rebuild(part, leaf) for part in item])
    if isinstance(item, dict):
        if kind is dict:
            return {key: _rebuild(part, leaf) for key, part in item.items()}
        made = copy.copy(item)
        for key, part in item.items():
            made[key] = _rebuild(part, leaf)
        return made
    if isinstance(item, tuple):
        parts = [_rebuild(part, leaf) for part in item]
        return kind(*parts) if hasattr(item, "_fields") else kind(parts)
    if isinstance(item, collections.deque):
        return collections.deque((_rebuild(p, leaf) for p in item), item.maxlen)
    if isinstance(item, list):
        made = copy.copy(item)
        made[:] = [_rebuild(part, leaf) for part in item]
        return made
    if hasattr(item, "_PaddedBatch__keys") or hasattr(kind, "__dataclass_fields__"):
        if _COPIED_BY_COPY.isdisjoint(vars(kind)) and kind.__base__ is object:
            made = object.__new__(kind)  # a tenth of what copy.copy costs
        else:
            made = copy.copy(item)
        for name, part in vars(item).items():
            object.__setattr__(made, name, _rebuild(part, leaf))
        return made
    return leaf(item)


def _extent(tensor: torch.Tensor) -> int:
    """Elements from the first to the last one of a strided tensor; 0 if it wastes.

    Copies keep odd strides, since a kernel may add up in another order for others;
    but not those of a small piece of a large tensor, or of an expanded one.
    """
    strides = tensor.stride()
    steps = zip(tensor.shape, strides, strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in steps)
    return 0 if 0 in strides or extent > 2 * tensor.numel() else extent


def _need(tensor: torch.Tensor) -> int:
    """Bytes that a copy needs, with room to place it in its cache line."""
    size = tensor.nbytes
    if not tensor.is_contiguous():
        size = max(size, _extent(tensor) * tensor.element_size())
    return size + 2 * _LINE


class _Chunk:
    """One piece of memory, seen as elements of whichever dtype is asked for."""

    def __init__(self, nbytes: int, device: torch.device):
        self.nbytes = nbytes
        self.memory = torch.empty(nbytes, dtype=torch.uint8, device=device)
        address = self.memory.data_ptr()
        self._address = address - address % _WIDEST
        self._typed: dict[torch.dtype, torch.Tensor] = {}

    def copy(self, start: int, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor behind ``start`` bytes, with its place in a cache line."""
        start += -(self._address + start) % _LINE
        start += tensor.data_ptr() % _LINE // _WIDEST * _WIDEST
        typed = self._typed.get(tensor.dtype)
        if typed is None:
            whole = self.memory[: self.nbytes // _WIDEST * _WIDEST]
            typed = self._typed[tensor.dtype] = whole.view(tensor.dtype)
        start //= tensor.element_size()
        if tensor.is_contiguous() or _extent(tensor):
            copied = typed.as_strided(tensor.shape, tensor.stride(), start)
        else:
            copied = typed[start : start + tensor.numel()].view(tensor.shape)
        return copied.copy_(tensor)


#: A batch taken apart: its structure, and its tensors in the order of their numbers.
Prepared = tuple[Any, list[torch.Tensor]]


class Journal:
    """Copies of the batches since the last snapshot, to be replayed after it.

    A batch may be a PaddedBatch, a mapping, a tuple, a list, a dataclass, nested in
    any way, with tensors, arrays, numbers and texts; any other object is deep-copied.
    Copies stay on the device of the original. Memory is used again after `clear`, so
    that a steady run allocates nothing.

    Arguments
    ---------
    max_bytes : int
        Most memory for tensors and arrays, bytes, over all devices (>= 0).

    Raises
    ------
    ValueError
        If ``max_bytes`` is negative.

    Example
    -------
    >>> journal = Journal(max_bytes=10_000)
    >>> batch = {"id": ["a"], "x": torch.ones(2)}
    >>> journal.record(batch)
    True
    >>> _ = batch["x"].zero_()
    >>> [copied["x"] for copied in journal]
    [tensor([1., 1.])]
    """

    def __init__(self, max_bytes: int):
        if max_bytes < 0:
            raise ValueError(
                f"Journal: max_bytes must be >= 0, got {max_bytes}; 0 records nothing"
            )
        self.max_bytes = max_bytes
        self._chunks: dict[torch.device, list[_Chunk]] = {}
        #: Per device: chunk in use, and bytes used of it.
        self._ends: dict[torch.device, tuple[int, int]] = {}
        self._entries: list[tuple[Any, list[torch.Tensor], dict]] = []
        #: The last answer of `has_room`: for what, and where there is room.
        self._planned: tuple[Prepared | None, dict | None] = (None, None)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, used or not."""
        return sum(c.nbytes for chunks in self._chunks.values() for c in chunks)

    def fits(self, batch: Any) -> bool:
        """Whether this batch can be recorded beside those already here."""
        return self._plan(self.prepare(batch)[1]) is not None

    def has_room(self, prepared: Prepared) -> bool:
        """Answer `fits` for what `prepare` returned."""
        self._planned = (prepared, self._plan(prepared[1]))
        return self._planned[1] is not None

    def prepare(self, batch: Any) -> Prepared:
        """Take a batch apart for `record`: its structure, and its tensors in order."""
        tensors: list[torch.Tensor] = []
        numbers: dict[int, _Held] = {}

        def leaf(item: Any) -> Any:
            if id(item) in numbers:  # the same tensor twice stays the same tensor
                return numbers[id(item)]
            is_array = isinstance(item, numpy.ndarray)
            if is_array:
                tensor = _as_tensor(item)
                if tensor is None:
                    return copy.deepcopy(item)
            elif not isinstance(item, torch.Tensor):
                return copy.deepcopy(item)
            elif item.layout is not torch.strided or item.is_quantized:
                return item.detach().clone()
            else:
                tensor = item.detach() if item.requires_grad else item
            held = _Held(len(tensors), is_array, not is_array and item.requires_grad)
            tensors.append(tensor)
            numbers[id(item)] = held
            return held

        return _rebuild(batch, leaf), tensors

    def _plan(self, tensors: list[torch.Tensor]) -> dict | None:
        """Find room on each device: ``{device: (chunk, start, bytes)}``, or None."""
        needs: dict[torch.device, int] = {}
        for tensor in tensors:
            device = tensor.device
            needs[device] = needs.get(device, 0) + _need(tensor)
        places, new = {}, 0
        for device, need in needs.items():
            chunk, used = self._ends.get(device, (0, 0))
            chunks = self._chunks.get(device, [])
            while chunk < len(chunks) and chunks[chunk].nbytes - used < need:
                chunk, used = chunk + 1, 0
            if chunk == len(chunks):
                new += need
            places[device] = (chunk, used, need)
        return None if new and self.nbytes + new > self.max_bytes else places

    def record(self, batch: Any, prepared: Prepared | None = None) -> bool:
        """Keep a copy of a batch.

        Arguments
        ---------
        batch : Any
            See the class.
        prepared : Prepared or None
            What `prepare` returned for this batch as it is now, to save the work.

        Returns
        -------
        bool
            False, and nothing kept, if it does not fit into ``max_bytes``.
        """
        if prepared is None:
            prepared = self.prepare(batch)
        structure, tensors = prepared
        known, places = self._planned
        if known is not prepared:
            places = self._plan(tensors)
        self._planned = (None, None)
        if places is None:
            return False
        ends = dict(self._ends)
        memory = {}
        for device, (index, used, need) in places.items():
            chunks = self._chunks.setdefault(device, [])
            if index == len(chunks):
                room = self.max_bytes - self.nbytes
                size = max(need, min(need * _BATCHES_PER_CHUNK, room))
                chunks.append(_Chunk(size, device))
            memory[device] = [chunks[index], used]
            self._ends[device] = (index, used + need)
        copies = []
        for tensor in tensors:
            place = memory[tensor.device]
            copies.append(place[0].copy(place[1], tensor))
            place[1] += _need(tensor)
        self._entries.append((structure, copies, ends))
        return True

    def drop_last(self) -> None:
        """Forget the batch recorded last (it was rejected).

        Raises
        ------
        IndexError
            If there is none.
        """
        if not self._entries:
            raise IndexError("Journal: no batch recorded; drop_last() follows record()")
        self._ends = self._entries.pop()[-1]
        self._planned = (None, None)

    def clear(self) -> None:
        """Forget all batches; the memory stays for the next ones."""
        self._entries.clear()
        self._ends = {}
        self._planned = (None, None)

    def __iter__(self) -> Iterator[Any]:
        """Fresh copies of the batches, in order; they may be changed."""
        for structure, copies, _ in list(self._entries):
            fresh = [_twin(tensor) for tensor in copies]

            def leaf(item: Any, fresh=fresh) -> Any:
                if not isinstance(item, _Held):
                    return copy.deepcopy(item)
                tensor = fresh[item.number]
                if item.is_array:
                    return tensor.numpy()
                return tensor.requires_grad_() if item.needs_grad else tensor

            yield _rebuild(structure, leaf)


def _as_tensor(array: numpy.ndarray) -> torch.Tensor | None:
    """View an array as a tensor, or return None where torch has no such type."""
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        return None


def _twin(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor with its strides and its place in a cache line."""
    return _Chunk(_need(tensor), tensor.device).copy(0, tensor)
