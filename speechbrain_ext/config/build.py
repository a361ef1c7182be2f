"""Objects from a checked tree, in the order and with the identities of HyperPyYAML.

Built from the tree and not from text, so that a constructor that refuses its arguments
is reported with file and line, and nothing is parsed a second time.
"""

from __future__ import annotations

import functools
from typing import Any

from .faults import Faults, Where
from .references import Resolver
from .signatures import locate
from .tree import Node, walk
from .trust import Guard


class BuildError(Exception):
    """A constructor or function failed; holds the place and the cause."""

    def __init__(self, node: Node, cause: Exception):
        self.node = node
        reason = str(cause).strip() or "no message"
        super().__init__(f"{node.tag}: {type(cause).__name__}: {reason}")

    @property
    def where(self) -> Where:
        """Where the failing object is written."""
        return self.node.where


def build(root: Node, guard: Guard | None = None) -> dict:
    """Construct everything in a tree.

    Arguments
    ---------
    root : Node
        Checked: no open placeholder, no broken reference, no cycle.
    guard : Guard, optional
        Asked before each call, and about each value read from an object; raises
        ValueError to forbid it.

    Returns
    -------
    dict
        Top-level key to value; keys that start with ``__`` are built and left out.

    Raises
    ------
    BuildError
        Naming the first object that could not be made.
    """
    builder = _Builder(root, guard)
    # HyperPyYAML runs these while it resolves references, before it builds anything.
    for _, node in walk(root):
        if node.tag.startswith("!applyref:"):
            builder.construct(node)
    built = {key: builder.construct(node) for key, node in root.value.items()}
    return {key: v for key, v in built.items() if not str(key).startswith("__")}


class _Builder:
    def __init__(self, root: Node, guard: Guard | None):
        self.resolver = Resolver(root, Faults(), run=self.construct)
        self.guard = guard
        self.made: dict[int, Any] = {}

    def construct(self, node: Node) -> Any:
        """Value of a node; the same object for the same node."""
        if node.tag == "!ref":
            return self._follow(node)
        if node.tag == "!copy":
            # A copy shares nothing with the original, not even what it refers to.
            outer, self.made = self.made, {}
            try:
                return self._follow(node)
            finally:
                self.made = outer
        if id(node) not in self.made:
            self.made[id(node)] = self._make(node)
        return self.made[id(node)]

    def _follow(self, node: Node) -> Any:
        found = self.resolver.resolve(node)
        if found.kind == "broken":  # what an !applyref: returned does not fit
            raise BuildError(node, ValueError(self.resolver.faults[-1].message))
        if found.node is None:
            return found.value
        thing = self.construct(found.node)
        if not found.attribute:
            return thing
        try:
            value = getattr(thing, found.attribute)
            if self.guard is not None:
                self.guard.check_value(node, value)
        except Exception as error:
            raise BuildError(node, error) from error
        return value

    def _make(self, node: Node) -> Any:
        if node.target is not None:
            return self._call(node)
        if node.kind == "map":
            return {key: self.construct(child) for key, child in node.value.items()}
        if node.kind == "list":
            return [self.construct(child) for child in node.value]
        return node.value

    def _call(self, node: Node) -> Any:
        args: list[Any] = []
        kwargs: dict[Any, Any] = {}
        if node.kind == "list":
            args = [self.construct(child) for child in node.value]
        elif node.kind == "map":
            kwargs = {key: self.construct(child) for key, child in node.value.items()}
            if node.tag.startswith("!applyref:") and set(kwargs) == {
                "_args",
                "_kwargs",
            }:
                args, kwargs = kwargs["_args"], kwargs["_kwargs"]
        try:
            if self.guard is not None and (fault := self.guard.text_fault(node)):
                raise ValueError(fault)  # before it is imported
            thing = locate(node.target)
            if self.guard is not None:
                self.guard.check_call(node, thing, args, kwargs)
            if node.tag.startswith("!module:"):
                return thing
            if node.tag.startswith("!name:"):
                no_arguments = not args and not kwargs
                return (
                    thing if no_arguments else functools.partial(thing, *args, **kwargs)
                )
            return thing(*args, **kwargs)
        except BuildError:
            raise
        except (Exception, MemoryError) as error:
            raise BuildError(node, error) from error
