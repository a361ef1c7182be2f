"""The tree of a configuration: nodes that know their file, line and scope."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .faults import Where

CORE = "tag:yaml.org,2002:"
#: tags that name something importable after the colon
TARGET_TAGS = ("!new:", "!name:", "!module:", "!apply:", "!applyref:")
PLAIN_TAGS = ("!ref", "!copy", "!PLACEHOLDER", "!tuple")
SCALAR_TAGS = {CORE + kind for kind in ("str", "int", "float", "bool", "null")}
#: what a placeholder may say about the value it waits for, with an example
PLACEHOLDER_TYPES: dict[str, Any] = {
    "text": "",
    "int": 0,
    "float": 0.0,
    "bool": False,
    "list": [],
}

#: keys from the root of a tree down to a node
TreePath = tuple[Any, ...]
_UNADDRESSABLE = re.compile(r"[\[\]<>.]")


@dataclass(eq=False)
class Node:
    """One value of the configuration.

    Attributes
    ----------
    kind : str
        "scalar", "list" or "map".
    tag : str
        "" for plain data, else the tag as written ("!new:a.B", "!ref", ...).
    value : Any
        A Python scalar (or tuple), a list of nodes, or a dict of key to node.
    where : Where
        For a value of a mapping the place of its key.
    text : str or None
        A scalar as written in the source.
    scope : tuple
        Path of the file's root in the whole tree: where its references start.
    """

    kind: str
    tag: str
    value: Any
    where: Where
    text: str | None = None
    scope: TreePath = ()
    quoted: bool = field(default=False, repr=False)

    @property
    def target(self) -> str | None:
        """What ``!new:``, ``!name:`` ... name, or None."""
        for prefix in (*TARGET_TAGS, "!include:"):
            if self.tag.startswith(prefix):
                return self.tag[len(prefix) :]
        return None

    def children(self) -> list[tuple[Any, Node]]:
        """Keys (or positions) and child nodes."""
        if self.kind == "map":
            return list(self.value.items())
        return list(enumerate(self.value)) if self.kind == "list" else []


def broken(where: Where) -> Node:
    """Stand-in for what is already reported, so that nothing is reported twice."""
    return Node("scalar", "!broken", None, where)


def walk(node: Node, path: TreePath = ()) -> Iterator[tuple[TreePath, Node]]:
    """Yield path and node, parents first, in the order of the document."""
    yield path, node
    for key, child in node.children():
        yield from walk(child, (*path, key))


def dotted(path: TreePath) -> str:
    """Path as it is typed on the command line."""
    return ".".join(str(part) for part in path)


def bracketed(path: TreePath) -> str:
    """Path as HyperPyYAML writes it in a reference."""
    return str(path[0]) + "".join(f"[{part}]" for part in path[1:])


def addressable(path: TreePath) -> bool:
    """Whether a HyperPyYAML reference can name this path."""
    return bool(path) and all(
        isinstance(part, str) and part.strip() and not _UNADDRESSABLE.search(part)
        for part in path
    )
