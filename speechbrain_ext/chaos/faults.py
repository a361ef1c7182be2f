"""The faults that end training runs, as they can be put into any running Brain.

Faults of a batch are in the batch itself, or belong to that batch and no other: every
run of the same batch, in a diagnosis or in a replay, shows the same fault again.
Faults of the state are written into the live state between two batches, once, as a
cosmic ray or a broken kernel would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from speechbrain_ext.brain.batches import batch_items, item_tensor

#: Larger than any number of classes, and still a valid index type.
IMPOSSIBLE_LABEL = 10**6


@dataclass(frozen=True)
class Fault:
    """One way in which training goes wrong.

    Attributes
    ----------
    name : str
        Its key in `FAULTS`.
    title : str
        For tables.
    kind : str
        ``"batch"``: the reference is the run without that batch; ``"state"``: the
        reference is the clean run.
    causes : tuple of str
        Diagnoses (keys of ``brain.causes.CAUSES``) that would be right.
    expected : str
        ``"rejected"``, ``"replayed"``, or ``"none"``: finite, and nothing needs to see
        it.
    where : str
        What is spoiled: ``"data"``, ``"loss"``, ``"gradient"`` or ``"state"``.
    spoil : Callable
        For data: changes a batch in place and returns whether there was anything to
        change. For a state: the same with a Brain. For loss and gradient: takes and
        returns a tensor.
    """

    name: str
    title: str
    kind: str
    causes: tuple[str, ...]
    expected: str
    where: str
    spoil: Callable[[Any], Any]


# -- what a batch holds ----------------------------------------------------------------


def signal_of(batch: Any) -> torch.Tensor | None:
    """Return the largest floating tensor of a batch: waveforms or features.

    Arguments
    ---------
    batch : Any
        PaddedBatch, mapping, tuple or list.

    Returns
    -------
    torch.Tensor or None
        The live tensor, [batch, ...], not a copy.

    Example
    -------
    >>> signal_of((torch.zeros(2, 30), torch.zeros(2), torch.zeros(2).long())).shape
    torch.Size([2, 30])
    """
    found = [
        tensor
        for tensor in map(item_tensor, batch_items(batch).values())
        if tensor is not None and tensor.is_floating_point() and tensor.numel()
    ]
    return max(found, key=torch.Tensor.numel, default=None)


def labels_of(batch: Any) -> torch.Tensor | None:
    """Return the first integer tensor of a batch that is not a list of lengths."""
    for name, item in batch_items(batch).items():
        tensor = item_tensor(item)
        if tensor is None or "len" in name or not tensor.numel():
            continue
        if tensor.dtype in (torch.int64, torch.int32, torch.int16):
            return tensor
    return None


class BatchMark:
    """Recognizes a batch by its content: also as a copy, or when rows were left out.

    Rows of zeros, and zeros at the end of a row, where padding may have changed, do
    not count.

    Example
    -------
    >>> batch = {"wav": torch.randn(4, 10)}
    >>> mark = BatchMark(batch)
    >>> mark.matches((batch["wav"][2:3].clone(),)), mark.matches((torch.ones(4, 10),))
    (True, False)
    """

    def __init__(self, batch: Any):
        self._rows = self._content(batch)

    def matches(self, batch: Any) -> bool:
        """Whether ``batch`` holds a row of the marked one."""
        return not self._rows.isdisjoint(self._content(batch))

    @staticmethod
    def _content(batch: Any) -> set[bytes]:
        signal = signal_of(batch)
        if signal is None:
            return set()
        rows = torch.atleast_1d(signal.detach()).float().cpu()
        return {row.numpy().tobytes().rstrip(b"\0") for row in rows} - {b""}


# -- data ------------------------------------------------------------------------------


def _one_sample(value: float) -> Callable[[Any], bool]:
    """Set one sample of one utterance, early enough not to be in the padding."""

    def spoil(batch: Any) -> bool:
        signal = signal_of(batch)
        if signal is None:
            return False
        row = torch.atleast_1d(signal)[len(torch.atleast_1d(signal)) // 3]
        row = torch.atleast_1d(row)
        place = torch.unravel_index(torch.tensor(row.numel() // 10), row.shape)
        row[place] = value
        return True

    return spoil


def _scaled(gain: float, *, one_row: bool) -> Callable[[Any], bool]:
    """Scale one utterance, or all of them."""

    def spoil(batch: Any) -> bool:
        signal = signal_of(batch)
        if signal is None:
            return False
        target = signal[len(signal) // 3] if one_row and signal.dim() > 1 else signal
        target.mul_(gain)
        return True

    return spoil


def _bad_label(batch: Any) -> bool:
    labels = labels_of(batch)
    if labels is None:
        return False
    value = min(IMPOSSIBLE_LABEL, torch.iinfo(labels.dtype).max)
    labels[(len(labels) // 3, *[0] * (labels.dim() - 1))] = value
    return True


# -- loss and gradient -----------------------------------------------------------------


def nan_in_loss(loss: Any) -> Any:
    """Add a constant NaN: the value is spoiled, its gradients are as they were.

    Of a tuple or mapping of losses, the first that can be learned from is spoiled.
    """
    if isinstance(loss, torch.Tensor):
        return loss + math.nan
    parts = dict(loss) if isinstance(loss, Mapping) else dict(enumerate(loss))
    for key, part in parts.items():
        if isinstance(part, torch.Tensor) and part.requires_grad:
            parts[key] = part + math.nan
            break
    if isinstance(loss, Mapping):
        return parts
    if hasattr(loss, "_make"):
        return loss._make(parts.values())
    return type(loss)(parts.values())


def _one_element(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Copy a gradient and set its first element."""

    def spoil(grad: torch.Tensor) -> torch.Tensor:
        spoiled = grad.clone()
        spoiled[(0,) * grad.dim()] = value
        return spoiled

    return spoil


# -- state -----------------------------------------------------------------------------


def optimizers_of(brain: Any) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers of a Brain, stock or ours, by name."""
    named = getattr(brain, "optimizers_dict", None)
    if named:
        return dict(named)
    optimizer = getattr(brain, "optimizer", None)
    return {} if optimizer is None else {"optimizer": optimizer}


def _moments(brain: Any, names: tuple[str, ...]) -> Iterator[torch.Tensor]:
    for optimizer in optimizers_of(brain).values():
        for state in optimizer.state.values():
            for name in names:
                if isinstance(state.get(name), torch.Tensor):
                    yield state[name]


def _nan_parameter(brain: Any) -> bool:
    trained = [p for p in brain.modules.parameters() if p.requires_grad and p.numel()]
    return _set_first(trained, math.nan)


def _nan_first_moment(brain: Any) -> bool:
    return _set_first(list(_moments(brain, ("exp_avg", "momentum_buffer"))), math.nan)


def _inf_second_moment(brain: Any) -> bool:
    names = ("exp_avg_sq", "square_avg", "exp_inf", "sum")
    return _set_first(list(_moments(brain, names)), math.inf)


def _nan_buffer(brain: Any) -> bool:
    """Spoil a codebook if there is one, else a BatchNorm variance, else any buffer."""
    buffers = {
        name: buffer
        for name, buffer in brain.modules.named_buffers()
        if buffer.is_floating_point() and buffer.numel()
    }
    for part in ("codebook", "embed", "running_var", ""):
        found = [buffer for name, buffer in buffers.items() if part in name]
        if found:
            return _set_first(found, math.nan)
    return False


@torch.no_grad()
def _set_first(tensors: list[torch.Tensor], value: float) -> bool:
    """Set the first element of the middle one of ``tensors``."""
    if not tensors:
        return False
    tensor = tensors[len(tensors) // 2]
    tensor[(0,) * tensor.dim()] = value
    return True


def _batch(name, title, spoil, causes, *, expected="rejected", where="data") -> Fault:
    return Fault(name, title, "batch", causes, expected, where, spoil)


def _state(name: str, title: str, spoil: Callable[[Any], bool], cause: str) -> Fault:
    return Fault(name, title, "state", (cause,), "replayed", "state", spoil)


#: The closed list, by name, in the order of every table.
FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        _batch(
            "nan_sample", "NaN sample", _one_sample(math.nan), ("input non-finite",)
        ),
        _batch(
            "inf_sample", "Inf sample", _one_sample(math.inf), ("input non-finite",)
        ),
        _batch("huge_sample", "1e30 sample", _one_sample(1e30), ("input extreme",)),
        _batch("label", "label out of range", _bad_label, ("label out of range",)),
        _batch(
            "silent_utterance",
            "silent utterance",
            _scaled(0.0, one_row=True),
            ("input silent",),
            expected="none",
        ),
        _batch(
            "silent_batch",
            "silent batch",
            _scaled(0.0, one_row=False),
            ("input silent", "norm overflow"),
            expected="none",
        ),
        _batch(
            "gain",
            "gain 1e6",
            _scaled(1e6, one_row=False),
            ("input extreme", "loss spike"),
            expected="none",
        ),
        _batch(
            "nan_loss",
            "NaN in the loss only",
            nan_in_loss,
            ("loss term",),
            where="loss",
        ),
        _batch(
            "nan_gradient",
            "NaN in one gradient",
            _one_element(math.nan),
            ("gradient of module",),
            where="gradient",
        ),
        _batch(
            "inf_gradient",
            "Inf in one gradient",
            _one_element(math.inf),
            ("gradient of module",),
            where="gradient",
        ),
        _state(
            "nan_parameter", "NaN in a parameter", _nan_parameter, "parameter corrupted"
        ),
        _state("nan_exp_avg", "NaN in exp_avg", _nan_first_moment, "moment corrupted"),
        _state(
            "inf_exp_avg_sq",
            "Inf in exp_avg_sq",
            _inf_second_moment,
            "moment corrupted",
        ),
        _state(
            "nan_buffer",
            "NaN in a running variance or codebook",
            _nan_buffer,
            "buffer corrupted",
        ),
    )
}
