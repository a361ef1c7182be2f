"""Watch one run, and tell where the first non-finite number comes from.

`Trace` sees every tensor operation of forward and backward (a TorchDispatchMode) and
every module (hooks). It keeps the origin of each non-finite tensor: the operation that
made it from finite operands, or the state, input or constant that brought it. An
attention mask full of -Inf is thus no fault as long as nothing that matters stems from
it. Costly: for one run after an event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechbrain_ext.brain.batches import batch_items, item_tensor
from speechbrain_ext.brain.forensics.places import chosen, remembered, running

#: Torch's own registries in a module; what else holds a tensor is a statistic.
_REGISTRIES = frozenset(vars(torch.nn.Module()))


@dataclass(frozen=True)
class Origin:
    """Where a non-finite number comes from.

    Attributes
    ----------
    index : int
        Order of appearance in the run.
    kind : str
        ``"computed"`` (finite operands, bad result), ``"state"``, ``"input"``,
        ``"constant"``, ``"mask"`` (an Inf that somebody asked for).
    operation : str
        Such as ``"aten.log"``.
    module : str
        ``"encoder.0 (Conv1d)"``; empty outside of all modules.
    source : str
        ``"train.py:87: loss = x.log().mean()"``; empty if no line of a user is in it.
    phase : str
        ``"forward"``, ``"objective"`` or ``"backward"``.
    operand : str
        Name of the state tensor or batch item that brought it.
    rows : tuple of int
        Rows of the result that are bad; its first dimension is ``num_rows``.
    num_rows : int
        See ``rows``.
    """

    index: int
    kind: str
    operation: str
    module: str
    source: str
    phase: str
    operand: str = ""
    rows: tuple[int, ...] = ()
    num_rows: int = 0


def state_tensors(
    modules: torch.nn.Module,
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield ``(name, kind, tensor)`` of all tensors that modules keep.

    Kinds are ``"parameter"``, ``"buffer"`` and ``"statistics"`` (plain attributes).
    """
    for prefix, module in modules.named_modules():
        dot = f"{prefix}." if prefix else ""
        for kind, space in (
            ("parameter", module._parameters),
            ("buffer", module._buffers),
            ("statistics", vars(module)),
        ):
            for name, tensor in space.items():
                if isinstance(tensor, torch.Tensor) and name not in _REGISTRIES:
                    yield f"{dot}{name}", kind, tensor


def is_number(tensor: Any) -> bool:
    """Whether this is a dense tensor whose elements could be NaN."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout is torch.strided
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.device.type != "meta"
    )


def is_bad(tensor: torch.Tensor, *, masks: bool = False) -> bool:
    """Whether a tensor holds NaN or Inf; with ``masks``, -Inf is an ordinary value."""
    if not is_number(tensor) or not tensor.numel():
        return False
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if masks:
        return bool((values.isnan() | values.isposinf()).any())
    return not bool(torch.isfinite(values).all())


def bad_rows(tensor: torch.Tensor) -> tuple[int, ...]:
    """Rows (first dimension) that hold NaN or Inf."""
    if tensor.dim() == 0 or not tensor.numel():
        return ()
    rows = tensor.detach().reshape(len(tensor), -1)
    return tuple(torch.where(~torch.isfinite(rows).all(1))[0].tolist())


def _pointer(tensor: torch.Tensor) -> int:
    """Address of the memory that a tensor and all its views share."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors inside a module's input or output."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = tuple(vars(value).values())
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


@dataclass
class Layer:
    """What one call of a module returned."""

    name: str
    kind: str
    outputs: list[torch.Tensor] = field(default_factory=list)


class Trace(TorchDispatchMode):
    """Watches whatever runs inside ``with trace.watching():``.

    Arguments
    ---------
    modules : torch.nn.Module
        Where to listen, and whose state is known by name.
    batch : Any
        What was delivered; its tensors are known by name.
    on_layer : Callable[[Layer], None], optional
        Called after each call of a module.

    Attributes
    ----------
    loss_terms : dict
        Name -> value of the terms that a loss module returned beside its total.
    failed : Origin or None
        Where an operation raised.
    """

    def __init__(
        self,
        modules: torch.nn.Module,
        batch: Any = None,
        on_layer: Callable[[Layer], None] | None = None,
    ):
        super().__init__()
        self.modules = modules
        self.loss_terms: dict[str, float] = {}
        self.failed: Origin | None = None
        self._in_backward = False
        self._on_layer = on_layer
        self._stack: list[str] = []
        self._origins: dict[int, Origin] = {}
        self._count = 0
        # Held, so that their memory, by which they are known, is given to no other.
        self._held: list[torch.Tensor] = []
        self._named = {_pointer(t): (n, k) for n, k, t in state_tensors(modules)}
        self._inputs = {
            _pointer(tensor): name
            for name, tensor in (
                (name, item_tensor(item)) for name, item in batch_items(batch).items()
            )
            if tensor is not None
        }
        held = [tensor for _, _, tensor in state_tensors(modules)]
        held += map(item_tensor, batch_items(batch).values())
        self._bad_before = {_pointer(t) for t in held if is_number(t) and is_bad(t)}

    # -- the run -------------------------------------------------------------------

    @contextmanager
    def watching(self):
        """Listen to modules and operations; leaves no hook behind, come what may."""
        hooks = []
        try:
            for name, module in self.modules.named_modules():
                if not name or isinstance(module, torch.jit.ScriptModule):
                    continue  # the container itself; scripted ones take no hooks
                told_name = f"{name} ({type(module).__name__})"
                hooks += [
                    module.register_forward_pre_hook(
                        self._entering(told_name), prepend=True, with_kwargs=True
                    ),
                    module.register_forward_hook(
                        self._leaving(told_name), always_call=True
                    ),
                ]
            # Forward lines are then remembered in the nodes of the graph.
            with torch.autograd.set_detect_anomaly(True, check_nan=False), self:
                yield self
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def backward(self):
        """Tell the trace that what runs inside is the backward pass."""
        self._in_backward = True
        try:
            yield
        finally:
            self._in_backward = False

    def origin_of(self, tensor: torch.Tensor | None) -> Origin | None:
        """Tell where the non-finite numbers of a tensor come from."""
        return None if tensor is None else self._origins.get(_pointer(tensor))

    def own_graph(self, output: Any) -> None:
        """Note which module made the graph above ``output``, if none did so yet."""
        module = self._stack[-1] if self._stack else ""
        todo = [t.grad_fn for t in _tensors(output) if t.grad_fn is not None]
        while todo:
            node = todo.pop()
            if node is None or "module" in node.metadata:
                continue
            node.metadata["module"] = module
            todo += [parent for parent, _ in node.next_functions]

    def _entering(self, name: str):
        def hook(module, inputs, keywords):
            self.own_graph((inputs, keywords))
            self._stack.append(name)

        return hook

    def _leaving(self, name: str):
        def hook(module, inputs, output):
            if output is not None:  # None: it raised
                self.own_graph(output)
            if self._stack and self._stack[-1] == name:
                self._stack.pop()
            terms = getattr(output, "terms", None)
            if isinstance(terms, Mapping):
                self.loss_terms |= {
                    str(term): float(value)
                    for term, value in terms.items()
                    if isinstance(value, torch.Tensor) and value.numel() == 1
                }
            if self._on_layer is not None and output is not None:
                short, kind = name[:-1].split(" (")
                self._on_layer(Layer(short, kind, _tensors(output)))

        return hook

    # -- one operation ---------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run one operation and look at what it made."""
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        operands = [value for value in given if is_number(value)]
        try:
            results = func(*args, **kwargs)
        except Exception:
            if self.failed is None:
                self.failed = self._place(func, "computed")
            raise
        if "empty" in func._schema.name:  # whatever lay in that memory before
            return results
        made = [value for value in tree_leaves(results) if is_number(value)]
        # BatchNorm writes into its operands without saying so.
        made += [tensor for tensor in operands if _pointer(tensor) in self._named]
        for tensor in made:
            key = _pointer(tensor)
            known = self._origins.get(key)
            if known is not None and known.kind != "mask":
                continue  # a view of what is known to be bad
            if key and is_bad(tensor):
                self._held.append(tensor)
                self._origins[key] = self._find(func, given, operands, tensor)
        return results

    def _find(self, func, given, operands, result) -> Origin:
        """Follow a bad result to its operands, or make a new origin here."""
        spoiled = bool(result.isnan().any())
        masks = []
        for operand in operands:
            key = _pointer(operand)
            if key == _pointer(result) and self._overwritten(func, key):
                continue  # what it held before is not known any more
            if not is_bad(operand):
                continue
            known = self._origins.get(key) or self._brought(func, operand, key)
            self._origins[key] = known
            self._held.append(operand)
            if known.kind != "mask" or operand.isnan().any():
                return known
            masks.append(known)
        if masks and not spoiled:
            return masks[0]
        numbers = [value for value in given if isinstance(value, float)]
        if any(math.isnan(value) for value in numbers):
            return self._place(func, "constant", result)
        if any(math.isinf(value) for value in numbers) and not spoiled:
            return self._place(func, "mask", result)
        return self._place(func, "computed", result)

    def _overwritten(self, func, key: int) -> bool:
        """Whether an operand that shares memory with the result was good before."""
        if key in self._origins or key in self._bad_before:
            return False
        known = key in self._named or key in self._inputs
        return known or func._schema.is_mutable

    def _brought(self, func, operand: torch.Tensor, key: int) -> Origin:
        """Make the origin of a bad operand that no operation of this run made."""
        if key in self._named:
            name, kind = self._named[key]
            # -Inf alone in a buffer or attribute is a mask.
            mask = kind != "parameter" and not is_bad(operand, masks=True)
            return self._place(func, "mask" if mask else "state", operand, name)
        if key in self._inputs:
            return self._place(func, "input", operand, self._inputs[key])
        mask = not is_bad(operand, masks=True)
        return self._place(func, "mask" if mask else "constant", operand)

    def _place(self, func, kind: str, tensor=None, operand: str = "") -> Origin:
        """Say where the run is just now."""
        self._count += 1
        # In backward only what it called itself: hooks, functions of the user.
        frames = running(torch.Tensor.backward.__code__ if self._in_backward else None)
        called = any(name == "compute_objectives" for _, _, name in frames)
        phase = "objective" if called else "forward"
        module = self._stack[-1] if self._stack else ""
        source = chosen([frame[:2] for frame in frames])
        if self._in_backward:
            phase = "backward"
            node = torch._C._current_autograd_node()
            if node is not None:
                module = node.metadata.get("module", "")
                source = source or chosen(remembered(node))
        rows: tuple[int, ...] = ()
        count = 0
        if tensor is not None and tensor.dim():
            rows, count = bad_rows(tensor), len(tensor)
        name = func._schema.name.replace("::", ".")
        return Origin(
            self._count, kind, name, module, source, phase, operand, rows, count
        )
