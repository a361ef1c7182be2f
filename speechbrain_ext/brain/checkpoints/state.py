"""Which tensors of a state must be finite, and what the others may hold.

Parameters and optimizer moments must be finite. A buffer may hold what it held when it
was first seen (-Inf in an attention mask, +Inf in a running minimum), and nothing
worse. What was never seen before may hold -Inf, since masks are made of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch

#: The three ways of not being finite.
Kinds = frozenset[str]
_NOTHING: Kinds = frozenset()
_MASK: Kinds = frozenset({"-Inf"})
#: GradScaler has two names; its numbers are part of the state.
_SCALERS = (torch.amp.GradScaler,)


def _plain(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor's numbers, whatever its layout, or None if there are none."""
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):  # a DTensor: only what this rank holds
        tensor = tensor.to_local()
    if tensor.is_sparse:
        tensor = tensor._values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return None
    return tensor if tensor.element_size() > 1 else tensor.float()  # float8


@torch.no_grad()
def nonfinite_kinds(
    named: Iterable[tuple[str, torch.Tensor]],
) -> dict[str, Kinds]:
    """Find the tensors that hold a NaN or an Inf; one transfer for each device.

    Arguments
    ---------
    named : Iterable[tuple[str, torch.Tensor]]
        Name and tensor, of any shape, type and layout.

    Returns
    -------
    dict[str, frozenset[str]]
        Name -> which of ``"NaN"``, ``"+Inf"``, ``"-Inf"``; finite ones are left out.

    Example
    -------
    >>> mask = torch.tensor([0.0, -torch.inf])
    >>> {name: sorted(kinds) for name, kinds in nonfinite_kinds([("m", mask)]).items()}
    {'m': ['-Inf']}
    """
    by_device: dict[torch.device, list] = {}
    for name, tensor in named:
        if torch.nn.parameter.is_lazy(tensor):
            continue
        values = _plain(tensor)
        if values is not None:
            by_device.setdefault(values.device, []).append((name, values))
    found = {}
    for items in by_device.values():
        # One pass without a copy; both ends pass NaN on. On a CPU this takes a
        # seventeenth of the time of a maximum norm.
        ends = torch.stack(
            [torch.stack(torch.aminmax(values)).double() for _, values in items]
        )
        for (name, values), finite in zip(
            items, ends.isfinite().all(1).tolist(), strict=True
        ):
            if not finite:
                found[name] = frozenset(
                    kind
                    for kind, seen in (
                        ("NaN", values.isnan().any()),
                        ("+Inf", values.isposinf().any()),
                        ("-Inf", values.isneginf().any()),
                    )
                    if seen
                )
    return found


def nested_tensors(value, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Walk through mappings and sequences; yields dotted name and tensor."""
    if isinstance(value, torch.Tensor):
        yield prefix, value
        return
    items = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        yield from nested_tensors(item, f"{prefix}.{key}" if prefix else str(key))


def _buffers(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what of a module is written but not trained: buffers, frozen parameters."""
    for prefix, part in module.named_modules(remove_duplicate=False):
        scratch = getattr(part, "_non_persistent_buffers_set", ())
        for name, buffer in part.named_buffers(recurse=False):
            if name not in scratch:  # not written, may be uninitialised memory
                yield f"{prefix}.{name}" if prefix else name, buffer
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            yield name, parameter


def _trained(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            yield name, parameter


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors of an optimizer under the names that its state_dict uses.

    ``state_dict()`` itself is not called: sharded optimizers communicate in it.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    index = {id(p): i for i, p in enumerate(params)}
    for parameter, state in optimizer.state.items():
        place = index.get(id(parameter), "unknown")
        yield from nested_tensors(state, f"state.{place}")
    for i, group in enumerate(optimizer.param_groups):
        rest = {key: value for key, value in group.items() if key != "params"}
        yield from nested_tensors(rest, f"param_groups.{i}")


class AllowedKinds:
    """Remembers what the buffers of each recoverable held when they were first seen."""

    def __init__(self):
        self._seen: dict[str, tuple[object, dict[str, Kinds]]] = {}

    def see(self, name: str, obj: object) -> None:
        """Look at a recoverable, unless this very object was seen under this name."""
        if name in self._seen and self._seen[name][0] is obj:
            return
        seen = {}
        if isinstance(obj, torch.nn.Module):
            buffers = list(_buffers(obj))
            seen = dict.fromkeys((n for n, _ in buffers), _NOTHING)
            seen |= nonfinite_kinds(buffers)
        self._seen[name] = (obj, seen)

    def extend(self, name: str, kinds: Mapping[str, Iterable[str]]) -> None:
        """Allow also what a verified checkpoint held in recoverable ``name``."""
        if name in self._seen:
            seen = self._seen[name][1]
            for tensor, more in kinds.items():
                seen[tensor] = seen.get(tensor, _NOTHING) | frozenset(more)

    def excess(self, name: str, found: Mapping[str, Kinds]) -> dict[str, Kinds]:
        """Return what of ``found`` recoverable ``name`` must not hold.

        Arguments
        ---------
        name : str
            Name of the recoverable, seen or not.
        found : Mapping[str, frozenset[str]]
            From `nonfinite_kinds`, under the names of its state_dict.
        """
        if not found:
            return {}
        obj, seen = self._seen.get(name, (None, {}))
        moments = isinstance(obj, torch.optim.Optimizer)
        trained = set()
        if isinstance(obj, torch.nn.Module):
            trained = {tensor for tensor, _ in _trained(obj)}
        excess = {}
        for tensor, kinds in found.items():
            allowed = seen.get(tensor, _MASK)
            if moments or tensor in trained:
                allowed = _NOTHING
            if kinds - allowed:
                excess[tensor] = kinds - allowed
        return excess


def live_problems(name: str, obj: object, allowed: AllowedKinds) -> list[str]:
    """Say what of one live recoverable is not finite and must be.

    Arguments
    ---------
    name : str
        Its name in the Checkpointer.
    obj : object
        Module, optimizer, or anything with ``state_dict()``.
    allowed : AllowedKinds
        What its buffers may hold.

    Returns
    -------
    list[str]
        One line for each tensor, such as ``"model.0.weight: NaN"``.
    """
    numbers = {}
    if isinstance(obj, torch.nn.Module):
        tensors = [*_trained(obj), *_buffers(obj)]
    elif isinstance(obj, torch.optim.Optimizer):
        tensors = list(_moments(obj))
        numbers = {
            f"param_groups.{i}.lr": group.get("lr")
            for i, group in enumerate(obj.param_groups)
        }
    else:
        state = obj.state_dict()
        tensors = list(nested_tensors(state))
        numbers = state if isinstance(obj, _SCALERS) else {}
    bad = allowed.excess(name, nonfinite_kinds(tensors))
    lines = [f"{name}.{tensor}: {_words(kinds)}" for tensor, kinds in bad.items()]
    lines += [
        f"{name}.{key}: {value}"
        for key, value in numbers.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    return lines


def _words(kinds: Iterable[str]) -> str:
    return " and ".join(sorted(kinds, reverse=True))


def file_lines(excess: Mapping[str, Kinds]) -> list[str]:
    """One line for each tensor that holds what it must not."""
    return [f"{tensor} holds {_words(kinds)}" for tensor, kinds in excess.items()]
