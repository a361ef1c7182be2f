"""Whether a recipe may name something: by its text, and by what the text leads to."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
import types
from collections.abc import Iterable
from typing import Any

from speechbrain_ext.errors import UserError

from ..faults import did_you_mean, nearest
from .lists import (
    BUILT_IN,
    CONSTANT,
    Refusal,
    read_names,
    read_refusals,
    refusal_of,
)

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\.\*)?", re.A)
_PRIVATE = Refusal("reaches inside Python's objects")
_STANDARD = Refusal("is part of Python itself, which is not made for recipes")
_CALLABLE = (
    types.ModuleType,
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    functools.partial,
)
_DATA = (bool, int, float, complex, str, bytes, type(None))

#: --allow works for what is refused, too, but a message that a stranger's recipe
#: brings about is no place to teach it.
_NO_HINT = "do not run this recipe unless you wrote it: docs/configuration.md"


class AllowList:
    """The shipped list, and what a person allows beyond it.

    Arguments
    ---------
    extra : Iterable[str]
        Names a person allows, exactly (``my_models.Net``) or with all below a module
        (``my_models.*``); several may stand in one text with commas between.

    Raises
    ------
    UserError
        If one of them is no name.

    Example
    -------
    >>> AllowList().text_fault("!new", "torch.nn.Linear") is None
    True
    >>> AllowList().text_fault("!apply", "os.system")
    'refused, it runs commands, and reads, writes and removes files; do not run this \
recipe unless you wrote it: docs/configuration.md'
    >>> AllowList(["my_models.*"]).text_fault("!new", "my_models.Net") is None
    True
    """

    def __init__(self, extra: Iterable[str] = ()):
        extra = [extra] if isinstance(extra, str) else extra
        given = [part.strip() for text in extra for part in str(text).split(",")]
        for name in given:
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"--allow {name}: must be a dotted name, as in --allow "
                    "my_models.Net, or a module with all below it: --allow my_models.*"
                )
        #: as given, without repeats
        self.extra = tuple(dict.fromkeys(given))
        self.exact = {name for name in given if not name.endswith(".*")}
        self.below = {name[:-2] for name in given if name.endswith(".*")}

    def text_fault(
        self, tag: str, name: str, *, top: bool = False, hint: bool = True
    ) -> str | None:
        """Say why a recipe may not name something; None if it may.

        Arguments
        ---------
        tag : str
            "!new", "!name", "!module", "!apply", "!applyref", or "task".
        name : str
            The dotted name.
        top : bool
            Whether it stands at the top and nothing refers to it.
        hint : bool
            Whether to look for the name that was meant, which takes time.

        Returns
        -------
        str or None
            The rule, and what a person could type.
        """
        if name in self.exact or name in listed(tag):
            return None
        if refusal := self.refusal(name):
            if refusal.top and top and tag == "!name":
                return None
            place = ""
            if refusal.top:
                place = " (a recipe may hold it as a !name: at the top, unreferenced)"
            return f"refused, it {refusal.reason}{place}; {_NO_HINT}"
        if self._is_below(name):
            return None
        return self._not_listed(tag, name, hint)

    def _not_listed(self, tag: str, name: str, hint: bool) -> str:
        allow = f"if you trust it: --allow {name}"
        if name in listed("!name"):
            use = "!new: or !name:" if name in listed("!new") else "!name:"
            return f"may stand after {use} only; {allow}"
        package = name.partition(".")[0]
        if hint and tag in ("!new", "!name") and package in _packages():
            if near := nearest(name, _neighbours(name)):
                return f"not on the allow-list; did you mean '{near}'? {allow}"
        if hint and not _is_installed(package):
            meant = did_you_mean(package, _packages()).partition("; known")[0]
            return f"not on the allow-list, and no module '{package}'{meant}; {allow}"
        return f"not on the allow-list; {allow}"

    def object_fault(self, tag: str, name: str, thing: Any) -> str | None:
        """Say why what a name led to may not be used; None if it may.

        Arguments
        ---------
        tag, name : str
            As for `text_fault`, which allows them.
        thing : Any
            What importing the name gave.
        """
        home = home_of(thing)
        shipped = name not in self.exact and name in listed(tag)
        if shipped:
            wanted = listed(tag)[name]
            if wanted == CONSTANT and not isinstance(thing, _CALLABLE):
                return None
            package = (home or "").partition(".")[0]
            if wanted == BUILT_IN and package in ("torch", name.partition(".")[0]):
                if not _has_code(thing):
                    return None
            if home in (wanted, name) or home in _homes(tag):
                return None
            return f"leads to {home}, not to {wanted}, which the list means"
        if home is None or home == name or home in self.exact:
            return None
        if home in listed(tag) or home in _homes(tag):
            return None
        if refusal := self.refusal(home):
            if self.refusal(name):
                return None  # a person named it exactly, and was told what it is
            return f"leads to {home}: refused, it {refusal.reason}; {_NO_HINT}"
        if name in self.exact or self._is_below(home):
            return None
        return f"leads to {home}; if you trust it: --allow {home}"

    def value_fault(self, thing: Any) -> str | None:
        """Say why a value read from a built object may not be used; None if it may.

        Plain data, tensors and parts of models may; a module, a class, a function or a
        method only if its own name may be used.
        """
        if not isinstance(thing, _CALLABLE):
            return None
        home = home_of(thing) or ""
        if home in self.exact or home in listed("!name") or home in _homes("!name"):
            return None
        if self._is_below(home) and not self.refusal(home):
            return None
        return f"is {home}; if you trust it: --allow {home}"

    def refusal(self, name: str) -> Refusal | None:
        """Return why a name is refused outright, or None."""
        if found := refusal_of(name, read_refusals()):
            return found
        parts = name.split(".")
        if any(part.startswith("__") for part in parts):
            return _PRIVATE
        if "." not in name:
            builtin = refusal_of(f"builtins.{name}", read_refusals())
            in_builtins = hasattr(sys.modules["builtins"], name)
            return builtin if in_builtins else _standard(name)
        return _standard(parts[0])

    def _is_below(self, name: str) -> bool:
        return any(f"{name}.".startswith(f"{prefix}.") for prefix in self.below)


def _standard(package: str) -> Refusal | None:
    return _STANDARD if package in sys.stdlib_module_names else None


def listed(tag: str):
    """Return the shipped names that a tag may name, with their homes."""
    if tag == "!new":
        return read_names("namespaces.txt", "exact.txt")
    if tag == "!name":
        return read_names("namespaces.txt", "exact.txt", "calls.txt")
    if tag in ("!apply", "!applyref"):
        return read_names("calls.txt")
    return read_names("tasks.txt") if tag == "task" else {}


@functools.cache
def _homes(tag: str) -> frozenset[str]:
    return frozenset(listed(tag).values())


@functools.cache
def _is_installed(package: str) -> bool:
    """Whether there is a top-level module of this name; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _packages() -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in listed("!name"))


def _neighbours(name: str) -> list[str]:
    """Return listed names of the same module, or else with the same last part.

    Comparing with all of the list would take longer than everything else.
    """
    owner, _, last = name.rpartition(".")
    names = listed("!name")
    same = [other for other in names if other.rpartition(".")[0] == owner]
    if same:
        return same
    alike = [other for other in names if other.rpartition(".")[2] == last]
    return alike or [
        other for other in names if other.rpartition(".")[2].lower() == last.lower()
    ]


def home_of(thing: Any) -> str | None:
    """Where a thing is defined, ``module.Qualified.name``; None for plain data.

    Example
    -------
    >>> import collections, functools
    >>> home_of(collections.Counter), home_of(functools.partial(len)), home_of(3)
    ('collections.Counter', 'builtins.len', None)
    """
    while isinstance(thing, functools.partial):
        thing = thing.func
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    if isinstance(thing, _DATA):
        return None
    if isinstance(thing, (list, tuple, set, frozenset, dict)):
        items = thing.values() if isinstance(thing, dict) else thing
        homes = [home for item in items if (home := home_of(item))]
        return homes[0] if homes else None
    name = getattr(thing, "__qualname__", None)
    if not isinstance(name, str):
        return home_of(type(thing))
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str):
        owner = getattr(thing, "__self__", None)
        if isinstance(owner, types.ModuleType):
            module = owner.__name__
        else:
            owner = getattr(thing, "__objclass__", type(owner))
            module = getattr(owner, "__module__", "builtins")
    return f"{module}.{name}"


def _has_code(thing: Any) -> bool:
    """Whether something is written in Python, or is a module."""
    return isinstance(thing, (types.ModuleType, type)) or hasattr(thing, "__code__")
