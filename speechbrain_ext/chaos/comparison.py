"""All state of a Brain as one flat dict, and where two of them differ by a bit."""

from __future__ import annotations

import collections
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import torch

from speechbrain_ext.brain import NonFinitePolicy
from speechbrain_ext.chaos.faults import optimizers_of

#: torch's own registries in a module, whose content is named by other means.
_REGISTRIES = frozenset(vars(torch.nn.Module()))
#: What only tells about a run, or is kept under another name here.
_NOT_STATE = frozenset({"modules", "hparams", "checkpointer", "optimizers_dict"})
_NUMBERS = (bool, int, float, complex, str)
_LISTS = (list, tuple, set, frozenset, collections.deque)


def state_of(brain: Any, stage_losses: list[float] = ()) -> dict[str, Any]:
    """Copy everything that a later batch, checkpoint or log line could feel.

    Parameters, gradients, buffers, plain attributes of modules, moments and groups of
    optimizers, GradScaler, counters and lists of the Brain, hparams and the plain
    attributes of objects in them (schedulers, epoch counters), random streams.

    Arguments
    ---------
    brain : speechbrain.Brain
        After ``fit``, or after it died.
    stage_losses : list of float
        What ``on_stage_end`` was told.

    Returns
    -------
    dict
        Dotted name -> tensor (a copy) or plain number or text.
    """
    state: dict[str, Any] = {}
    names = {}
    for name, parameter in brain.modules.named_parameters():
        names[id(parameter)] = name
        state[f"parameter.{name}"] = parameter.detach().clone()
        if parameter.grad is not None:
            state[f"gradient.{name}"] = parameter.grad.detach().clone()
    for name, buffer in brain.modules.named_buffers():
        state[f"buffer.{name}"] = buffer.detach().clone()
    for name, module in brain.modules.named_modules():
        for key, value in vars(module).items():
            if key not in _REGISTRIES:
                state |= _flat(f"attribute.{name}.{key}", value)
    for title, optimizer in optimizers_of(brain).items():
        for parameter, moments in optimizer.state.items():
            place = f"moment.{title}.{names.get(id(parameter), '?')}"
            for key, value in moments.items():
                state |= _flat(f"{place}.{key}", value)
        for index, group in enumerate(optimizer.param_groups):
            options = {k: v for k, v in group.items() if k != "params"}
            state |= _flat(f"group.{title}.{index}", options)
    if hasattr(brain, "scaler"):
        state |= _flat("scaler", brain.scaler.state_dict())
    for key, value in vars(brain).items():
        if key not in _NOT_STATE:
            state |= _flat(f"brain.{key}", value)
    hparams = vars(brain.hparams) if hasattr(brain, "hparams") else {}
    for key, value in hparams.items():
        if isinstance(value, (torch.nn.Module, NonFinitePolicy)):
            continue
        plain = vars(value) if _is_plain_object(value) else value
        state |= _flat(f"hparams.{key}", plain)
    state |= _flat("stage_loss", list(stage_losses))
    state |= _flat("random.python", random.getstate())
    state |= _flat("random.numpy", numpy.random.get_state(legacy=False))
    state["random.torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state |= _flat("random.cuda", torch.cuda.get_rng_state_all())
    return state


def _is_plain_object(value: Any) -> bool:
    """Whether an object in hparams keeps its state in ordinary attributes."""
    return hasattr(value, "__dict__") and not isinstance(value, (type, torch.Tensor))


def _flat(name: str, value: Any, depth: int = 4) -> dict[str, Any]:
    """Name every number and tensor inside containers; other objects are left out."""
    return dict(_parts(name, value, depth))


def _parts(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach().clone()
    elif isinstance(value, numpy.ndarray):
        yield name, torch.from_numpy(value.astype(numpy.float64))
    elif value is None or isinstance(value, _NUMBERS):
        yield name, value
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, (str, int)):
                yield from _parts(f"{name}.{key}", item, depth - 1)
    elif depth and isinstance(value, _LISTS):
        yield f"{name}.length", len(value)
        for index, item in enumerate(value):
            yield from _parts(f"{name}.{index}", item, depth - 1)


def differences(
    reference: Mapping[str, Any],
    found: Mapping[str, Any],
    leaving_out: frozenset[str] = frozenset(),
) -> list[str]:
    """Names whose bits differ, or that only one of the two has.

    Arguments
    ---------
    reference, found : Mapping
        What `state_of` returned.
    leaving_out : frozenset of str
        Names that are not compared.

    Returns
    -------
    list of str
        In the order of ``reference``.

    Example
    -------
    >>> differences({"a": torch.zeros(1), "b": 1}, {"a": torch.zeros(1), "b": 2})
    ['b']
    """
    names = [*reference, *(name for name in found if name not in reference)]
    return [
        name
        for name in names
        if name not in leaving_out
        and not (
            name in reference
            and name in found
            and _same_bits(reference[name], found[name])
        )
    ]


def _same_bits(a: Any, b: Any) -> bool:
    """Equal in type and value; NaN is equal to NaN."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if not (a.is_floating_point() or a.is_complex()):
            return torch.equal(a, b)
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
    return type(a) is type(b) and (a == b or (a != a and b != b))


def nonfinite(state: Mapping[str, Any]) -> list[str]:
    """Names of the learned state that hold a NaN or Inf: all but random streams."""
    return [
        name
        for name, value in state.items()
        if name.startswith(("parameter.", "buffer.", "attribute.", "moment."))
        and (
            not torch.isfinite(value).all()
            if isinstance(value, torch.Tensor)
            else isinstance(value, float) and not abs(value) < float("inf")
        )
    ]
