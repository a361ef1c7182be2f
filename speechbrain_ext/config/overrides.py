"""Overrides put into a tree: every path must exist, every value must fit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .command_line import Override, folded
from .faults import Faults, did_you_mean, nearest
from .references import Resolver
from .run_options import RUN_OPTIONS
from .tree import PLACEHOLDER_TYPES, TARGET_TAGS, Node, TreePath, dotted, walk
from .values import TEXT_KEY, typed_text, typed_value, value_node


class _NotFoundError(Exception):
    """A path that leads nowhere; the message says why and what is near."""


class _RunOptionError(Exception):
    """A run option that is no key of the recipe: not for the tree."""


def apply_overrides(root: Node, overrides: Iterable[Override], faults: Faults) -> None:
    """Put values into a tree, in order; every one that does not fit is a fault.

    Arguments
    ---------
    root : Node
        Changed in place; includes are expanded.
    overrides : Iterable[Override]
        Presets first, then the command line.
    faults : Faults
        Grows by what does not fit.
    """
    for override in overrides:
        # Anew for each: an earlier override may have replaced what a reference meets.
        resolver = Resolver(root, Faults())
        try:
            parent, key = _find(root, override, resolver)
            value = _value(override, key, parent.value[key], resolver)
        except _RunOptionError:
            if override.factor is not None:
                reason = "the recipe has no such key whose number could be multiplied"
                faults.add(override.where, f"{override.label}: {reason}")
            continue
        except _NotFoundError as reason:
            faults.add(override.where, f"{override.label}: {reason}")
        except (ValueError, OverflowError) as reason:
            faults.add(override.where, f"{override.label}: {reason}")
        else:
            parent.value[key] = value_node(value, override.where)


def _find(root: Node, override: Override, resolver: Resolver) -> tuple[Node, Any]:
    """Return the node and the key (or position) in it that an override names."""
    section, path = root, ()
    parts = override.name.split(".")
    for depth, part in enumerate(parts):
        if depth:
            section = section.value[path[-1]]
        _check_section(section, path, parts[depth:], resolver)
        key = _matching(part, section)
        if key is None:
            if len(parts) == 1 and folded(part) in RUN_OPTIONS:
                raise _RunOptionError
            raise _NotFoundError(_unknown(root, section, path, parts))
        path = (*path, key)
    return section, path[-1]


def _check_section(section: Node, path: TreePath, rest: list[str], resolver) -> None:
    """Refuse to go on below a reference, or below what has no keys."""
    if section.tag in ("!ref", "!copy"):
        other = resolver.resolve(section)
        if section.tag == "!ref" and other.kind == "node":
            name = dotted(other.path)
            raise _NotFoundError(
                f"{dotted(path)} is a reference to {name} ({section.where}); "
                f"set --{name}.{'.'.join(rest)}"
            )
        raise _NotFoundError(f"{dotted(path)} is {section.tag} {section.value}")
    if section.kind == "scalar":
        what = section.tag or "a single value"
        raise _NotFoundError(
            f"{dotted(path)} is {what} ({section.where}): there is no '{rest[0]}' in it"
        )


def _matching(part: str, section: Node) -> Any:
    if section.kind == "list":
        here = part.isascii() and part.isdigit() and len(part) < 6
        return int(part) if here and int(part) < len(section.value) else None
    if part in section.value:
        return part
    for key in section.value:
        if folded(str(key)) == folded(part):
            return key
    return None


def _unknown(root: Node, section: Node, path: TreePath, parts: list[str]) -> str:
    """Name the section and the nearest key, in it or else anywhere in the tree."""
    part = parts[len(path)]
    place = f" in {dotted(path)} ({section.where})" if path else ""
    message = f"no key '{part}'{place}"
    if section.kind == "list":
        return f"{message}: it is a list of {len(section.value)}"
    known = {str(key): node for key, node in section.value.items()}
    options = RUN_OPTIONS if len(parts) == 1 else ()
    near = nearest(part, [*known, *options])
    if near is not None:
        line = f" ({known[near].where})" if near in known else ""
        return f"{message}; did you mean '{near}'{line}?"
    deeper = {
        dotted(other): str(other[-1])
        for other, node in walk(root)
        if len(other) > 1 and node.target is None
    }
    leaf = nearest(parts[-1], deeper.values())
    names = [f"--{name}" for name, last in deeper.items() if last == leaf]
    if leaf is not None:
        return f"{message}; did you mean {' or '.join(names[:3])}?"
    return message + did_you_mean(part, known)


def _value(override: Override, key: Any, current: Node, resolver: Resolver) -> Any:
    """Hold an override to what the YAML has there now."""
    if current.target is not None and not current.tag.startswith("!applyref:"):
        raise ValueError(
            f"is the object {current.tag} ({current.where}); set one of its arguments: "
            + _arguments(override, current)
        )
    if current.kind == "map":
        raise ValueError(
            f"is a section ({current.where}); set one of its keys: "
            + _arguments(override, current)
        )
    given, text = override.value, override.text
    try:
        known = _current(key, current, resolver)
        if override.factor is not None:
            return _multiplied(known, override.factor)
        if text is not None:
            if isinstance(known, str):
                refuse_tags(text)
            elif not text.strip():
                raise ValueError("needs a value")
            return typed_text(text, known)
        if isinstance(given, Path):
            given = str(given)
        if given is True and not isinstance(known, bool) and known is not None:
            raise ValueError("needs a value; only a true/false key may stand alone")
        _check_plain(given)
        return typed_value(given, known)
    except ValueError as reason:
        raise ValueError(f"{reason} ({current.where})") from None


def _current(key: Any, node: Node, resolver: Resolver) -> Any:
    """Value that the YAML has now, as an example of the wanted type; None if open."""
    if node.tag == "!PLACEHOLDER":
        if node.text in PLACEHOLDER_TYPES:
            return PLACEHOLDER_TYPES[node.text]
        return "" if TEXT_KEY.search(str(key)) else None
    found = resolver.resolve(node)
    if found.kind == "node" and found.node.target is not None:
        raise ValueError(f"is the object {found.node.tag}")
    if found.kind == "node" and found.node.kind == "list":
        return [resolver.resolve(item).value for item in found.node.value]
    if found.kind == "node":
        raise ValueError("is a section")
    return found.value


def _multiplied(known: Any, factor: float) -> int | float:
    """Multiply a recipe's number; a whole one stays whole, and at least 1."""
    if isinstance(known, bool) or not isinstance(known, (int, float)):
        raise ValueError(f"only a number can be multiplied, the recipe has {known!r}")
    return max(1, int(known * factor)) if isinstance(known, int) else known * factor


def refuse_tags(text: str) -> None:
    """Refuse a text that looks like a HyperPyYAML tag, though it would stay a text."""
    if text.startswith(("!!", "!ref ", "!copy ", "!include:", *TARGET_TAGS)):
        raise ValueError("tags are refused in a value")


def _check_plain(value: Any) -> None:
    if isinstance(value, str):
        refuse_tags(value)
        return
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if not (item is None or isinstance(item, (bool, int, float, str))):
            raise ValueError(
                f"must be a number, text, true/false, null or a list of them; got a "
                f"{type(item).__name__}"
            )


def _arguments(override: Override, node: Node) -> str:
    if node.kind != "map" or not node.value:
        return "it has none in the YAML"
    return ", ".join(f"--{override.name}.{key}" for key in list(node.value)[:4])
