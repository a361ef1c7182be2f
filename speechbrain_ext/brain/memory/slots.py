"""Named places in dicts, read many at a time; which of them forward may move."""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import operator
import types
from collections.abc import Iterable

import torch

#: torch's own registries in a module: parameters, buffers and hooks.
REGISTRIES = frozenset(vars(torch.nn.Module())) - {"training"}

#: Packages beside torch whose modules are looked through for what they write.
_LIBRARIES = ("speechbrain.nnet.", "speechbrain.lobes.")


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
        # Modules of one kind have the same names: one getter serves them all.
        by_names: dict[tuple[str, ...], list[dict]] = {}
        for space, names in by_space.values():
            by_names.setdefault(tuple(names), []).append(space)
        #: The same places in the order in which `read` gives their values.
        self.places = [
            (space, name)
            for names, spaces in by_names.items()
            for space in spaces
            for name in names
        ]
        self._groups = [
            (operator.itemgetter(*names), spaces, len(names) > 1)
            for names, spaces in by_names.items()
        ]

    def __len__(self) -> int:
        return len(self.places)

    def read(self) -> list:
        """Values of all places; KeyError if one is gone."""
        values: list = []
        for get, spaces, several in self._groups:
            found = map(get, spaces)
            # itemgetter gives no tuple for a single name.
            values += itertools.chain.from_iterable(found) if several else found
        return values

    def write(self, values: Iterable) -> None:
        """Put values into all places."""
        for (space, name), value in zip(self.places, values, strict=True):
            space[name] = value


def _codes(code: types.CodeType) -> Iterable[types.CodeType]:
    """Yield a function's code, and that of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


@functools.cache
def _written(kind: type) -> frozenset[str] | None:
    """Names of attributes that a library's module writes after its construction.

    None where that can't be told: for everybody else's modules.
    """
    if hasattr(kind, "cls_to_become"):  # a lazy module turns into another
        return None
    if not kind.__module__.startswith(("torch.nn.modules.", *_LIBRARIES)):
        return None
    names = set()
    for base in kind.__mro__:
        if base is torch.nn.Module or base.__module__.startswith("torch.nn.modules."):
            continue  # they write their registries only
        for name, method in vars(base).items():
            if name == "__init__" or not isinstance(method, types.FunctionType):
                continue
            for code in _codes(method.__code__):
                if {"setattr", "delattr", "__dict__"} & {*code.co_names}:
                    return None
                names |= {
                    step.argval
                    for step in dis.get_instructions(code)
                    if step.opname in ("STORE_ATTR", "DELETE_ATTR")
                }
    return frozenset(names)


@functools.cache
def _constants(kind: type) -> frozenset[str]:
    """Names that a module's constructors take, and that are declared."""
    names = set()
    for base in kind.__mro__:
        names |= set(vars(base).get("__annotations__", ()))
        if "__init__" in vars(base) and base is not object:
            names |= set(inspect.signature(base.__init__).parameters)
    return frozenset(names)


@functools.cache
def _reads_training(kind: type) -> bool:
    """Whether a module's own code asks if it is in training."""
    return any(
        "training" in code.co_names
        for base in kind.__mro__
        if base not in (torch.nn.Module, object)
        for method in vars(base).values()
        if isinstance(method, types.FunctionType)
        for code in _codes(method.__code__)
    )


def is_stock(module: torch.nn.Module) -> bool:
    """Whether the module is of torch or SpeechBrain, with all its attributes known."""
    return _written(type(module)) is not None


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

    Of modules of torch and SpeechBrain these are the attributes that their own code
    writes, the numbers that a recipe may anneal (dropout, momentum), tensors, what no
    constructor declares, and ``training`` where it matters.
    """
    space = vars(module)
    names = [name for name in space if name not in REGISTRIES]
    written = _written(type(module))
    if written is None:
        return names
    constants = _constants(type(module)) - written
    private = type(module).__module__.startswith("torch.")
    kept = [
        name
        for name in names
        if name != "training"
        and (
            isinstance(space[name], (float, torch.Tensor))
            or (name not in constants and not (private and name[0] == "_"))
        )
    ]
    if kept or written or _reads_training(type(module)):
        kept.append("training")
    return kept
