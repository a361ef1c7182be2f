"""Flow lists and tuples of plain scalars, parsed without any constructor of objects."""

from __future__ import annotations

import re
from typing import Any

import ruamel.yaml
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode, SequenceNode

from .arithmetic import MAX_BITS
from .tree import CORE, SCALAR_TAGS

MAX_ITEMS = 50_000
#: brackets that ruamel would spend seconds on before it gives up
TOO_DEEP = re.compile(r"(?:[\[{]\s*){60}")
#: starts of a text that YAML would read as a tag, anchor or alias
REFUSED_TEXT = re.compile(r"[!&*]")
#: a text that HyperPyYAML reads as a tuple
TUPLE = re.compile(r"^\(.*\)$", re.S)


def parse_flow(text: str) -> list[Any] | None:
    """Scalars of a flow list such as ``[1, 2.5, a]``; None if it is anything else.

    Example
    -------
    >>> parse_flow("[1, 5e-4, a b]"), parse_flow("[{a: 1}]"), parse_flow("[!!x 1]")
    ([1, 0.0005, 'a b'], None, None)
    """
    pairs = parse_flow_pairs(text)
    return None if pairs is None else [value for value, _ in pairs]


def parse_tuple(text: str) -> tuple | None:
    """Scalars of ``(1, 2)``; None if it is anything else.

    Example
    -------
    >>> parse_tuple("(3, 5e-4)"), parse_tuple("((1, 2), 3)")
    ((3, 0.0005), None)
    """
    if not TUPLE.match(text.strip()):
        return None
    pairs = parse_flow_pairs(f"[{text.strip()[1:-1]}]")
    if pairs is None or any(raw and re.search(r"[()]", raw) for _, raw in pairs):
        return None
    return tuple(value for value, _ in pairs)


def parse_flow_pairs(text: str) -> list[tuple[Any, str | None]] | None:
    """Like `parse_flow`, each scalar with its text as written if it was unquoted."""
    if TOO_DEEP.search(text):
        return None
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    try:
        raw = yaml.compose(text)
        if not isinstance(raw, SequenceNode) or str(raw.tag) != CORE + "seq":
            return None
        if raw.anchor is not None or len(raw.value) > MAX_ITEMS:
            return None
        pairs = []
        for item in raw.value:
            if not isinstance(item, ScalarNode) or str(item.tag) not in SCALAR_TAGS:
                return None
            if item.anchor is not None:
                return None
            value = yaml.constructor.construct_object(item)
            if isinstance(value, int) and value.bit_length() > MAX_BITS:
                return None
            pairs.append((value, item.value if item.style is None else None))
    except (YAMLError, ValueError, AssertionError, RecursionError, OverflowError):
        return None
    return pairs
