"""Which keys a recipe must have, and which of its keys nothing reads.

SpeechBrain searches its scripts for the names of keys with a regular expression. Here
the code that reads a recipe says so: a task module declares two plain literals,

    REQUIRED_KEYS = ("modules", "learning_rate")
    OPTIONAL_KEYS = ("test_interval",)

and the recipe names the module, ``task: speechbrain_ext.tasks.codec``. The literals are
read from the module's source, so that checking imports neither it nor torch.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .faults import Fault, Faults, Where, did_you_mean, nearest
from .references import REFERENCE
from .run_options import RUN_OPTIONS
from .tree import Node, TreePath, dotted, walk


@dataclass(frozen=True)
class TaskKeys:
    """Top-level keys that the code behind a recipe reads.

    Attributes
    ----------
    required : tuple of str
        Must be there.
    optional : tuple of str
        May be there.
    reader : str
        Who reads them, for messages.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    reader: str = "the task"


def declared_keys(root: Node, faults: Faults) -> TaskKeys | None:
    """Keys declared by the module that the recipe's ``task`` names; None without one.

    A module without the two literals declares nothing: None, and no fault.
    """
    node = root.value.get("task")
    if node is None or node.kind != "scalar" or not isinstance(node.value, str):
        return None
    if node.tag:
        return None
    path = module_file(node.value)
    if path is None:
        faults.add(node.where, f"task: no module '{node.value}'")
        return None
    literals = _literals(path)
    if not literals:
        return None
    return TaskKeys(
        literals.get("REQUIRED_KEYS", ()), literals.get("OPTIONAL_KEYS", ()), node.value
    )


def module_file(name: str) -> Path | None:
    """Source file of a module, found without importing it or its parents.

    Example
    -------
    >>> module_file("speechbrain_ext.config.keys").name
    'keys.py'
    """
    first, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
        for depth, _ in enumerate(rest, start=2):
            if spec is None or spec.submodule_search_locations is None:
                return None
            spec = importlib.machinery.PathFinder.find_spec(
                ".".join(name.split(".")[:depth]), spec.submodule_search_locations
            )
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _literals(path: Path) -> dict[str, tuple[str, ...]]:
    found = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.AnnAssign):
            targets, value = [statement.target], statement.value
        elif isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        else:
            continue
        for target in targets:
            if getattr(target, "id", "") in ("REQUIRED_KEYS", "OPTIONAL_KEYS"):
                if isinstance(value, ast.Call) and value.args:  # frozenset({...})
                    value = value.args[0]
                found[target.id] = tuple(ast.literal_eval(value))
    return found


def check_keys(root: Node, keys: TaskKeys | None, faults: Faults, recipe: str) -> None:
    """Report missing keys, and keys that neither a reference nor the task reads.

    A top-level key counts as used if the task declares it, a reference names it or
    something in it, it is a run option (the Brain reads those), starts with ``__`` or
    is an ``!apply:`` (run for its effect). In a section that is used through references
    only, each key is looked at in the same way.

    Arguments
    ---------
    root : Node
        The whole tree, includes expanded.
    keys : TaskKeys or None
        None: nobody has said what is read, so nothing is reported.
    faults : Faults
        Grows.
    recipe : str
        Name of the recipe's file.
    """
    if keys is None:
        return
    read = {*keys.required, *keys.optional, *RUN_OPTIONS, "task"}
    missing = [key for key in keys.required if key not in root.value]
    absent = missing + [key for key in keys.optional if key not in root.value]
    referenced = set()
    for path in _referenced(root):
        if path[0] not in root.value:
            absent.append(path[0])
        referenced.add((*path, ...))  # the whole of it
        referenced |= {path[:depth] for depth in range(len(path) + 1)}
    unused = [
        (path, node)
        for key, node in root.value.items()
        if key not in read and not str(key).startswith("__")
        for path, node in _unused((key,), node, referenced)
    ]
    for path, node in unused:
        near = nearest(str(path[0]), absent) if len(path) == 1 else None
        if near is not None:
            message = f"unknown key; did you mean '{near}'?"
            _excuse_references(faults, near, str(path[0]), node.where)
            missing = [key for key in missing if key != near]
        else:
            message = (
                f"unused: no reference names it and {keys.reader} does not read it"
            )
        faults.add(node.where, f"{dotted(path)}: {message}")
    for key in missing:
        hint = (
            did_you_mean(key, root.value) if nearest(key, map(str, root.value)) else ""
        )
        faults.add(Where(recipe), f"missing key '{key}': {keys.reader} needs it{hint}")


def _excuse_references(faults: Faults, name: str, typo: str, where: Where) -> None:
    """Let references to the right name not propose the misspelt key."""
    proposal = f"no key '{name}'; did you mean '{typo}'?"
    for number, fault in enumerate(faults):
        place = f"line {where.line}" if fault.where.file == where.file else where
        found = f"no key '{name}'; {place} has '{typo}'"
        faults[number] = Fault(fault.where, fault.message.replace(proposal, found))


def _referenced(root: Node) -> Iterable[TreePath]:
    for _, node in walk(root):
        if node.tag in ("!ref", "!copy") and isinstance(node.value, str):
            for name in REFERENCE.findall(node.value):
                key = name.partition(".")[0]
                yield (*node.scope, *(part.strip("]") for part in key.split("[")))


def _unused(path: TreePath, node: Node, referenced: set[TreePath]):
    """Yield what nothing reads; a path's beginnings are in ``referenced`` too."""
    if node.tag.startswith("!apply:") or (*path, ...) in referenced:
        return
    below = path in referenced
    if below and node.tag == "" and node.kind == "map":
        for key, child in node.value.items():
            yield from _unused((*path, key), child, referenced)
    elif not below and not (len(path) > 1 and node.tag == "!ref"):
        # A reference inside a section hands something down, as a parent to a fragment;
        # in the resolved text those who used it point past it.
        yield path, node
