"""Names and arguments of ``!new:`` and ``!name:`` held against the real signatures.

Modules are imported, nothing is constructed or called. ``**kwargs`` is followed where
it is handed to ``super().__init__``, since that is where an unknown name would fail;
where it goes anywhere else, unknown names have to be believed.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import textwrap
from dataclasses import dataclass, field
from typing import Any

from .faults import Faults, did_you_mean
from .source import Node, walk


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
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name and not (error.name or "").startswith(name):
                if error.name is None or not name.startswith(f"{error.name}."):
                    raise ImportError(
                        f"importing {name} failed: no module '{error.name}'"
                    ) from error
            break
        except Exception as error:
            raise ImportError(f"importing {name} failed: {error}") from error
        depth += 1
    if module is None:
        builtin = importlib.import_module("builtins")
        if not hasattr(builtin, parts[0]):
            raise ImportError(f"no module '{parts[0]}'")
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
    return [name for name in dir(thing) if not name.startswith("_")]


@dataclass
class _Accepts:
    """Names a callable takes by keyword beyond its own signature."""

    names: set[str] = field(default_factory=set)
    anything: bool = False


def check_signatures(root: Node, faults: Faults, check=None) -> None:
    """Report every target that does not exist or would refuse its arguments.

    Arguments
    ---------
    root : Node
        The whole tree, includes expanded.
    faults : Faults
        Grows by all of them.
    check : Callable, optional
        Called with each node and the object that its name resolves to; raises
        ValueError to forbid it.
    """
    for _, node in walk(root):
        if node.target is None or node.tag.startswith("!include:"):
            continue
        try:
            thing = locate(node.target)
            if check is not None:
                check(node, thing)
            _check_kind(node, thing)
            for message in _argument_faults(node, thing):
                faults.add(node.where, f"{node.tag}: {message}")
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


def _argument_faults(node: Node, thing: Any) -> list[str]:
    """Say what is wrong with the arguments, without calling."""
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
    beyond: _Accepts,
    positional: int,
    keywords: list,
    *,
    partial: bool,
) -> list[str]:
    """Compare given arguments with a signature; all faults, not the first.

    Arguments
    ---------
    signature : inspect.Signature
        Of the class or function.
    beyond : _Accepts
        What ``**kwargs`` takes, if there is one.
    positional : int
        Number of arguments given by position.
    keywords : list
        Names given.
    partial : bool
        Whether the rest may come later (``!name:``).
    """
    parameters = list(signature.parameters.values())
    by_position = [p for p in parameters if p.kind in (0, 1)]
    star = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    by_name = {p.name for p in parameters if p.kind.name.endswith("KEYWORD")}
    by_name |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    by_name -= {p.name for p in parameters if p.kind is p.VAR_KEYWORD}
    open_names = any(p.kind is p.VAR_KEYWORD for p in parameters)
    faults = []
    if positional > len(by_position) and not star:
        takes = ", ".join(p.name for p in by_position) or "none"
        faults.append(
            f"{positional} arguments by position, takes {len(by_position)} ({takes})"
        )
    known = by_name | beyond.names
    for name in keywords:
        if not isinstance(name, str):
            faults.append(f"argument {name!r} must be a name")
        elif name not in by_name and not (open_names and name in beyond.names):
            if not open_names or not beyond.anything:
                faults.append(
                    f"no argument '{name}'{did_you_mean(name, sorted(known))}"
                )
    if not partial:
        given = {p.name for p in by_position[:positional]} | set(keywords)
        faults += [
            f"missing argument '{p.name}'"
            for p in parameters
            if p.default is p.empty and p.kind in (0, 1, 3) and p.name not in given
        ]
    return faults


def _beyond(thing: Any) -> _Accepts:
    """Follow ``**kwargs`` of a class up its chain of ``super().__init__`` calls."""
    if not inspect.isclass(thing):
        return _Accepts(anything=True)
    accepts = _Accepts()
    chain = [base for base in thing.__mro__ if "__init__" in vars(base)]
    if "__init__" not in _first_source(thing):
        return _Accepts(anything=True)
    for base in chain:
        init = vars(base)["__init__"]
        try:
            parameters = inspect.signature(init).parameters.values()
        except (ValueError, TypeError):
            return _Accepts(accepts.names, base is not object)
        own = {p.name for p in list(parameters)[1:] if p.kind in (1, 3)}
        accepts.names |= own
        keywords = next((p.name for p in parameters if p.kind == 4), None)
        if keywords is None or base is object:
            return accepts
        handed = _kwargs_use(init, keywords)
        if handed is None:
            return _Accepts(accepts.names, True)
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
