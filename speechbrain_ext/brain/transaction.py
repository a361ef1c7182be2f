"""Everything a forward pass may change, kept so that it can be put back.

Parameters and optimizer moments are not copied: they move in ``optimizer.step()``,
which runs after the verdict. What moves *before* it is: buffers (BatchNorm, EMA
codebooks, staged statistics), statistics kept as plain attributes of modules, numbers
and lists of the Brain, gradients of earlier micro-batches, and the random streams.
"""

from __future__ import annotations

import collections
import operator
import random
from collections.abc import Callable, Iterable

import numpy
import torch

#: Copied item by item; all but these and tensors is put back as the same object.
_CONTAINERS = (list, dict, set, collections.deque)
#: Longer lists are taken to be append-only logs: only their length is remembered.
_LONG_LIST = 256
#: torch's own registries in a module: parameters, buffers and hooks.
_REGISTRIES = frozenset(vars(torch.nn.Module())) - {"training"}


def _can_be_written(tensor: torch.Tensor) -> bool:
    """Whether a dense copy may be put back in place; if not, nobody else can either."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_inference()
        and all(s or n == 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))
    )


def _zero_or_nan(values: torch.Tensor, *, masks: bool) -> torch.Tensor:
    """0 where finite, NaN elsewhere; with ``masks`` also 0 where -Inf."""
    if values.is_complex():
        values = torch.view_as_real(values)
    if masks:
        values = values.clamp(min=0)
    return values * 0.0  # 0 * inf and 0 * nan are nan, and nothing overflows


class TensorShadow:
    """Copies of a list of tensors in preallocated memory, one flat block per kind.

    Arguments
    ---------
    tensors : list[torch.Tensor]
        The live tensors, any shapes, dtypes and devices. Those that can't be written
        in place (sparse, expanded) are not copied.
    masks : bool
        -Inf is an ordinary value of these tensors: attention masks are made of it.
    """

    def __init__(self, tensors: list[torch.Tensor], *, masks: bool = False):
        self.live = tensors
        self.masks = masks
        self.places = [i for i, t in enumerate(tensors) if _can_be_written(t)]
        self.held = [tensors[place] for place in self.places]
        self.layout = [(t.dtype, t.device, t.shape) for t in self.held]
        self.blocks = {}
        self.copies: list[torch.Tensor] = []
        self._exempt: dict | None = None
        self._after: TensorShadow | None = None
        sizes = collections.Counter()
        for tensor in self.held:
            sizes[(tensor.dtype, tensor.device)] += tensor.numel()
        for key, size in sizes.items():
            self.blocks[key] = torch.empty(size, dtype=key[0], device=key[1])
        used = collections.Counter()
        for tensor in self.held:
            key = (tensor.dtype, tensor.device)
            start = used[key]
            used[key] += tensor.numel()
            view = self.blocks[key][start : used[key]].view(tensor.shape)
            self.copies.append(view)

    def matches(self, tensors: list[torch.Tensor]) -> bool:
        """Whether ``tensors`` are the very objects this shadow was made for."""
        return len(tensors) == len(self.live) and all(
            map(operator.is_, tensors, self.live)
        )

    @torch.no_grad()
    def take(self) -> None:
        """Copy the live tensors into the shadow."""
        if self.held:
            torch._foreach_copy_(self.copies, self.held)

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the shadow back into the live tensors."""
        if self.held:
            torch._foreach_copy_(self.held, self.copies)

    @torch.no_grad()
    def spoiled_by(self, now: list) -> list[torch.Tensor]:
        """Look for elements that were finite when first taken and are not any more.

        Arguments
        ---------
        now : list
            What stands in the places of the live tensors now.

        Returns
        -------
        list[torch.Tensor]
            Scalars that are 0, or NaN where there is such an element; no sync.
        """
        if self._exempt is None:
            self._exempt = {
                key: self._spoiled_already(block)
                for key, block in self.blocks.items()
                if block.is_floating_point() or block.is_complex()
            }
        now = [now[place] for place in self.places]
        if not all(isinstance(tensor, torch.Tensor) for tensor in now) or (
            [(t.dtype, t.device, t.shape) for t in now] != self.layout
        ):
            return self._spoiled_one_by_one(now)
        if self._after is None or not self._after.matches(now):
            self._after = TensorShadow(now)
        if len(self._after.held) != len(now):
            return self._spoiled_one_by_one(now)
        self._after.take()
        scalars = []
        for key, exempt in self._exempt.items():
            found = _zero_or_nan(self._after.blocks[key], masks=self.masks)
            if exempt is not None:
                found.masked_fill_(exempt, 0.0)
            scalars.append(found.sum())
        return scalars

    def _spoiled_already(self, block: torch.Tensor) -> torch.Tensor | None:
        """Mark the elements that are not finite, or return None if all are."""
        found = _zero_or_nan(block, masks=self.masks).isnan()
        # Buffers keep their identity, so this is asked once an epoch, and it halves
        # the cost of large codebooks; on a GPU the answer would cost a wait.
        if not self.masks and block.device.type == "cpu" and not found.any():
            return None
        return found

    def _spoiled_one_by_one(self, now: list) -> list[torch.Tensor]:
        """As `spoiled_by`, where a tensor was exchanged for one of another kind."""
        scalars = []
        for before, after in zip(self.copies, now, strict=True):
            if (
                isinstance(after, torch.Tensor)
                and after.layout is torch.strided
                and (after.is_floating_point() or after.is_complex())
            ):
                spoiled = _zero_or_nan(after, masks=self.masks).sum()
                known = _zero_or_nan(before, masks=self.masks).sum().isnan()
                scalars.append(spoiled.masked_fill(known.to(spoiled.device), 0.0))
        return scalars


class RandomStreams:
    """The global random streams: Python, NumPy, torch on CPU and on each GPU."""

    def take(self) -> None:
        """Remember all streams."""
        self.torch_cpu = torch.get_rng_state()
        self.numpy = numpy.random.get_state()
        self.python = random.getstate()
        self.torch_cuda = []
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self.torch_cuda = torch.cuda.get_rng_state_all()

    def restore(self) -> None:
        """Put all streams back where they were."""
        torch.set_rng_state(self.torch_cpu)
        numpy.random.set_state(self.numpy)
        random.setstate(self.python)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(self.torch_cuda)


class Gradients:
    """``.grad`` of all parameters, as earlier batches left it."""

    def __init__(self):
        self._shadow = TensorShadow([])
        self._before: list[tuple[torch.nn.Parameter, torch.Tensor | None]] = []

    def take(self, parameters: list[torch.nn.Parameter]) -> None:
        """Remember which parameters have a gradient, and its values.

        A step leaves none behind, so there is something to copy only inside an
        accumulation window and for parameters whose optimizer is frozen.
        """
        self._before = [(p, p.grad) for p in parameters]
        grads = [grad for _, grad in self._before if grad is not None]
        if not self._shadow.matches(grads):
            self._shadow = TensorShadow(grads)
        self._shadow.take()

    def restore(self) -> None:
        """Put the gradients back, or none where there was none."""
        for parameter, grad in self._before:
            parameter.grad = grad
        self._shadow.restore()


def _remember(container):
    """Return a shallow copy, or the length of a list that is a long log."""
    if isinstance(container, list) and len(container) > _LONG_LIST:
        return len(container)
    return container.copy()


def _put_back(container, items) -> None:
    """Give a container the items that `_remember` saw in it."""
    if isinstance(items, int):
        del container[items:]
    elif isinstance(container, list):
        container[:] = items
    else:
        container.clear()
        extend = getattr(container, "update", None) or container.extend
        extend(items)


class ForwardState:
    """Buffers and plain-attribute statistics of modules and of their Brain.

    Arguments
    ---------
    modules : torch.nn.Module
        All trained modules.
    owners : Callable[[], Iterable[object]]
        Gives further objects (or dicts) whose numbers, tensors and containers belong
        to the state (the Brain, its hparams, metric accumulators, the optimizers'
        parameter groups); asked again for each plan.

    Limits: containers are put back to the items they held (same objects); an item
    that was changed in place stays changed. Attributes of any other type are put back
    to the same object.
    """

    def __init__(
        self,
        modules: torch.nn.Module,
        owners: Callable[[], Iterable[object]] = tuple,
    ):
        self._modules = modules
        self._owners = owners
        self.parameters: list[torch.nn.Parameter] = []
        self._spaces: list[dict] = []
        self._shape: tuple[int, ...] | None = None
        self._types: list[list[type]] = []
        self._buffers = TensorShadow([])
        self._attributes = TensorShadow([], masks=True)

    def forget_plan(self) -> None:
        """List the slots anew before the next batch (objects were exchanged)."""
        self._shape = None

    def _plan(self) -> None:
        """List every slot once; each batch then only reads them."""
        modules = list(self._modules.modules())
        buffers = [module._buffers for module in modules]
        spaces = [vars(module) for module in modules]
        spaces += [o if isinstance(o, dict) else vars(o) for o in self._owners()]
        self._spaces = buffers + spaces
        self._keys = [frozenset(space.keys()) for space in self._spaces]
        self.parameters = list(self._modules.parameters())
        places = [
            (space, name)
            for space in buffers
            for name, buffer in space.items()
            if buffer is None
        ]
        self._buffer_places = [
            (space, name)
            for space in buffers
            for name, buffer in space.items()
            if buffer is not None
        ]
        # A frozen parameter is a buffer by another name (EMA codebooks).
        self._buffer_places += [
            (module._parameters, name)
            for module in modules
            for name, parameter in module._parameters.items()
            if parameter is not None and not parameter.requires_grad
        ]
        self._attribute_places, self._container_places = [], []
        for space in spaces:
            for name, value in space.items():
                if name in _REGISTRIES:
                    continue
                if isinstance(value, torch.Tensor):
                    self._attribute_places.append((space, name))
                elif isinstance(value, _CONTAINERS):
                    self._container_places.append((space, name))
                else:
                    places.append((space, name))
        self._places = places
        self._shape = tuple(map(len, self._spaces))

    def _read(self) -> list[list] | None:
        """Read every slot, or return None if the plan is out of date."""
        # Attributes born in the last forward (caches, first statistics) change sizes.
        if self._shape != tuple(map(len, self._spaces)):
            return None
        try:
            return [
                [space[name] for space, name in places]
                for places in (
                    self._places,
                    self._container_places,
                    self._buffer_places,
                    self._attribute_places,
                )
            ]
        except KeyError:  # one was born and another one deleted
            return None

    def take(self) -> None:
        """Remember the state; fast, since it runs before every batch."""
        read = self._read()
        # None that became a tensor, a list that became None: copied another way.
        types = read and [list(map(type, values)) for values in read]
        if not read or types != self._types:
            self._plan()
            read = self._read()
            self._types = [list(map(type, values)) for values in read]
        self._values, containers, buffers, attributes = read
        self._items = [(value, _remember(value)) for value in containers]
        if not self._buffers.matches(buffers):
            self._buffers = TensorShadow(buffers)
        if not self._attributes.matches(attributes):
            self._attributes = TensorShadow(attributes, masks=True)
        self._buffers.take()
        self._attributes.take()

    def probe(self) -> torch.Tensor | None:
        """Return 0 if forward spoiled no buffer or attribute, else NaN (None: none).

        What was NaN or Inf before is not the batch's doing; -Inf is allowed in plain
        attributes, where attention masks are kept.
        """
        total = None
        for shadow, places in (
            (self._buffers, self._buffer_places),
            (self._attributes, self._attribute_places),
        ):
            for part in shadow.spoiled_by([space.get(name) for space, name in places]):
                part = part.float()
                total = part if total is None else total + part.to(total.device)
        return total

    def restore(self) -> None:
        """Put everything back: values, identities, and nothing that is new."""
        for space, keys in zip(self._spaces, self._keys, strict=True):
            for name in [n for n in space.keys() if n not in keys]:
                del space[name]
        for (space, name), value in zip(self._places, self._values, strict=True):
            space[name] = value
        for (space, name), (container, items) in zip(
            self._container_places, self._items, strict=True
        ):
            space[name] = container
            _put_back(container, items)
        for shadow, places in (
            (self._buffers, self._buffer_places),
            (self._attributes, self._attribute_places),
        ):
            for (space, name), tensor in zip(places, shadow.live, strict=True):
                space[name] = tensor
            shadow.restore()


class Transaction:
    """One batch: `begin`, then either nothing more (commit) or `rollback`.

    Arguments
    ---------
    modules : torch.nn.Module
        All trained modules.
    owners : Callable[[], Iterable[object]]
        See `ForwardState`.
    """

    def __init__(
        self,
        modules: torch.nn.Module,
        owners: Callable[[], Iterable[object]] = tuple,
    ):
        self.forward_state = ForwardState(modules, owners)
        self.random = RandomStreams()
        self.gradients = Gradients()

    def begin(self) -> None:
        """Remember everything."""
        self.forward_state.take()
        self.random.take()
        self.gradients.take(self.forward_state.parameters)

    def rollback(self) -> None:
        """Put everything back, as if the batch had never been delivered."""
        self.forward_state.restore()
        self.random.restore()
        self.gradients.restore()
