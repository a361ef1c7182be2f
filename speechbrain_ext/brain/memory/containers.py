"""Lists, dicts, sets and deques: what they held, and the tensors somewhere in them."""

from __future__ import annotations

import collections
import itertools
import operator
from collections.abc import Iterable
from typing import Any

import torch

from speechbrain_ext.brain.memory.identity import SameObjects, same
from speechbrain_ext.brain.memory.shadow import TensorShadow
from speechbrain_ext.brain.memory.streams import (
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
        self._ways: dict[type, str] = {}
        self._roots: list = []
        self._containers: list = []
        self._tensors: list[torch.Tensor] = []
        self._streams: list = []
        #: What the containers hold: of dicts the values, as they are when asked.
        self._views: list[Iterable] = []
        self._seen = SameObjects()
        #: Containers that were kept, and what `remember` said of each.
        self._held: list = []
        self._items: list = []
        self._generators: list[tuple[Any, Any]] = []
        self._shadow = TensorShadow()

    def walk(self, roots: Iterable[Any]) -> tuple[list, list, list]:
        """Find what can be reached: containers, tensors and generators, each once."""
        containers, tensors, generators = [], [], []
        ways = self._ways
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            way = ways.get(type(item)) or self._way(type(item))
            if way == "container":
                containers.append(item)
                values = item.values() if isinstance(item, dict) else item
            elif way == "tensor":
                tensors.append(item)
                continue
            elif way == "tuple":
                values = item
            elif way == "generator":
                generators.append(item)
                continue
            elif isinstance(item, torch.jit.ScriptModule):
                values = [*item.parameters(), *item.buffers()]
            else:
                space = vars(item)
                if id(space) in seen:
                    continue
                seen.add(id(space))
                containers.append(space)
                values = [v for k, v in space.items() if k not in _HOOKS]
            if values and not ATOMS.issuperset(map(type, values)):
                for value in values:
                    way = ways.get(type(value)) or self._way(type(value))
                    if way != "end":
                        stack.append(value)
        return containers, tensors, generators

    def _way(self, kind: type) -> str:
        """How the walk goes on at an object of this type; remembered by type."""
        if issubclass(kind, torch.nn.Parameter) and not self._through_modules:
            way = "end"
        elif issubclass(kind, torch.Tensor):
            way = "tensor"
        elif issubclass(kind, CONTAINERS):
            way = "container"
        elif issubclass(kind, tuple) and kind is not torch.Size:
            way = "tuple"
        elif issubclass(kind, GENERATORS):
            way = "generator"
        elif self._through_modules and issubclass(
            kind, (torch.nn.Module, torch.optim.Optimizer)
        ):
            way = "module"
        else:
            way = "end"
        self._ways[kind] = way
        return way

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors kept."""
        return self._shadow.nbytes

    def look(self, roots: Iterable[Any]) -> bool:
        """Find what can be reached from these containers or objects.

        Returns
        -------
        bool
            Whether it may be something else than at the last look.
        """
        roots = list(roots)
        moved = self._seen.follow(itertools.chain.from_iterable(self._views))
        if (
            moved is not None
            and same(roots, self._roots)
            and not any(self._leads_on(value) for pair in moved for value in pair)
        ):
            return False
        self._roots = roots
        self._containers, self._tensors, self._streams = self.walk(roots)
        self._views = [
            c.values() if isinstance(c, dict) else c for c in self._containers
        ]
        self._seen = SameObjects(itertools.chain.from_iterable(self._views))
        return True

    def take(self, roots: Iterable[Any]) -> None:
        """Remember all that can be reached from these containers or objects."""
        self.look(roots)
        self.keep()

    def keep(self) -> None:
        """Remember all that the last `look` found."""
        self._held = self._containers
        self._items = [
            item.copy() if len(item) <= LONG_LIST else remember(item)
            for item in self._containers
        ]
        self._generators = [(g, generator_state(g)) for g in self._streams]
        if self._tensors or self._shadow.live:
            self._shadow.follow(self._tensors)
            self._shadow.take()

    def _leads_on(self, value: Any) -> bool:
        """Whether a walk would go on at this object (to walk anew costs much more)."""
        kind = type(value)
        return (self._ways.get(kind) or self._way(kind)) != "end"

    def restore(self) -> None:
        """Put everything back: the items, and the values of tensors among them."""
        for container, items in zip(self._held, self._items, strict=True):
            put_back(container, items)
        for generator, state in self._generators:
            set_generator_state(generator, state)
        self._shadow.restore()

    def kept_tensors(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Return id of a live tensor -> (the tensor, the values that were kept)."""
        shadow = self._shadow
        return {
            id(tensor): (tensor, kept)
            for tensor, kept in zip(shadow.held, shadow.copies, strict=True)
        }

    def kept_items(self, container: Any) -> Any:
        """Return what `take` remembered of one container, or None."""
        pairs = zip(self._held, self._items, strict=True)
        return next((items for held, items in pairs if held is container), None)
