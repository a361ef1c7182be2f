"""What of a Brain's state a rejected batch leaves without a trace, and what not."""

from __future__ import annotations

import inspect
import io
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from speechbrain_ext.brain.memory.containers import (
    CONTAINERS,
    LONG_DICT,
    ContainerMemory,
)
from speechbrain_ext.brain.memory.shadow import can_be_written
from speechbrain_ext.brain.memory.slots import module_names
from speechbrain_ext.brain.memory.state import (
    optimizers_of,
    registered,
    state_owners,
)
from speechbrain_ext.brain.memory.streams import GENERATORS

#: Packages whose objects a batch doesn't move, or which write on purpose (loggers).
_QUIET = (
    "builtins",
    "collections",
    "enum",
    "functools",
    "hyperpyyaml",
    "logging",
    "numpy",
    "pathlib",
    "ruamel",
    "sentencepiece",
    "speechbrain",
    "speechbrain_ext",
    "tokenizers",
    "torch",
    "torchaudio",
    "tqdm",
    "transformers",
    "typing",
)
_PLAIN = (
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    torch.dtype,
    torch.device,
    torch.Tensor,
    torch.nn.Module,
    torch.optim.Optimizer,
    *CONTAINERS,
    *GENERATORS,
)


@dataclass
class Coverage:
    """What is put back when a batch is rejected.

    Attributes
    ----------
    protected, unprotected : list[str]
        One line each: what, and why or how.
    notes : list[str]
        Limits that hold for some of the protected.
    """

    protected: list[str] = field(default_factory=list)
    unprotected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for title, part in (
            ("put back after a rejected batch", self.protected),
            ("NOT put back", self.unprotected),
            ("limits", self.notes),
        ):
            if part:
                lines += [f"{title}:", *(f"  {line}" for line in part)]
        return "\n".join(lines)


def coverage(brain: Any) -> Coverage:
    """List what of a Brain, its hparams and its modules a transaction puts back.

    Arguments
    ---------
    brain : speechbrain.Brain
        After ``init_optimizers()``, if the optimizers are to be counted.

    Returns
    -------
    Coverage
        ``unprotected`` is empty for a Brain made of stock parts.

    Example
    -------
    >>> import speechbrain
    >>> brain = speechbrain.Brain({"net": torch.nn.BatchNorm1d(2)})
    >>> coverage(brain).unprotected
    []
    """
    result = Coverage()
    result.protected += _protected(brain)
    for prefix, module in brain.modules.named_modules():
        place = f"modules.{prefix}" if prefix else "modules"
        result.unprotected += _of_module(place, module)
        result.notes += _notes_of_module(place, module)
    spaces = [(type(brain).__name__, vars(brain))]
    if hasattr(brain, "hparams"):
        spaces.append(("hparams", vars(brain.hparams)))
    owned = set(map(id, state_owners(brain)))
    seen: set[int] = set()
    for title, space in spaces:
        for name, value in space.items():
            if id(value) in seen:
                continue
            seen.add(id(value))
            reason = None if id(value) in owned else _unknown(value)
            if reason:
                result.unprotected.append(f"{title}.{name}: {reason}")
            if isinstance(value, dict) and len(value) > LONG_DICT:
                result.notes.append(
                    f"{title}.{name}: a table of {len(value)} entries; those added "
                    "are taken out, those changed stay changed"
                )
    for name, item in registered(brain).items():
        if not hasattr(item, "__dict__") and not isinstance(item, _PLAIN):
            result.unprotected.append(
                f"recoverable {name!r}: {type(item).__name__} has no attributes to copy"
            )
    result.unprotected += _of_steps(brain)
    return result


def _protected(brain: Any) -> list[str]:
    modules = list(brain.modules.modules())
    parameters = sum(1 for _ in brain.modules.parameters())
    buffers = sum(1 for _ in brain.modules.buffers())
    lines = [
        f"{parameters} parameters and their gradients, {buffers} buffers and the "
        f"attributes of {len(modules)} modules",
        "random streams of Python, NumPy, torch on CPU and on each GPU",
    ]
    for name, optimizer in optimizers_of(brain).items():
        lines.append(f"optimizer {name!r} ({type(optimizer).__name__}): all its state")
    names = sorted(
        {type(owner).__name__ for owner in state_owners(brain)}
        - {"dict", "SimpleNamespace", type(brain).__name__}
    )
    lines.append(
        "numbers, tensors and containers of the Brain and its hparams"
        + (f", and attributes of {', '.join(names)}" if names else "")
    )
    return lines


def _of_module(place: str, module: torch.nn.Module) -> Iterator[str]:
    """Lines on what a module holds that can't be put back."""
    if hasattr(module, "_orig_mod") and type(module).__name__ == "OptimizedModule":
        yield (
            f"{place}: compiled; with CUDA graphs its outputs and buffers live in "
            "memory that this process must not write"
        )
    if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin) and hasattr(
        module, "has_uninitialized_params"
    ):
        if module.has_uninitialized_params():
            yield (
                f"{place}: lazy; the weights that its first batch makes stay, even if "
                "that batch is rejected"
            )
    for name, parameter in module._parameters.items():
        if parameter is not None and not parameter.requires_grad:
            if not _can_be_copied(parameter):
                yield f"{place}.{name}: {_why_not(parameter)}"
    for name, buffer in module._buffers.items():
        if buffer is not None and not _can_be_copied(buffer):
            yield f"{place}.{name}: {_why_not(buffer)}"
    for name in module_names(module):
        value = vars(module)[name]
        if isinstance(value, torch.Tensor) and not _can_be_copied(value):
            yield f"{place}.{name}: {_why_not(value)}"
        elif isinstance(value, CONTAINERS) or isinstance(value, tuple):
            for inner in _strangers(value):
                yield f"{place}.{name}: holds {inner}"
        else:
            reason = _unknown(value)
            if reason:
                yield f"{place}.{name}: {reason}"


def _notes_of_module(place: str, module: torch.nn.Module) -> Iterator[str]:
    for name in module_names(module):
        value = vars(module)[name]
        if isinstance(value, dict) and len(value) > LONG_DICT:
            yield (
                f"{place}.{name}: a table of {len(value)} entries; those added are "
                "taken out, those changed stay changed"
            )


def _of_steps(brain: Any) -> Iterator[str]:
    """Lines on state that lies outside of all these objects."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        if torch.cuda.is_current_stream_capturing():
            yield "a CUDA graph is being captured: a batch can't be put back in it"
    for name, optimizer in optimizers_of(brain).items():
        known = set(map(id, brain.modules.parameters()))
        strangers = [
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) not in known
        ]
        if strangers:
            yield (
                f"optimizer {name!r}: {len(strangers)} of its parameters are in no "
                "module of the Brain; add their module to modules"
            )


def _strangers(container: Any) -> Iterator[str]:
    """Describe objects of unknown state at any depth of a container."""
    for held in ContainerMemory().walk([container])[0] or [container]:
        values = held.values() if isinstance(held, dict) else held
        for value in list(values)[:64]:
            if not isinstance(value, tuple):
                reason = _unknown(value)
                if reason:
                    yield reason


def _can_be_copied(tensor: torch.Tensor) -> bool:
    lazy = isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin)
    return lazy or can_be_written(tensor)


def _why_not(tensor: torch.Tensor) -> str:
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout}, put back as the same object only"
    if tensor.is_inference():
        return "a tensor made in inference mode can't be written"
    return "an expanded or quantized tensor can't be written in place"


def _unknown(value: Any) -> str | None:
    """Why an object's state is not put back; None if it has none that could move."""
    if isinstance(value, torch.cuda.CUDAGraph):
        return "a CUDA graph writes its own memory at each replay"
    if isinstance(value, _PLAIN):
        return None
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, io.IOBase):
        return f"an open file ({kind.__name__}); what was written stays written"
    if inspect.isgenerator(value) or hasattr(value, "__next__"):
        return f"an iterator ({kind.__name__}); what was taken from it is gone"
    if isinstance(value, threading.Thread):
        return "a thread; what it does meanwhile can't be undone"
    package = kind.__module__.split(".")[0]
    if package in _QUIET or isinstance(value, (tuple, frozenset)):
        return None
    if not getattr(value, "__dict__", None) and not hasattr(kind, "__slots__"):
        return None
    return (
        f"an object of {name}, whose state is unknown; give it state_dict() and "
        "load_state_dict() and register it with the checkpointer, or make it a module"
    )
