"""A batch of any make as plain data, and back: what a dump holds of it.

`pack_batch` splits a batch into ``items`` (flat: name -> tensor or plain value),
``lengths`` (of padded items) and ``structure``, a tree of dicts with a ``kind`` each:

================  ==========================================================
``tensor``        ``item``: its name in ``items``
``array``         the same for a NumPy array, kept as a tensor
``plain``         the same for text, numbers, None, and lists of them
``padded``        the same for SpeechBrain's PaddedData; see ``lengths``
``list, tuple``   ``parts``: list of such trees
``named tuple``   ``parts``, ``name``, ``fields``
``dict``          ``parts``, ``keys``
``padded batch``  ``parts``, ``keys``, ``padded_keys``, ``device_keys``, ``length``
``left out``      ``item``, ``type``: what can't be kept as plain data
================  ==========================================================

Names are those of `batch_items`: ``wav``, ``0``, and ``0.1`` inside a container.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch, PaddedData

#: SpeechBrain's PaddedBatch keeps what it is made of under these private names.
_PRIVATE = {
    "keys": "_PaddedBatch__keys",
    "padded_keys": "_PaddedBatch__padded_keys",
    "device_keys": "_PaddedBatch__device_prep_keys",
    "length": "_PaddedBatch__length",
}

#: Items of a batch that are taken for the files it was read from.
_PATH_ITEMS = ("wav", "path", "file", "filename", "wav_path", "file_path", "audio_path")


def num_bytes(values: Iterable[Any]) -> int:
    """Bytes of all tensors among ``values``."""
    held = [value for value in values if isinstance(value, torch.Tensor)]
    parts = []
    for tensor in held:
        if tensor.layout is torch.sparse_coo:
            parts += [tensor._indices(), tensor._values()]
        else:
            parts.append(tensor)
    return sum(part.nbytes for part in parts)


@dataclass
class PackedBatch:
    """A batch as plain data.

    Attributes
    ----------
    items : dict
        Name -> tensor (the live one: nothing is copied) or plain value.
    lengths : dict
        Name -> relative lengths of a padded item, [batch].
    structure : dict
        How to put them together again; see the module's table.
    left_out : list of str
        One line for each part that can't be kept as plain data.
    """

    items: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, torch.Tensor] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return num_bytes([*self.items.values(), *self.lengths.values()])

    def to_memory(self) -> PackedBatch:
        """Return the same with tensors of its own on the CPU.

        Clones: a view would bring the whole storage it was cut from into the file.
        """
        items, lengths = (
            {
                key: value.detach().cpu().clone()
                if isinstance(value, torch.Tensor)
                else value
                for key, value in held.items()
            }
            for held in (self.items, self.lengths)
        )
        return PackedBatch(items, lengths, self.structure, self.left_out)


@dataclass(frozen=True)
class LeftOut:
    """Stands in a rebuilt batch where something could not be kept.

    Attributes
    ----------
    item : str
        Its name in the batch.
    type : str
        What it was.
    """

    item: str
    type: str


def builtin(value: Any) -> Any:
    """Make plain text or a plain number of a subclass, NumPy's and enums included.

    Raises
    ------
    TypeError
        If ``value`` is neither text nor a number nor None.
    """
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value) if kind is not str else str.__str__(value)
    raise TypeError(f"not plain: {type(value).__name__}")


def _plain(value: Any) -> Any:
    """Plain value, or list of plain values; TypeError for anything else."""
    if type(value) is list:
        return [_plain(part) for part in value]
    return builtin(value)


def pack_batch(batch: Any) -> PackedBatch:
    """Take a batch apart into plain data, without copying a tensor.

    Arguments
    ---------
    batch : Any
        PaddedBatch, dict, tuple, list, tensor, and these inside each other.

    Returns
    -------
    PackedBatch
        `rebuild` makes the batch of it again.

    Example
    -------
    >>> packed = pack_batch({"id": ["a", "b"], "wav": torch.zeros(2, 3)})
    >>> packed.items["id"], packed.structure["kind"]
    (['a', 'b'], 'dict')
    >>> list(rebuild(packed.structure, packed.items, packed.lengths))
    ['id', 'wav']
    """
    packed = PackedBatch()
    packed.structure = _pack(batch, (), packed)
    return packed


def _pack(value: Any, place: tuple[str, ...], packed: PackedBatch) -> dict:
    """Pack one part; what it holds goes into ``packed`` under a name of its place."""
    if isinstance(value, torch.Tensor):
        if value.layout in (torch.strided, torch.sparse_coo):
            return _leaf("tensor", value.detach(), place, packed)
        return _leave_out(value, place, packed, f"tensor, {value.layout}")
    if isinstance(value, PaddedData) and isinstance(value.data, torch.Tensor):
        leaf = _leaf("padded", value.data.detach(), place, packed)
        packed.lengths[leaf["item"]] = torch.as_tensor(value.lengths).detach()
        return leaf
    if isinstance(value, np.ndarray):
        try:
            # A copy: torch has no read-only tensors, and warns of them.
            return _leaf("array", torch.from_numpy(value.copy()), place, packed)
        except TypeError:
            return _leave_out(value, place, packed, f"array of {value.dtype}")
    if isinstance(value, PaddedBatch):
        kept = {key: getattr(value, name) for key, name in _PRIVATE.items()}
        parts = [getattr(value, key) for key in kept["keys"]]
        return {
            "kind": "padded batch",
            **{k: list(v) if k != "length" else v for k, v in kept.items()},
            "parts": _pack_all(kept["keys"], parts, place, packed),
        }
    if isinstance(value, Mapping):
        return {
            "kind": "dict",
            "keys": [_key(key) for key in value],
            "parts": _pack_all(value.keys(), value.values(), place, packed),
        }
    try:
        return _leaf("plain", _plain(value), place, packed)
    except TypeError:
        pass
    if isinstance(value, (list, tuple)):
        tree = {"kind": "tuple" if isinstance(value, tuple) else "list"}
        if hasattr(value, "_fields"):
            tree = {
                "kind": "named tuple",
                "name": type(value).__name__,
                "fields": list(value._fields),
            }
        return {**tree, "parts": _pack_all(range(len(value)), value, place, packed)}
    return _leave_out(value, place, packed, type(value).__qualname__)


def _pack_all(names, values, place, packed) -> list[dict]:
    return [
        _pack(value, (*place, str(name)), packed)
        for name, value in zip(names, values, strict=True)
    ]


def _key(key: Any) -> Any:
    """Keep a dict's key if it is plain, or a tuple of plain parts; else its text."""
    if isinstance(key, tuple):
        return tuple(map(_key, key))
    try:
        return builtin(key)
    except TypeError:
        return str(key)


def _leaf(kind: str, value: Any, place: tuple[str, ...], packed: PackedBatch) -> dict:
    name = plain_name = ".".join(place) or "batch"
    again = 2
    while name in packed.items:  # {"a.b": ..., "a": {"b": ...}}
        name, again = f"{plain_name}#{again}", again + 1
    packed.items[name] = value
    return {"kind": kind, "item": name}


def _leave_out(value: Any, place: tuple[str, ...], packed: PackedBatch, what: str):
    name = ".".join(place) or "batch"
    packed.left_out.append(f"{name}: {what} is no plain data")
    return {"kind": "left out", "item": name, "type": what}


def batch_paths(items: Mapping[str, Any]) -> list[str] | None:
    """Files that the items of a batch say it was read from, or None."""
    for wanted in _PATH_ITEMS:
        for name, value in items.items():
            if name.rpartition(".")[2].lower() != wanted:
                continue
            value = [value] if isinstance(value, str) else value
            if isinstance(value, list) and value and isinstance(value[0], str):
                return list(map(str, value))
    return None


def rebuild(
    structure: Mapping[str, Any],
    items: Mapping[str, Any],
    lengths: Mapping[str, torch.Tensor],
) -> Any:
    """Put a packed batch together again.

    Arguments
    ---------
    structure, items, lengths
        As `pack_batch` made them.

    Returns
    -------
    Any
        The same kind of batch with the same keys, tensors on the CPU. Mappings of
        other classes come back as dict, and subclasses of PaddedBatch as PaddedBatch;
        what was left out is a `LeftOut`.

    Raises
    ------
    KeyError
        If ``items`` lacks something (tensors left out of a dump for their size).
    """
    kind = structure["kind"]
    if kind == "left out":
        return LeftOut(structure["item"], structure["type"])
    if kind in ("tensor", "array", "plain", "padded"):
        value = items[structure["item"]]
        if kind == "array":
            return value.numpy()
        if kind == "padded":
            return PaddedData(value, lengths[structure["item"]])
        return value
    parts = [rebuild(part, items, lengths) for part in structure["parts"]]
    if kind == "dict":
        return dict(zip(structure["keys"], parts, strict=True))
    if kind == "named tuple":
        return collections.namedtuple(structure["name"], structure["fields"])(*parts)
    if kind == "padded batch":
        # Not through the constructor: it would pad and stack once more.
        batch = PaddedBatch.__new__(PaddedBatch)
        for key, name in _PRIVATE.items():
            setattr(batch, name, structure[key])
        for key, part in zip(structure["keys"], parts, strict=True):
            setattr(batch, key, part)
        return batch
    return tuple(parts) if kind == "tuple" else parts
