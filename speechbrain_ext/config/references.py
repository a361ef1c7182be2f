"""What every ``!ref`` and ``!copy`` points at, found without building anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import arithmetic
from .faults import Faults, did_you_mean
from .tree import Node, TreePath, bracketed, dotted, walk

REFERENCE = re.compile(r"<([^>]*)>")
MAX_TEXT = 10_000


@dataclass(frozen=True, eq=False)
class Value:
    """What a node stands for once references are followed.

    Attributes
    ----------
    kind : str
        "scalar" (``value`` is it), "node" (a list, mapping or object: ``node`` at
        ``path``), "dynamic" (known when built only) or "broken" (already reported).
    """

    kind: str
    value: Any = None
    path: TreePath = ()
    node: Node | None = None
    attribute: str | None = None


BROKEN = Value("broken")


class _UnresolvedError(Exception):
    """A fault of one reference, to be reported at its place."""


class Resolver:
    """Follows references in one tree; each node is resolved once.

    Arguments
    ---------
    root : Node
        The whole tree, includes expanded.
    faults : Faults
        Grows by what cannot be resolved, each fault once.
    run : Callable, optional
        Builds an ``!applyref:`` node. None: its value counts as not known yet.
    """

    def __init__(
        self, root: Node, faults: Faults, run: Callable[[Node], Any] | None = None
    ):
        self.root = root
        self.faults = faults
        self.run = run
        self.paths = {id(node): path for path, node in walk(root)}
        self._known: dict[int, Value] = {}
        self._open: list[Node] = []

    def resolve(self, node: Node) -> Value:
        """Follow a node to its scalar, or to the node that is finally meant."""
        if id(node) in self._known:
            return self._known[id(node)]
        if node in self._open:
            names = [*self._open[self._open.index(node) :], node]
            chain = " -> ".join(dotted(self.paths[id(n)]) for n in names)
            self.faults.add(node.where, f"circular reference: {chain}")
            return BROKEN
        self._open.append(node)
        try:
            value = self._resolve(node)
        except _UnresolvedError as reason:
            self.faults.add(node.where, f"{dotted(self.paths[id(node)])}: {reason}")
            value = BROKEN
        finally:
            self._open.pop()
        self._known[id(node)] = value
        return value

    def _resolve(self, node: Node) -> Value:
        if node.tag in ("!ref", "!copy"):
            return self._reference(node)
        # Open placeholders and unread includes are reported where they are looked for.
        if node.tag in ("!PLACEHOLDER", "!broken") or node.tag.startswith("!include:"):
            return BROKEN
        if node.tag.startswith("!applyref:"):
            if self.run is not None:
                value = self.run(node)
                _check_text(node.tag, value)
                return Value("scalar", value)
            return Value("dynamic", node=node, path=self.paths[id(node)])
        if node.kind == "scalar" and node.target is None:
            return Value("scalar", node.value)
        return Value("node", node=node, path=self.paths[id(node)])

    def _reference(self, node: Node) -> Value:
        template = node.value
        names = REFERENCE.findall(template)
        if not names:
            bare = template.strip()
            known = [str(key) for key in self._scope(node).value]
            hint = f"; did you mean {node.tag} <{bare}>?" if bare in known else ""
            raise _UnresolvedError(f"{node.tag} {bare}: no <key> in it{hint}")
        if REFERENCE.fullmatch(template):
            found = self.find(names[0], node.scope)
            if node.tag == "!copy" and found.attribute:
                raise _UnresolvedError(f"!copy {template}: copies keys, not attributes")
            return found
        if node.tag == "!copy":
            raise _UnresolvedError(
                f"!copy {template}: copies one <key>; a text needs !ref"
            )
        return self._interpolate(template, node.scope)

    def _interpolate(self, template: str, scope: TreePath) -> Value:
        values = []
        for name in REFERENCE.findall(template):
            found = self.find(name, scope)
            if found.kind == "broken":
                return BROKEN
            if found.attribute or found.kind == "node":
                raise _UnresolvedError(
                    f"!ref {template}: <{name}> is no text or number"
                )
            values.append(found)
        for found in values:
            _check_text(f"!ref {template}", found.value)
        if dynamic := [found for found in values if found.kind == "dynamic"]:
            order = list(self.paths)
            last = max(dynamic, key=lambda found: order.index(id(found.node)))
            return Value("dynamic", node=last.node)
        parts = [found.value for found in values]
        if arithmetic.looks_numeric(template) and all(map(_is_number, parts)):
            return Value("scalar", _calculate(template, parts))
        return Value("scalar", _join(template, parts))

    def find(self, name: str, scope: TreePath) -> Value:
        """Resolve the inside of one ``<...>`` as seen from a file's root."""
        key, _, attribute = name.partition(".")
        node, seen = self._scope_at(scope), scope
        for part in key.split("["):
            part = part.strip("]")
            node = self._enter(node)
            if node is None:
                return BROKEN
            if node.kind != "map" or part not in node.value:
                raise _UnresolvedError(self._no_key(name, part, node, seen, scope))
            node, seen = node.value[part], (*seen, part)
        found = self.resolve(node)
        if not attribute or found.kind == "broken":
            return found
        if found.kind != "node" or found.node.target is None:
            raise _UnresolvedError(
                f"<{name}>: '{key}' is no object; a key in it is <{key}[{attribute}]>"
            )
        if not re.fullmatch(r"[^\W\d]\w*", attribute) or attribute.startswith("_"):
            raise _UnresolvedError(f"<{name}>: '{attribute}' is no public attribute")
        return Value("dynamic", None, found.path, found.node, attribute)

    def holder(self, name: str, scope: TreePath) -> tuple[TreePath, Node]:
        """Path and node that finally hold a scalar: chains of references end there."""
        node = self.root
        for part in (*scope, *(part.strip("]") for part in name.split("["))):
            if node.tag in ("!ref", "!copy"):
                node = self.resolve(node).node
            node = node.value[part]
        if node.tag in ("!ref", "!copy") and REFERENCE.fullmatch(node.value):
            return self.holder(node.value.strip("<>"), node.scope)
        return self.paths[id(node)], node

    def _enter(self, node: Node) -> Node | None:
        """Return the node a path goes on in: references on the way are followed."""
        if node.tag not in ("!ref", "!copy"):
            return node if node.tag[:9] != "!include:" else None
        found = self.resolve(node)
        return None if found.kind == "broken" else found.node or node

    def _scope(self, node: Node) -> Node:
        return self._scope_at(node.scope)

    def _scope_at(self, scope: TreePath) -> Node:
        node = self.root
        for part in scope:
            node = node.value[part]
        return node

    def _no_key(self, name, part, node, seen: TreePath, scope: TreePath) -> str:
        inside = f" in {dotted(seen)}" if seen else ""
        known = list(node.value) if node.kind == "map" else []
        if seen == scope and scope and part in self.root.value:
            return (
                f"<{name}>: no key '{part}'{inside}; a fragment sees its own keys: "
                f"declare '{part}: !PLACEHOLDER' and pass it to the !include"
            )
        return f"<{name}>: no key '{part}'{inside}" + did_you_mean(part, known)

    def check_cycles(self) -> None:
        """Report objects and lists that contain themselves through references."""
        done: set[int] = set()
        trail: list[Node] = []

        def visit(node: Node) -> None:
            if id(node) in done:
                return
            if node in trail:
                names = [n for n in (*trail[trail.index(node) :], node)]
                chain = " -> ".join(dotted(self.paths[id(n)]) for n in names)
                self.faults.add(node.where, f"circular reference: {chain}")
                return
            trail.append(node)
            found = self.resolve(node) if node.tag in ("!ref", "!copy") else None
            if found and found.node is not None:
                visit(found.node)
            for _, child in node.children():
                visit(child)
            trail.pop()
            done.add(id(node))

        visit(self.root)


def absolute(found: Value) -> str:
    """``<...>`` of a found node, written from the root of the whole tree."""
    ending = f".{found.attribute}" if found.attribute else ""
    return f"<{bracketed(found.path)}{ending}>"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _calculate(template: str, numbers: list) -> int | float:
    if arithmetic.is_ambiguous(template):
        raise _UnresolvedError(
            f"!ref {template}: a calculation or a text? Put spaces around the operator "
            "to calculate, or quote the referenced values to make a text"
        )
    left = iter(numbers)

    def number(_match) -> str:
        value = next(left)
        return f"({value!r})" if value < 0 else repr(value)

    try:
        return arithmetic.evaluate(REFERENCE.sub(number, template))
    except ValueError as reason:
        raise _UnresolvedError(f"!ref {template}: {reason}") from None


def _check_text(source: str, text: Any) -> None:
    """Refuse a text that HyperPyYAML would go on with: a reference, or a tuple."""
    if not isinstance(text, str):
        return
    if text.startswith("(") and text.endswith(")"):
        raise _UnresolvedError(
            f"{source}: its text is {text[:40]}, which HyperPyYAML would read as a "
            "tuple, by a loader that runs code"
        )
    # Without a ">" behind it, each "<" would be searched to the end of the text.
    inner = REFERENCE.search(text, 0, text.rfind(">") + 1)
    if inner:
        raise _UnresolvedError(
            f"{source}: its text holds {inner[0][:40]}, which HyperPyYAML would "
            "follow as a reference"
        )


def _join(template: str, values: list) -> str:
    left = iter(values)

    def text(match) -> str:
        value = next(left)
        if value is None or isinstance(value, (list, tuple)):
            kind = "null" if value is None else "a list"
            raise _UnresolvedError(f"!ref {template}: {match[0]} is {kind}, not text")
        return str(value)

    joined = REFERENCE.sub(text, template)
    _check_text(f"!ref {template}", joined)
    if len(joined) > MAX_TEXT:
        raise _UnresolvedError(
            f"!ref {template[:60]}: longer than {MAX_TEXT} characters"
        )
    return joined
