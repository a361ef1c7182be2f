"""Names and arguments of ``!new:`` and ``!name:`` held against the real signatures.

Modules are imported, nothing is constructed or called. ``**kwargs`` is followed where
it is handed to ``super().__init__``, since that is where an unknown name would fail;
where it goes anywhere else, unknown names have to be believed.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import logging
import pkgutil
import textwrap
from dataclasses import dataclass, field
from typing import Any

from .faults import Faults, did_you_mean, nearest
from .tree import Node, walk
from .trust import Guard

#: where the names of a recipe nearly always come from
_USUAL = ("speechbrain", "speechbrain_ext", "torch", "torchaudio")


@contextlib.contextmanager
def _quiet_imports():
    """Keep warnings that modules log when imported ("torchvision is missing") away.

    They are about features that the recipe may not use at all, and would stand in
    front of every answer.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def locate(target: str) -> Any:
    """Import what a dotted name means, as HyperPyYAML does, but saying what is missing.

    Arguments
    ---------
    target : str
        ``package.module.Name.attribute`` or the name of a builtin.

    Raises
    ------
    ImportError
        Naming the nearest name in the innermost module that exists.

    Example
    -------
    >>> locate("collections.Countr")
    Traceback (most recent call last):
    ImportError: module 'collections' has no 'Countr'; did you mean 'Counter'?
    """
    parts = target.split(".")
    module, depth = None, 0
    while depth < len(parts):
        name = ".".join(parts[: depth + 1])
        try:
            with _quiet_imports():
                module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if f"{name}.".startswith(f"{error.name}."):
                break  # the name itself: what is left of it are attributes
            raise ImportError(
                f"importing {name} failed: no module '{error.name}'"
            ) from error
        except Exception as error:
            raise ImportError(f"importing {name} failed: {error}") from error
        depth += 1
    if module is None:
        builtin = importlib.import_module("builtins")
        if not hasattr(builtin, parts[0]):
            near = nearest(parts[0], _USUAL)
            hint = f"; did you mean '{near}'?" if near else ""
            raise ImportError(f"no module '{parts[0]}'{hint}")
        module = builtin
    thing = module
    for index in range(depth, len(parts)):
        try:
            thing = getattr(thing, parts[index])
        except AttributeError:
            owner = "module " * inspect.ismodule(thing) + f"'{'.'.join(parts[:index])}'"
            hint = did_you_mean(parts[index], _public(thing))
            raise ImportError(f"{owner} has no '{parts[index]}'{hint}") from None
    return thing


def _public(thing: Any) -> list[str]:
    names = [name for name in dir(thing) if not name.startswith("_")]
    return names + [info.name for info in pkgutil.iter_modules(_folders(thing))]


def _folders(thing: Any) -> list[str]:
    return list(getattr(thing, "__path__", ())) if inspect.ismodule(thing) else []


_ONLY_POSITION = inspect.Parameter.POSITIONAL_ONLY
_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
_ANY_POSITION = inspect.Parameter.VAR_POSITIONAL
_ONLY_NAME = inspect.Parameter.KEYWORD_ONLY
_ANY_NAME = inspect.Parameter.VAR_KEYWORD
_KINDS = (_ONLY_POSITION, _EITHER, _ANY_POSITION, _ONLY_NAME, _ANY_NAME)


@dataclass
class Beyond:
    """Names that a callable takes through ``**kwargs``, or that it takes any."""

    names: set[str] = field(default_factory=set)
    anything: bool = False


def check_signatures(root: Node, faults: Faults, guard: Guard | None = None) -> None:
    """Report every target that does not exist or would refuse its arguments.

    Arguments
    ---------
    root : Node
        The whole tree, includes expanded.
    faults : Faults
        Grows by all of them.
    guard : Guard, optional
        What it refuses by its text is not imported; what it refuses as an object is
        reported.
    """
    for _, node in walk(root):
        if node.target is None or node.tag.startswith("!include:"):
            continue
        if guard is not None and guard.text_fault(node):
            continue  # reported by `Guard.check_text`
        try:
            thing = locate(node.target)
            if guard is not None:
                guard.check_object(node, thing)
            _check_kind(node, thing)
            for name, message in _argument_faults(node, thing):
                known = node.kind == "map" and name in node.value
                where = node.value[name].where if known else node.where
                faults.add(where, f"{node.tag}: {message}")
        except (ImportError, ValueError) as reason:
            faults.add(node.where, f"{node.tag}: {reason}")


def _check_kind(node: Node, thing: Any) -> None:
    """Hold the tag against what was found: the rules are HyperPyYAML's."""
    prefix = node.tag.partition(":")[0]
    given = bool(node.value) and node.kind != "scalar"
    if prefix == "!new" and not inspect.isclass(thing):
        hint = "; use !apply: to call it" if callable(thing) else ""
        raise ValueError(f"is a {type(thing).__name__}, not a class{hint}")
    if prefix in ("!apply", "!applyref") and not inspect.isroutine(thing):
        hint = "; use !new: to build it" if inspect.isclass(thing) else ""
        raise ValueError(f"is a {type(thing).__name__}, not a function{hint}")
    if prefix == "!module" and (given or not inspect.ismodule(thing)):
        raise ValueError("must be a module, without arguments")
    if prefix == "!name" and given:
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            raise ValueError("is neither class nor function: it takes no arguments")


def _argument_faults(node: Node, thing: Any) -> list[tuple[Any, str]]:
    """Say which arguments are wrong and why, without calling."""
    prefix = node.tag.partition(":")[0]
    if prefix == "!module" or (prefix == "!name" and node.kind == "scalar"):
        return []
    positional = len(node.value) if node.kind == "list" else 0
    keywords = list(node.value) if node.kind == "map" else []
    if prefix == "!applyref" and set(keywords) == {"_args", "_kwargs"}:
        return []
    try:
        signature = inspect.signature(thing)
    except (ValueError, TypeError):
        return []  # builtins without a signature: nothing is known about them
    return bind_faults(
        signature, _beyond(thing), positional, keywords, partial=prefix == "!name"
    )


def bind_faults(
    signature: inspect.Signature,
    beyond: Beyond,
    positional: int,
    keywords: list,
    *,
    partial: bool,
) -> list[tuple[Any, str]]:
    """Compare given arguments with a signature; all faults, not the first.

    Arguments
    ---------
    signature : inspect.Signature
        Of the class or function.
    beyond : Beyond
        What ``**kwargs`` takes, if there is one.
    positional : int
        Number of arguments given by position.
    keywords : list
        Names given.
    partial : bool
        Whether the rest may come later (``!name:``).

    Returns
    -------
    list of tuple
        Name of the argument (None if it has none) and what is wrong with it.

    Example
    -------
    >>> bind_faults(inspect.signature(round), Beyond(), 0, ["digits"], partial=True)
    [('digits', "no argument 'digits'; did you mean 'ndigits'?")]
    """
    parameters = list(signature.parameters.values())
    kinds = {kind: [p.name for p in parameters if p.kind is kind] for kind in _KINDS}
    by_position = kinds[_ONLY_POSITION] + kinds[_EITHER]
    by_name = {*kinds[_EITHER], *kinds[_ONLY_NAME]}
    open_names = bool(kinds[_ANY_NAME])
    known = by_name | (beyond.names if open_names else set())
    faults: list[tuple[Any, str]] = []
    if positional > len(by_position) and not kinds[_ANY_POSITION]:
        takes = ", ".join(by_position) or "none"
        count = f"{positional} arguments by position, takes {len(by_position)}"
        faults.append((None, f"{count} ({takes})"))
    meant = set()
    for name in keywords:
        if not isinstance(name, str):
            faults.append((name, f"argument {name!r} must be a name"))
        elif name not in known and not (open_names and beyond.anything):
            meant.add(nearest(name, sorted(known)))
            hint = did_you_mean(name, sorted(known))
            faults.append((name, f"no argument '{name}'{hint}"))
        elif name in by_position[:positional]:
            faults.append((name, f"argument '{name}' given twice"))
    if not partial:
        given = {*by_position[:positional], *keywords, *meant}
        faults += [
            (None, f"missing argument '{p.name}'")
            for p in parameters
            if p.default is p.empty
            and p.kind in (_ONLY_POSITION, _EITHER, _ONLY_NAME)
            and p.name not in given
        ]
    return faults


def _beyond(thing: Any) -> Beyond:
    """Follow ``**kwargs`` of a class up its chain of ``super().__init__`` calls."""
    if not inspect.isclass(thing):
        return Beyond(anything=True)
    accepts = Beyond()
    chain = [base for base in thing.__mro__ if "__init__" in vars(base)]
    if "__init__" not in _first_source(thing):
        return Beyond(anything=True)
    for base in chain:
        init = vars(base)["__init__"]
        try:
            parameters = inspect.signature(init).parameters.values()
        except (ValueError, TypeError):
            return Beyond(accepts.names, base is not object)
        own = {p.name for p in list(parameters)[1:] if p.kind in (_EITHER, _ONLY_NAME)}
        accepts.names |= own
        keywords = next((p.name for p in parameters if p.kind is _ANY_NAME), None)
        if keywords is None or base is object:
            return accepts
        handed = _kwargs_use(init, keywords)
        if handed is None:
            return Beyond(accepts.names, True)
        accepts.names |= handed
    return accepts


def _first_source(thing: type) -> str:
    """Which of __new__, __init__ or a metaclass decides about the arguments."""
    if type(thing).__call__ is not type.__call__ or hasattr(thing, "__signature__"):
        return "metaclass"
    return "__new__" if thing.__new__ is not object.__new__ else "__init__"


@functools.cache
def _kwargs_use(init: Any, name: str) -> frozenset[str] | None:
    """Names that an ``__init__`` takes out of its ``**kwargs`` by itself.

    Returns
    -------
    frozenset or None
        None unless the rest goes to ``super().__init__(..., **kwargs)`` only.
    """
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(init)))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return None
    understood, taken, forwarded = 0, set(), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_super_init(node.func):
            if any(_is_name(k.value, name) and k.arg is None for k in node.keywords):
                forwarded, understood = True, understood + 1
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            used = node.func.attr in ("get", "pop", "setdefault") and node.args
            if used and _is_name(node.func.value, name):
                understood += _take(node.args[0], taken)
        elif isinstance(node, ast.Subscript) and _is_name(node.value, name):
            understood += _take(node.slice, taken)
        elif isinstance(node, ast.Compare) and _is_name(node.comparators[0], name):
            understood += _take(node.left, taken)
    uses = sum(_is_name(node, name) for node in ast.walk(tree))
    return frozenset(taken) if forwarded and uses == understood else None


def _take(node: ast.expr, taken: set[str]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        taken.add(node.value)
        return 1
    return 0


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_super_init(func: ast.expr) -> bool:
    return (
        isinstance(func, ast.Attribute)
        and func.attr == "__init__"
        and isinstance(func.value, ast.Call)
        and _is_name(func.value.func, "super")
    )
