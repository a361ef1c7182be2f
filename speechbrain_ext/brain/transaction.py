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

#: Values of attributes that are read and put back as they are.
_NUMBERS = (bool, int, float, complex, str, type(None))
_CONTAINERS = (list, dict, set, collections.deque)
#: Longer lists are taken to be append-only logs: only their length is remembered.
_LONG_LIST = 256
#: torch's own registries in a module: parameters, buffers and hooks.
_REGISTRIES = frozenset(vars(torch.nn.Module())) - {"training"}


class TensorShadow:
    """Copies of a list of tensors in preallocated memory, one flat block per kind.

    Arguments
    ---------
    tensors : list[torch.Tensor]
        The live tensors, any shapes, dtypes and devices.
    """

    def __init__(self, tensors: list[torch.Tensor]):
        self.live = tensors
        self.blocks = {}
        self.copies: list[torch.Tensor] = []
        sizes = collections.Counter()
        for tensor in tensors:
            sizes[(tensor.dtype, tensor.device)] += tensor.numel()
        for key, size in sizes.items():
            self.blocks[key] = torch.empty(size, dtype=key[0], device=key[1])
        used = collections.Counter()
        for tensor in tensors:
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
        if self.live:
            torch._foreach_copy_(self.copies, self.live)

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the shadow back into the live tensors."""
        if self.live:
            torch._foreach_copy_(self.live, self.copies)

    def probe(self) -> torch.Tensor | None:
        """Return 0 if all floating copies are finite, else NaN; a scalar, no sync."""
        total = None
        for block in self.blocks.values():
            if block.is_floating_point():
                # 0 * inf and 0 * nan are nan: one pass, and no overflow on the way.
                part = (block.float() * 0.0).sum()
                total = part if total is None else total + part.to(total.device)
        return total


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
    """``.grad`` of all parameters, as earlier micro-batches of a window left it."""

    def __init__(self):
        self._shadow: TensorShadow | None = None
        self._before: list[tuple[torch.nn.Parameter, torch.Tensor | None]] = []

    def take(self, parameters: list[torch.nn.Parameter], copy: bool) -> None:
        """Remember which parameters have a gradient and, with ``copy``, its values."""
        self._before = [(p, p.grad) for p in parameters]
        grads = [grad for _, grad in self._before if grad is not None]
        self._copied = copy and bool(grads)
        if self._copied:
            if self._shadow is None or not self._shadow.matches(grads):
                self._shadow = TensorShadow(grads)
            self._shadow.take()

    def restore(self) -> None:
        """Put the gradients back; those of the first micro-batch become zero."""
        for parameter, grad in self._before:
            parameter.grad = grad
        if self._copied:
            self._shadow.restore()
        else:
            for _, grad in self._before:
                if grad is not None:
                    grad.zero_()


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
        Gives further objects whose numbers, tensors and containers belong to the
        state (the Brain, its hparams, metric accumulators); asked again for each plan.

    Limits: containers are put back to the items they held (same objects); an item
    that was changed in place stays changed.
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
        self._shadow = TensorShadow([])
        self._probe = self._shadow

    def forget_plan(self) -> None:
        """List the slots anew before the next batch (objects were exchanged)."""
        self._shape = None

    def _plan(self) -> None:
        """List every slot once; each batch then only reads them."""
        self._spaces = [vars(module) for module in self._modules.modules()]
        self._spaces += [vars(owner) for owner in self._owners()]
        self._keys = [frozenset(space) for space in self._spaces]
        self.parameters = list(self._modules.parameters())
        self._slots, self._tensors, self._containers = [], [], []
        for module in self._modules.modules():
            self._tensors += [
                (module._buffers, name)
                for name, buffer in module._buffers.items()
                if buffer is not None
            ]
            # A frozen parameter is a buffer by another name (EMA codebooks).
            self._tensors += [
                (module._parameters, name)
                for name, parameter in module._parameters.items()
                if parameter is not None and not parameter.requires_grad
            ]
        for space in self._spaces:
            for name, value in space.items():
                if name in _REGISTRIES:
                    continue
                if isinstance(value, torch.Tensor):
                    self._tensors.append((space, name))
                elif isinstance(value, _NUMBERS):
                    self._slots.append((space, name))
                elif isinstance(value, _CONTAINERS):
                    self._containers.append((space, name))
        self._shape = tuple(map(len, self._spaces))

    def take(self) -> None:
        """Remember the state; fast, since it runs before every batch."""
        # Attributes born in the last forward (caches, first statistics) change sizes.
        if self._shape != tuple(map(len, self._spaces)):
            self._plan()
        self._values = [space[name] for space, name in self._slots]
        self._items = [
            (value := space[name], _remember(value)) for space, name in self._containers
        ]
        live = [space[name] for space, name in self._tensors]
        if not self._shadow.matches(live):
            self._shadow = TensorShadow(live)
            floating = [t for t in live if t.is_floating_point()]
            self._probe = TensorShadow(floating)
        self._shadow.take()

    def probe(self) -> torch.Tensor | None:
        """Return 0 if every floating buffer is finite now, else NaN (None: none)."""
        live = [space.get(name) for space, name in self._tensors]
        floating = [
            t for t in live if isinstance(t, torch.Tensor) and t.is_floating_point()
        ]
        if not self._probe.matches(floating):
            self._probe = TensorShadow(floating)
        self._probe.take()
        return self._probe.probe()

    def restore(self) -> None:
        """Put everything back: values, identities, and nothing that is new."""
        for space, keys in zip(self._spaces, self._keys, strict=True):
            for name in [n for n in space if n not in keys]:
                del space[name]
        for (space, name), value in zip(self._slots, self._values, strict=True):
            space[name] = value
        for (space, name), (container, items) in zip(
            self._containers, self._items, strict=True
        ):
            space[name] = container
            _put_back(container, items)
        for (space, name), tensor in zip(self._tensors, self._shadow.live, strict=True):
            space[name] = tensor
        self._shadow.restore()


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

    def begin(self, *, keep_gradients: bool) -> None:
        """Remember everything; ``keep_gradients`` inside an accumulation window."""
        self.forward_state.take()
        self.random.take()
        self.gradients.take(self.forward_state.parameters, copy=keep_gradients)

    def rollback(self) -> None:
        """Put everything back, as if the batch had never been delivered."""
        self.forward_state.restore()
        self.random.restore()
        self.gradients.restore()
