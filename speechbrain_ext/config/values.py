"""Texts of a command line or preset to values, held to the type the YAML has.

A value is a plain scalar or a flow list of them: no tag, anchor or alias gets through,
no ``#`` starts a comment and no ``: `` a mapping. Where the YAML holds a text, the
text is taken letter by letter, so ``--tag=007`` and ``--tag='exp #1'`` stay as typed.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from .faults import Where
from .flow import REFUSED_TEXT, parse_flow, parse_flow_pairs, parse_tuple
from .tree import Node

#: placeholders of these names wait for a text, whatever it looks like
TEXT_KEY = re.compile(r"(^|_)(tag|name|url|manifest|folder|dir|file|path|root)$")

NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list, e.g. [1, 2]",
    tuple: "a tuple, e.g. (1, 2)",
}


def plain_value(text: str) -> Any:
    """Return what a text means where nothing says which type is wanted.

    Arguments
    ---------
    text : str
        From the command line, without its key.

    Returns
    -------
    Any
        None, bool, int, float, list, tuple, or the text itself.

    Raises
    ------
    ValueError
        If it is YAML that no override may hold: a tag, an anchor, a mapping.

    Example
    -------
    >>> plain_value("5e-4"), plain_value("http://a/b?x=1&y=2"), plain_value("a: b")
    (0.0005, 'http://a/b?x=1&y=2', 'a: b')
    """
    stripped = text.strip()
    if REFUSED_TEXT.match(stripped):
        raise ValueError("tags, anchors and aliases are refused in a value")
    if stripped[:1] in ("{", "["):
        values = parse_flow(stripped) if stripped[0] == "[" else None
        if values is None:
            raise ValueError("must be a plain scalar or a list such as [1, 2]")
        return values
    if stripped[:1] == "(" and stripped[-1:] == ")":
        values = parse_tuple(stripped)
        if values is None:
            raise ValueError("must be a tuple of plain scalars such as (1, 2)")
        return values
    if not stripped:
        raise ValueError("needs a value")
    if stripped[0] in "'\"":
        values = parse_flow(f"[{stripped}]")
        return values[0] if values and len(values) == 1 else text
    # One word on its own is resolved by YAML's rules; anything longer is text.
    if re.fullmatch(r"[\w.+\-~]+", stripped, re.A):
        values = parse_flow(f"[{stripped}]")
        return values[0] if values else text
    return text


def typed_value(given: Any, current: Any, *, words: str | None = None) -> Any:
    """Hold a value to the type that the YAML has now.

    Arguments
    ---------
    given : Any
        A Python value from `plain_value`, a preset or a caller's dict.
    current : Any
        Value in the YAML. None accepts anything.
    words : str or None
        The text as typed, kept where the YAML has a text.

    Returns
    -------
    Any
        The value; an int becomes a float where the YAML has one.

    Raises
    ------
    ValueError
        With the rule that is broken.

    Example
    -------
    >>> typed_value(1, 0.5), typed_value(7, "exp", words="007")
    (1.0, '007')
    >>> typed_value("three", 3)
    Traceback (most recent call last):
    ValueError: needs a whole number like 3; got 'three'
    """
    if isinstance(current, str) and words is not None:
        return words
    if current is None or given is None and not isinstance(current, str):
        return given
    kind = type(current)
    if kind is float and type(given) is int:
        return _as_float(given)
    if kind in (list, tuple) and isinstance(given, (list, tuple)):
        return kind(_typed_items(list(given), list(current)))
    if isinstance(current, datetime.date):
        return given
    if type(given) is not kind:
        example = "" if kind in (bool, list, tuple) else f" like {_short(current)}"
        raise ValueError(f"needs {NAMES[kind]}{example}; got {_short(given)}")
    return given


def typed_text(text: str, current: Any) -> Any:
    """Value of a command line's text where the YAML has ``current``.

    Example
    -------
    >>> typed_text("[007, a b]", ["x"]), typed_text("exp #1", "x")
    (['007', 'a b'], 'exp #1')
    """
    if isinstance(current, str):
        return text
    if isinstance(current, list) and current and isinstance(current[0], str):
        pairs = parse_flow_pairs(text.strip())
        if pairs is not None:
            return [raw if raw is not None else str(value) for value, raw in pairs]
    return typed_value(plain_value(text), current)


def _typed_items(given: list, current: list) -> list:
    kinds = {type(item) for item in current}
    if len(kinds) != 1:
        return given
    example = current[0]
    return [typed_value(item, example) for item in given]


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        raise ValueError("is too large for a number") from None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def value_node(value: Any, where: Where) -> Node:
    """Node of a checked Python value (scalar, list or tuple of scalars)."""
    if isinstance(value, list):
        return Node("list", "", [value_node(item, where) for item in value], where)
    if isinstance(value, tuple):
        return Node("scalar", "!tuple", value, where)
    return Node("scalar", "", value, where, value if isinstance(value, str) else None)
