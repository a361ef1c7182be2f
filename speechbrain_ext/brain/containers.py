"""Lists, dicts, sets and deques: what they held, and the tensors somewhere in them."""

from __future__ import annotations

import collections
import operator
from collections.abc import Iterable
from typing import Any

import torch

from speechbrain_ext.brain.shadow import TensorShadow
from speechbrain_ext.brain.streams import (
    GENERATORS,
    generator_state,
    set_generator_state,
)

#: Copied item by item; all but these and tensors is put back as the same object.
CONTAINERS = (list, dict, set, collections.deque)
#: Longer lists are taken to be append-only logs: only their length is remembered.
LONG_LIST = 256
#: Longer dicts are taken to be tables to which entries are only added.
LONG_DICT = 10_000
#: Types that hold nothing that could change.
ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None), torch.Size})
#: Registries of a module that hold hooks and names, not state.
_HOOKS = frozenset(vars(torch.nn.Module())) - {
    "training",
    "_parameters",
    "_buffers",
    "_modules",
}


def remember(container: Any) -> Any:
    """Return a shallow copy, or the length of one that only ever grows."""
    if len(container) > LONG_LIST and isinstance(container, (list, dict)):
        if isinstance(container, list) or len(container) > LONG_DICT:
            return len(container)
    return container.copy()


def put_back(container: Any, items: Any) -> None:
    """Give a container the items that `remember` saw in it."""
    if isinstance(items, int):
        if isinstance(container, list):
            del container[items:]
        else:
            while len(container) > items:
                container.popitem()
    elif isinstance(container, list):
        container[:] = items
    elif isinstance(container, dict):
        if len(container) != len(items) or not all(map(operator.is_, container, items)):
            container.clear()
        container.update(items)
    else:
        container.clear()
        (container.update if isinstance(container, set) else container.extend)(items)


class ContainerMemory:
    """Containers as they were, at any depth, with the values of their tensors.

    Arguments
    ---------
    through_modules : bool
        Also look into modules, optimizers and their parameters, so that a root that
        leads to them stands for all their state.

    Limits: objects of other types inside are put back as the same objects.
    """

    def __init__(self, *, through_modules: bool = False):
        self._through_modules = through_modules
        self._held: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, Any]] = []
        self._shadow = TensorShadow()

    def walk(self, roots: Iterable[Any]) -> tuple[list, list, list]:
        """Find what can be reached: containers, tensors and generators, each once."""
        containers, tensors, generators = [], [], []
        seen: set[int] = set()
        stack = list(roots)
        kept = []  # vars() of a module may be made on demand; its id must stay taken
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, torch.Tensor):
                if self._through_modules or not isinstance(item, torch.nn.Parameter):
                    tensors.append(item)
                continue
            if isinstance(item, GENERATORS):
                generators.append(item)
                continue
            if isinstance(item, CONTAINERS):
                containers.append(item)
                values = item.values() if isinstance(item, dict) else item
                if not isinstance(item, dict) and len(item) > LONG_LIST:
                    # A log, or a list of parameters: its tensors are state, its
                    # numbers and texts are not looked at one by one.
                    if type(item[0] if isinstance(item, list) else None) in ATOMS:
                        continue
            elif isinstance(item, tuple):
                values = item
            else:
                space = vars(item)
                kept.append(space)
                if isinstance(item, torch.jit.ScriptModule):
                    values = [*item.parameters(), *item.buffers()]
                else:
                    if id(space) in seen:
                        continue
                    seen.add(id(space))
                    containers.append(space)
                    values = [v for k, v in space.items() if k not in _HOOKS]
            if not ATOMS.issuperset(map(type, values)):
                stack += [value for value in values if self._leads_on(value)]
        return containers, tensors, generators

    def _leads_on(self, value: Any) -> bool:
        if type(value) in ATOMS:
            return False
        if isinstance(value, (torch.Tensor, tuple, *CONTAINERS, *GENERATORS)):
            return True
        return self._through_modules and isinstance(
            value, (torch.nn.Module, torch.optim.Optimizer)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors kept."""
        return self._shadow.nbytes

    def take(self, roots: Iterable[Any]) -> None:
        """Remember all that can be reached from these containers or objects."""
        containers, tensors, generators = self.walk(roots)
        self._held = [(container, remember(container)) for container in containers]
        self._generators = [(g, generator_state(g)) for g in generators]
        self._shadow.follow(tensors)
        self._shadow.take()

    def restore(self) -> None:
        """Put everything back: the items, and the values of tensors among them."""
        for container, items in self._held:
            put_back(container, items)
        for generator, state in self._generators:
            set_generator_state(generator, state)
        self._shadow.restore()
