"""Named places in dicts, read many at a time; which of them forward may move."""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
from collections.abc import Iterable

import torch

#: torch's own registries in a module: parameters, buffers and hooks.
REGISTRIES = frozenset(vars(torch.nn.Module())) - {"training"}


class Slots:
    """Places ``space[name]`` of many dicts, read at the speed of C.

    Arguments
    ---------
    places : Iterable[tuple[dict, str]]
        The dicts and the names in them, in any order.

    Example
    -------
    >>> numbers = {"a": 1, "b": 2}
    >>> slots = Slots([(numbers, "a"), (numbers, "b")])
    >>> numbers["b"] = 5
    >>> slots.read()
    [1, 5]
    """

    def __init__(self, places: Iterable[tuple[dict, str]] = ()):
        by_space: dict[int, tuple[dict, list[str]]] = {}
        for space, name in places:
            by_space.setdefault(id(space), (space, []))[1].append(name)
        groups = sorted(by_space.values(), key=lambda group: len(group[1]) == 1)
        #: The same places in the order in which `read` gives their values.
        self.places = [(space, name) for space, names in groups for name in names]
        self._pairs = [
            (operator.itemgetter(*names), space)
            for space, names in groups
            if len(names) > 1
        ]
        # itemgetter gives no tuple for a single name.
        self._singles = [(s, names[0]) for s, names in groups if len(names) == 1]

    def __len__(self) -> int:
        return len(self.places)

    def read(self) -> list:
        """Values of all places; KeyError if one is gone."""
        values = list(
            itertools.chain.from_iterable([get(space) for get, space in self._pairs])
        )
        if self._singles:
            values += [space[name] for space, name in self._singles]
        return values

    def write(self, values: Iterable) -> None:
        """Put values into all places."""
        for (space, name), value in zip(self.places, values, strict=True):
            space[name] = value


def same(values: list, others: list) -> bool:
    """Whether two lists hold the very same objects."""
    return len(values) == len(others) and all(map(operator.is_, values, others))


@functools.cache
def _constants(kind: type) -> frozenset[str]:
    """Names that a stock torch module sets once, in its constructor."""
    names = set(inspect.signature(kind.__init__).parameters)
    for base in kind.__mro__:
        names |= set(vars(base).get("__annotations__", ()))
    return frozenset(names)


def is_stock(module: torch.nn.Module) -> bool:
    """Whether the module is torch's own and writes no attribute in forward."""
    kind = type(module)
    return kind.__module__.startswith("torch.nn.modules.") and not hasattr(
        kind, "cls_to_become"
    )


def recomputed(module: torch.nn.Module) -> set[str]:
    """Attributes that a hook computes anew before each forward (`weight_norm`)."""
    return {
        hook.name
        for hook in module._forward_pre_hooks.values()
        if type(hook).__module__.startswith("torch.nn.utils.")
        and isinstance(getattr(hook, "name", None), str)
    }


def module_names(module: torch.nn.Module) -> list[str]:
    """Names of a module's own attributes that may move between two batches.

    Of torch's own modules these are the numbers that a recipe may anneal (dropout,
    momentum), ``training`` where it matters, and what was not there at construction.
    """
    space = vars(module)
    names = [name for name in space if name not in REGISTRIES]
    if not is_stock(module):
        return names
    constants = _constants(type(module))
    kept = [
        name
        for name in names
        if name != "training"
        and (
            isinstance(space[name], (float, torch.Tensor))
            or (name not in constants and name[0] != "_")
        )
    ]
    if kept or isinstance(module, (torch.nn.RNNBase, torch.nn.MultiheadAttention)):
        kept.append("training")
    return kept
