"""Rows of a batch that look like the cause: broken, too loud, silent, mislabelled.

Looks at the batch alone, on an event; whether a suspect is guilty is told by a run
without it (`diagnose`).
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from speechbrain_ext.brain.batches import batch_items, item_tensor, utterance_ids
from speechbrain_ext.brain.forensics.trace import is_bad

#: A row whose peak is this many times the median peak of the others ...
EXTREME_RATIO = 100.0
#: ... and above this, far beyond full scale of float audio, is extreme;
_LOUD = 10.0
#: above this it is extreme whatever the others are (16-bit numbers stay below).
EXTREME_PEAK = 1e5
#: Peak of silence: 20 dB below the last bit of 24-bit audio.
SILENT_PEAK = 1e-8
#: Lines about single rows of a batch that a report holds at most.
_MAX_LINES = 50
#: What CPU kernels say of an impossible label; the group is the value.
_LABEL_ERRORS = tuple(
    re.compile(pattern)
    for pattern in (
        r"Target (-?\d+) is out of bounds",
        r"index (-?\d+) is out of bounds for dimension \d+ with size \d+",
        r"index out of range in self()",
        r"Class values must be (?:smaller than num_classes|non-negative)()",
        r"device-side assert triggered()",
    )
)


@dataclass(frozen=True)
class Suspects:
    """Rows that look alike, and in which words to say so.

    Attributes
    ----------
    rows : tuple of int
        Empty if the fault is in an item without rows (a gain, a table).
    detail : str
        One sentence about the first of them.
    """

    rows: tuple[int, ...]
    detail: str


def num_rows(batch: Any) -> int:
    """Count the utterances of a batch: its ids, or the commonest first dimension."""
    ids = utterance_ids(batch)
    if ids:
        return len(ids)
    sizes = collections.Counter(
        len(tensor)
        for tensor in map(item_tensor, batch_items(batch).values())
        if tensor is not None and tensor.dim()
    )
    return sizes.most_common(1)[0][0] if sizes else 0


def named(batch: Any, rows) -> list[str]:
    """Utterance ids of rows; empty if the batch names none."""
    ids = utterance_ids(batch)
    return [ids[row] for row in rows if row < len(ids)]


def who(batch: Any, row: int) -> str:
    """Name one row for people."""
    ids = named(batch, [row])
    return f"utterance {ids[0]!r}" if ids else f"row {row}"


def file_paths(batch: Any, rows) -> list[str]:
    """Paths of the files of rows, if the batch carries them as text."""
    for name, item in batch_items(batch).items():
        if not any(word in name.lower() for word in ("path", "file", "wav")):
            continue
        if isinstance(item, (list, tuple)) and all(isinstance(v, str) for v in item):
            return [item[row] for row in rows if row < len(item)]
    return []


def _items(batch: Any) -> list[tuple[str, torch.Tensor]]:
    """Floating-point items with a row for each utterance."""
    count = num_rows(batch)
    found = []
    for name, item in batch_items(batch).items():
        tensor = item_tensor(item)
        if tensor is not None and tensor.is_floating_point() and tensor.numel():
            if tensor.dim() and len(tensor) == count:
                found.append((name, tensor.detach()))
    return found


def _nonfinite(batch: Any):
    """Yield ``(item, row, tensor of that row, whether rows are utterances)``."""
    count = num_rows(batch)
    for name, item in batch_items(batch).items():
        tensor = item_tensor(item)
        if tensor is None or not is_bad(tensor):
            continue
        values = torch.atleast_1d(tensor.detach())
        values = values.reshape(len(values), -1)
        for row in torch.where(~torch.isfinite(values).all(1))[0].tolist():
            yield name, row, values[row], tensor.dim() > 0 and len(values) == count


def bad_inputs(batch: Any) -> list[str]:
    """One line for each item row that holds NaN or Inf, with its utterance id.

    A tensor's rows are the utterances if there are as many rows as ids.
    """
    lines, more = [], 0
    for name, row, values, told in _nonfinite(batch):
        if len(lines) == _MAX_LINES:
            more += 1
            continue
        place = who(batch, row) if told else f"row {row}"
        nan, inf = int(values.isnan().sum()), int(values.isinf().sum())
        lines.append(f"{name} of {place} holds {nan} NaN and {inf} Inf")
    return lines + ([f"and {more} more rows"] if more else [])


def nonfinite_rows(batch: Any) -> Suspects | None:
    """Find rows that hold NaN or Inf."""
    lines = bad_inputs(batch)
    if not lines:
        return None
    rows = sorted({row for _, row, _, told in _nonfinite(batch) if told})
    more = f"; {len(rows)} utterances in all" if len(rows) > 1 else ""
    return Suspects(tuple(rows), lines[0] + more)


def extreme_rows(batch: Any) -> Suspects | None:
    """Find finite rows far louder than the others, or than anything can be.

    Example
    -------
    >>> wav = torch.ones(3, 8)
    >>> wav[1] *= 1e6
    >>> extreme_rows({"id": ["a", "b", "c"], "wav": wav}).detail
    "wav of utterance 'b' reaches 1e+06 (the others 1)"
    """
    for name, tensor in _items(batch):
        peaks = tensor.reshape(len(tensor), -1).abs().amax(1).double()
        peaks = torch.where(torch.isfinite(peaks), peaks, 0.0)
        rows = []
        for row, peak in enumerate(peaks.tolist()):
            others = torch.cat([peaks[:row], peaks[row + 1 :]])
            usual = others.median().item() if len(others) else peak
            far = peak > _LOUD and peak > EXTREME_RATIO * usual
            if far or peak > EXTREME_PEAK:
                rows.append(row)
        if rows:
            rest = [p for row, p in enumerate(peaks.tolist()) if row not in rows]
            beside = f" (the others {max(rest):.3g})" if rest else ""
            place = who(batch, rows[0])
            reach = f"{name} of {place} reaches {peaks[rows[0]].item():.3g}{beside}"
            return Suspects(tuple(rows), reach)
    return None


def silent_rows(batch: Any) -> Suspects | None:
    """Find rows of digital silence in the largest item of the batch."""
    items = [(n, t) for n, t in _items(batch) if t[0].numel() > 1]
    if not items:
        return None
    name, tensor = max(items, key=lambda pair: pair[1].numel())
    peaks = tensor.reshape(len(tensor), -1).abs().amax(1)
    rows = torch.where(peaks <= SILENT_PEAK)[0].tolist()
    if not rows:
        return None
    if len(rows) == len(tensor):
        return Suspects(tuple(rows), f"{name} of the whole batch is silent")
    number = f"; {len(rows)} utterances in all" if len(rows) > 1 else ""
    return Suspects(tuple(rows), f"{name} of {who(batch, rows[0])} is silent{number}")


def mislabelled_rows(
    batch: Any, label_ranges: Mapping[str, int], error: BaseException | None = None
) -> Suspects | None:
    """Find labels that no class of the model has.

    Arguments
    ---------
    batch : Any
        Its integer items may be labels.
    label_ranges : Mapping of str to int
        Item -> number of classes, where that is known.
    error : BaseException, optional
        What forward raised: its message may hold the value.

    Returns
    -------
    Suspects or None
        None also if the error speaks of an index, but no integer item holds it.
    """
    items = {
        name: tensor.detach()
        for name, tensor in (
            (name, item_tensor(item)) for name, item in batch_items(batch).items()
        )
        if tensor is not None
        and not (tensor.is_floating_point() or tensor.is_complex())
        and tensor.dtype is not torch.bool
        and tensor.dim()
        and tensor.numel()
    }
    for name, classes in (label_ranges or {}).items():
        if name in items:
            labels = items[name]  # torch's losses ignore -100
            wrong = (labels >= classes) | ((labels < 0) & (labels != -100))
            if wrong.any():
                rule = f"but there are {classes} classes (0 to {classes - 1})"
                return _labelled(batch, name, items[name], wrong, rule)
    if error is None or not isinstance(error, (IndexError, RuntimeError)):
        return None
    for pattern in _LABEL_ERRORS:
        found = pattern.search(str(error))
        if found is None or not items:
            continue
        if not found[1]:  # the message names no value: a run without a row must tell
            return Suspects((), f"{type(error).__name__}: {_first_line(error)}")
        for name, tensor in items.items():
            wrong = tensor == int(found[1])
            if wrong.any():
                rule = f"and the model says: {_first_line(error)}"
                return _labelled(batch, name, tensor, wrong, rule)
    return None


def _labelled(batch: Any, name: str, labels, wrong, rule: str) -> Suspects:
    per_row = wrong.reshape(len(wrong), -1)
    rows = torch.where(per_row.any(1))[0].tolist()
    value = int(labels[wrong][0])
    place = who(batch, rows[0])
    if len(wrong) != num_rows(batch):
        return Suspects((), f"{name} holds label {value}, {rule}")
    return Suspects(tuple(rows), f"{name} of {place} is label {value}, {rule}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
