"""A configuration as dotted keys and texts, for whatever compares two of them."""

from __future__ import annotations

import os
from typing import Any

from .faults import ConfigError, Faults
from .flatten import VOLATILE, flatten
from .loader import plan_recipe
from .source import parse
from .tree import PLACEHOLDER_TYPES, Node, dotted, walk


def dotted_values(root: Node) -> dict[str, str]:
    r"""Return dotted key -> value of a tree, without where things are put.

    An object is told by its tag, a list as a whole; references stay references.

    Example
    -------
    >>> root = parse("a:\n  b: 1\n  c: !ref <a[b]>\nsave_folder: x", "a", Faults())
    >>> dotted_values(root)
    {'a': '', 'a.b': '1', 'a.c': '!ref <a[b]>'}
    """
    values = {}
    for path, node in walk(root):
        if not path or VOLATILE.match(str(path[0])) or isinstance(path[-1], int):
            continue
        text = "" if node.kind == "map" else str(_plain(node))
        values[dotted(path)] = f"{node.tag} {text}".strip()
    return values


def _plain(node: Node) -> Any:
    if node.kind == "list":
        return [_plain(child) for child in node.value]
    return node.value


def settings_of(path: str | os.PathLike) -> dict[str, str]:
    """Read a recipe, or the ``hyperparams.yaml`` of an experiment, as dotted values.

    Includes are expanded and references rewritten from the root, so a recipe and what
    it was resolved to are the same. Inputs may still be open. Nothing is
    imported or built, so the names in it may be any.

    Raises
    ------
    ConfigError
        If the recipe has faults.
    """
    plan = plan_recipe(path, open_inputs=True, only_read=True)
    plan.raise_faults()
    inputs = {
        dotted(where): _example(node)
        for where, node in walk(plan.root)
        if node.tag == "!PLACEHOLDER"
    }
    if inputs:
        plan = plan_recipe(path, inputs, only_read=True)
        plan.raise_faults()
    values = text_settings(flatten(plan.root, plan.resolver), plan.name)
    return {**values, **{key: "(open)" for key in inputs if key in values}}


def text_settings(resolved: str, name: str) -> dict[str, str]:
    """Read a resolved text, such as `Recipe.resolved_yaml`, as dotted values.

    Raises
    ------
    ConfigError
        If it is no YAML; ``name`` is the file it is from.
    """
    faults = Faults()
    root = parse(resolved, name, faults)
    if faults or root is None:
        raise ConfigError(name, faults)
    return dotted_values(root)


def _example(node: Node) -> Any:
    kind = str(node.value or "").split()
    return PLACEHOLDER_TYPES.get(kind[0], "open") if kind else "open"
