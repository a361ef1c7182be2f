"""Where the objects of a recipe write: only into the experiment folder.

Which arguments are places is data, ``allowlist/arguments.tsv``. The experiment folder
is the recipe's ``output_folder``; a recipe may name one below the current folder, a
person may give any on the command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .allowlist.judge import home_of, listed
from .allowlist.lists import read_places
from .allowlist.memory import RECIPE_FILE
from .faults import COMMAND_LINE, Faults, Where, shown
from .references import Resolver
from .tree import Node, dotted, walk
from .values import value_node

URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/")
#: keys that a task's script writes to by itself
WRITTEN_KEYS = ("save_folder",)
#: files that are run; a folder that has them is no place for a recipe to write into
CODE_ENDINGS = (".py", ".sh", ".pth", ".so", "Makefile")
MAX_LOOKED_AT = 5_000
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class Use(NamedTuple):
    """One argument that is a place, and what it says.

    Attributes
    ----------
    node : Node
        The object it is given to.
    argument : str
        Its name.
    role : str
        "write", "store", "read", "fetch" or "word".
    given : Node
        The argument's node.
    values : tuple
        What it stands for: texts, or None; empty if that is known when built only.
    """

    node: Node
    argument: str
    role: str
    given: Node
    values: tuple[Any, ...]


class Places:
    """The places in one recipe, held against its experiment folder.

    Arguments
    ---------
    root : Node
        The whole tree, includes expanded and overrides applied.
    recipe : Path
        Its file.
    """

    def __init__(self, root: Node, recipe: Path):
        self.root = root
        self.recipe = recipe
        # Open inputs stand for what a person will give: {output_folder}/save.
        self.tree = _with_names(root)
        self.resolver = Resolver(self.tree, Faults())
        self.given = [
            node.value
            for _, node in walk(self.tree)
            if node.where.file == COMMAND_LINE and isinstance(node.value, str)
        ]
        self.experiment = self._value(self.tree.value.get("output_folder"))

    def _value(self, node: Node | None) -> Any:
        found = self.resolver.resolve(node) if node is not None else None
        return found.value if found is not None and found.kind == "scalar" else None

    def value_of(self, key: str) -> Any:
        """Return what a key at the top says; None if that is no scalar, or not known.

        An input that is open says its own name in braces.
        """
        return self._value(self.tree.value.get(key))

    def uses(self) -> Iterator[Use]:
        """Yield every argument that is a place."""
        for _, node in walk(self.tree):
            if node.target is None or node.tag.startswith("!include:"):
                continue
            for place in _places_of(node.target):
                given = None
                if node.kind == "map":
                    given = node.value.get(place.argument)
                elif node.kind == "list" and place.position is not None:
                    if place.position < len(node.value):
                        given = node.value[place.position]
                if given is not None:
                    values = tuple(self._texts(given, ()))
                    yield Use(node, place.argument, place.role, given, values)

    def _texts(self, node: Node, seen: tuple) -> Iterator[Any]:
        """Yield the scalars that a node stands for; of mappings and lists all."""
        found = self.resolver.resolve(node)
        if found.kind == "scalar":
            yield found.value
        elif found.kind == "node" and not found.attribute and node not in seen:
            if found.node.target is not None:
                yield found.node
            for _, child in found.node.children():
                yield from self._texts(child, (*seen, node))

    def check(self, faults: Faults) -> None:
        """Report places outside the experiment folder, and a folder that is odd."""
        self._check_experiment(faults)
        for use in self.uses():
            name = f"{use.node.tag}: {use.argument}"
            if use.role in ("write", "store") and not use.values:
                found = self.resolver.resolve(use.given)
                if found.kind != "dynamic":
                    continue  # reported where it is broken
                if found.attribute is not None or self.experiment is None:
                    faults.add(use.given.where, f"{name}: must be a path, as a text")
            for value in use.values:
                direct = self.is_given(use)
                if fault := self.fault(use.role, value, direct=direct):
                    faults.add(use.given.where, f"{name}: {fault}")
        for key in WRITTEN_KEYS if "task" in self.root.value else ():
            node = self.tree.value.get(key)
            value = self._value(node)
            if value is not None and node.where.file != COMMAND_LINE:
                if fault := self.fault("write", value):
                    faults.add(node.where, f"{key}: {fault}")

    def _check_experiment(self, faults: Faults) -> None:
        node, folder = self.tree.value.get("output_folder"), self.experiment
        if not isinstance(folder, str):
            return
        if any(folder == text or folder.startswith(f"{text}/") for text in self.given):
            return
        parts = Path(folder).parts
        plain = not any(part.startswith((".", "~")) for part in parts)
        below = not URL.match(folder) and not Path(folder).is_absolute() and plain
        own = os.path.realpath(folder) == os.path.realpath(self.recipe.parent)
        if parts and below and not own and (code := _code_in(folder)):
            faults.add(
                node.where,
                f"output_folder: {_short(folder)} holds code ({_short(code)}) and is "
                "no experiment; give a folder yourself: --output_folder=...",
            )
        elif not (parts and below or own):
            faults.add(
                node.where,
                f"output_folder: {_short(folder)}: a recipe may name a folder below "
                "the current one; give any other yourself: --output_folder=...",
            )

    def fault(self, role: str, value: Any, *, direct: bool = False) -> str | None:
        """Say what is wrong with one place; None if nothing is.

        Arguments
        ---------
        role : str
            "write" and "store" are held to the experiment folder, and a "word" to be
            one.
        value : Any
            What the argument says.
        direct : bool
            Whether a person gave this very argument.
        """
        if role == "word":
            return _word_fault(value)
        if role not in ("write", "store") or value is None:
            return None
        if not isinstance(value, (str, os.PathLike)):
            return "must be a path, as a text"
        path = os.fspath(value)
        if not isinstance(path, str) or _UNPRINTABLE.search(path):
            return "must be a path, as a text in one line"
        if URL.match(path):
            return f"{_short(path)} is a URL; it writes into the experiment folder only"
        if direct:
            return None
        folders = [self.experiment] if isinstance(self.experiment, str) else []
        if role == "store":
            folders += self.given
        save_folder = self.tree.value.get("save_folder")
        if save_folder is not None and save_folder.where.file == COMMAND_LINE:
            folders.append(save_folder.value)
        if any(_is_below(path, folder) for folder in folders if folder):
            return None
        if not folders:
            return "writes, and the recipe has no output_folder to write into"
        where = f"the experiment folder (output_folder: {_short(self.experiment)})"
        if role == "store":
            where += ", or a folder that you give on the command line"
        return f"{_short(path)} is outside {where}"

    def check_call(self, thing: Any, args: list, kwargs: dict) -> str | None:
        """Hold the places of a call to the rules, with the values it really gets."""
        for place in read_places().get(home_of(thing) or "", ()):
            value = kwargs.get(place.argument)
            if place.position is not None and place.position < len(args):
                value = args[place.position]
            if place.role in ("write", "store", "word") and value is not None:
                direct = any(
                    self.is_given(use) and value in use.values for use in self.uses()
                )
                if fault := self.fault(place.role, value, direct=direct):
                    return f"{place.argument}: {fault}"
        return None

    def is_given(self, use: Use) -> bool:
        """Whether a person gave this very argument; only then may it be anywhere."""
        return use.given.where.file == COMMAND_LINE


def _code_in(folder: str) -> str | None:
    """Name a file that somebody runs, in a folder that is there and no experiment."""
    if os.path.isfile(os.path.join(folder, RECIPE_FILE)):
        return None
    seen = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            seen += 1
            if name.endswith(CODE_ENDINGS):
                return os.path.join(parent, name)
            if seen > MAX_LOOKED_AT:
                return f"or may: it has more than {MAX_LOOKED_AT} files"
    return None


def writes(target: str) -> bool:
    """Whether what a name leads to makes files where its arguments say."""
    return any(place.role in ("write", "store") for place in _places_of(target))


def _places_of(target: str):
    places = read_places()
    home = listed("!name").get(target, target)
    return places.get(home) or places.get(target, ())


def _word_fault(value: Any) -> str | None:
    if value is None or isinstance(value, (bool, int, float)):
        return None
    if isinstance(value, str) and not re.search(r"\s", value):
        return None
    return (
        f"{_short(value)}: must be one word or number: it becomes part of a line of "
        "options, and what stands behind a blank would be another option"
    )


def _is_below(path: str, folder: str) -> bool:
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def _with_names(root: Node) -> Node:
    """Return the tree with a text in each open placeholder: its own name in braces."""

    def named(node: Node, path: tuple) -> Node:
        if node.tag == "!PLACEHOLDER":
            return value_node(f"{{{dotted(path)}}}", Where(COMMAND_LINE))
        if node.kind == "map":
            value = {key: named(child, (*path, key)) for key, child in node.children()}
        elif node.kind == "list":
            value = [named(child, (*path, key)) for key, child in node.children()]
        else:
            value = node.value
        return Node(node.kind, node.tag, value, node.where, node.text, node.scope)

    return named(root, ())


def _short(text: Any) -> str:
    if isinstance(text, str) and text and not URL.match(text):
        text = shown(text)
    text = str(text)
    return text if len(text) <= 80 else text[:77] + "..."
