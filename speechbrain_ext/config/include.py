"""Fragments: ``!include:`` expanded in place, confined to the recipe's root.

A fragment declares its inputs as ``!PLACEHOLDER`` and sees its own keys only. The
parent passes scalars and lists of scalars. An object passed into an include would
become a second instance in HyperPyYAML, silently: it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .faults import Faults, Where, did_you_mean, shown
from .references import Resolver
from .source import MAX_NODES, read_source
from .tree import PLACEHOLDER_TYPES, Node, TreePath, addressable, broken, dotted, walk
from .values import typed_value

MAX_FILES = 100
#: the tree this package belongs to, if it is a checkout with recipes/ and hparams/
PROJECT = Path(__file__).resolve().parents[2]


def project_root(folder: Path) -> Path | None:
    """Nearest folder at or above ``folder`` that holds ``recipes`` and ``hparams``."""
    for candidate in (folder, *folder.parents):
        if (candidate / "recipes").is_dir() and (candidate / "hparams").is_dir():
            return candidate
    return None


def recipe_root(recipe: Path) -> Path:
    """Return the folder that includes must stay in.

    It is the project tree around the recipe (the folder that holds ``recipes/`` and
    ``hparams/``), else the recipe's own folder.
    """
    folder = recipe.resolve().parent
    return project_root(folder) or folder


@dataclass(frozen=True)
class Passed:
    """An input that a parent gave to a fragment, and what it replaced."""

    path: TreePath
    before: Node
    after: Node


class Includes:
    """Expands the includes of one recipe, depth first, in the order of the document.

    Arguments
    ---------
    recipe : Path
        The recipe's file.
    faults : Faults
        Grows by what is wrong.
    """

    def __init__(self, recipe: Path, faults: Faults):
        self.root = recipe_root(recipe)
        self.faults = faults
        self.passed: list[Passed] = []
        self.files: list[Path] = [recipe.resolve()]
        self.nodes = 0

    def expand(self, tree: Node, file: Path) -> None:
        """Replace every include below ``tree`` by the fragment's tree.

        Arguments
        ---------
        tree : Node
            Changed in place.
        file : Path
            Where ``tree`` was read; paths in it start at its folder.
        """
        self.nodes += sum(1 for _ in walk(tree))
        self._expand(tree, (), file.resolve(), (file.resolve(),))

    def _expand(self, node: Node, path: TreePath, file: Path, stack: tuple) -> None:
        for key, child in node.children():
            here = (*path, key)
            self._expand(child, here, file, stack)
            if child.tag.startswith("!include:"):
                if not addressable(here):
                    self.faults.add(
                        child.where,
                        f"{child.tag}: a fragment needs a key of its own, of letters, "
                        "digits and underscores, outside of lists",
                    )
                elif fragment := self._fragment(child, here, file, stack):
                    node.value[key] = fragment

    def _fragment(
        self, include: Node, path: TreePath, file: Path, stack
    ) -> Node | None:
        found = self._locate(include, file, stack)
        if found is None:
            return None
        self.files.append(found)
        fragment = read_source(found, shown(found), self.faults)
        if fragment is None:
            self.nodes += found.stat().st_size // 2  # that it was read took time
            return None
        for _, node in walk(fragment):
            node.scope = path
            self.nodes += 1
        if self.nodes > MAX_NODES:
            self.faults.add(
                include.where, f"{include.tag}: more than {MAX_NODES} values"
            )
            return None
        fragment.where = Where(include.where.file, include.where.line)
        # Its own includes first, with their keys below this one, then our inputs.
        self._expand(fragment, path, found, (*stack, found))
        for key, given in include.children() if include.kind == "map" else ():
            self._pass(fragment, (key,), given, path, shown(found))
        return fragment

    def _locate(self, include: Node, file: Path, stack) -> Path | None:
        where, name = include.where, include.target or ""
        path = (file.parent / name).resolve()
        if not path.is_relative_to(self.root):
            reason = f"outside the recipe's root {shown(self.root)}"
        elif path in stack:
            names = " -> ".join(shown(p) for p in (*stack[stack.index(path) :], path))
            reason = f"includes itself: {names}"
        elif len(self.files) > MAX_FILES:
            reason = f"more than {MAX_FILES} files"
        elif self.nodes > MAX_NODES:
            reason = "too large, with what was included before"
        elif not path.is_file():
            folder = path.parent
            beside = [p.name for p in folder.glob("*.yaml")] if folder.is_dir() else []
            reason = f"no such file {shown(path)}" + did_you_mean(path.name, beside)
        else:
            return path
        self.faults.add(where, f"{include.tag}: {reason}")
        return None

    def _pass(
        self, fragment: Node, keys: TreePath, given: Node, at: TreePath, name: str
    ) -> None:
        """Put one input in its place in the fragment; mappings reach deeper."""
        section = fragment
        for key in keys[:-1]:
            section = section.value[key]
        if keys[-1] not in section.value:
            hint = did_you_mean(str(keys[-1]), section.value)
            self.faults.add(
                given.where, f"{dotted(keys)}: {name} has no such key{hint}"
            )
            return
        before = section.value[keys[-1]]
        if given.kind == "map" and not given.tag and before.kind == "map":
            for key, child in given.children():
                self._pass(fragment, (*keys, key), child, at, name)
            return
        if given.kind == "map" or given.target is not None or given.tag == "!copy":
            self._refuse(keys, given.where)
            section.value[keys[-1]] = broken(given.where)
            return
        section.value[keys[-1]] = given
        self.passed.append(Passed((*at, *keys), before, given))

    def check_passed(self, resolver: Resolver) -> None:
        """Report inputs that turn out to be objects once references are followed."""
        for passed in self.passed:
            if resolver.paths.get(id(passed.after)) != passed.path:
                continue  # an override took its place
            if not _is_plain(passed.after, resolver):
                self._refuse(passed.path, passed.after.where)
                continue
            try:
                typed_value(_plain_value(passed.after, resolver), _example(passed))
            except (ValueError, OverflowError) as reason:
                self.faults.add(
                    passed.after.where,
                    f"{dotted(passed.path)}: {reason} ({passed.before.where})",
                )

    def _refuse(self, keys: TreePath, where: Where) -> None:
        self.faults.add(
            where,
            f"{dotted(keys)}: an object cannot be passed into an include (HyperPyYAML "
            "would build a second one); pass numbers, texts or lists of them",
        )


def _example(passed: Passed) -> Any:
    """Value of the type that the fragment waits for; None if it accepts any."""
    before = passed.before
    if before.tag == "!PLACEHOLDER":
        return PLACEHOLDER_TYPES.get(before.text or "")
    return before.value if before.kind == "scalar" and before.tag == "" else None


def _plain_value(node: Node, resolver: Resolver) -> Any:
    found = resolver.resolve(node)
    if found.kind == "node":
        return [resolver.resolve(item).value for item in found.node.value]
    return found.value


def _is_plain(node: Node, resolver: Resolver) -> bool:
    """Whether a node is a scalar or a list of scalars once references are followed."""
    found = resolver.resolve(node)
    if found.kind == "node":
        return found.node.kind == "list" and all(
            resolver.resolve(item).kind in ("scalar", "broken")
            for item in found.node.value
        )
    return found.kind in ("scalar", "broken") or found.attribute is None
