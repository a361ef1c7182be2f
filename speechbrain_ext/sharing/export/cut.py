"""A model's part of a training recipe: what builds it, and nothing of its training."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from speechbrain_ext.config.flatten import scalar
from speechbrain_ext.config.references import REFERENCE
from speechbrain_ext.errors import UserError

#: A reference to one key, at any depth: ``<a>``, ``<a[b][c]>``.
_WHOLE = re.compile(r"<([^<>\[\].]+)((?:\[[^\[\]]+\])*)>")
_INDEX = re.compile(r"\[([^\[\]]+)\]")
_REFERS = ("!ref", "!copy")


def cut(resolved: str, wanted: Mapping[str, str]) -> str:
    r"""Keep what some objects of a resolved recipe are made of.

    Arguments
    ---------
    resolved : str
        Self-contained HyperPyYAML, as `Recipe.resolved_yaml`.
    wanted : Mapping
        New top-level key -> dotted path of what shall stand there; arguments of an
        object are below it, and references are followed.

    Returns
    -------
    str
        HyperPyYAML with the wanted keys, after those keys of the recipe that they
        refer to, in the recipe's order.

    Raises
    ------
    UserError
        If the recipe has no such path, or a kept key has a wanted name.

    Example
    -------
    >>> text = "rate: 8\nlr: 0.1\nmodules: {net: !new:torch.nn.ReLU {x: !ref <rate>}}"
    >>> print(cut(text, {"model": "modules.net"}))
    rate: 8
    model: !new:torch.nn.ReLU {x: !ref <rate>}
    <BLANKLINE>
    """
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.width, yaml.allow_unicode = 10**6, True
    root = yaml.compose(resolved)
    top = {key.value: value for key, value in root.value}
    found = {name: find_node(root, path) for name, path in wanted.items()}
    kept = _closure(top, found.values())
    both = sorted(kept & found.keys())
    if both:
        raise UserError(
            f"export: the recipe's key '{both[0]}' is in the way of what is written; "
            "rename it in the experiment's hyperparams.yaml"
        )
    pairs = [(key, value) for key, value in root.value if key.value in kept]
    pairs += [(scalar(name), node) for name, node in found.items()]
    stream = io.StringIO()
    yaml.serialize(MappingNode(tag=root.tag, value=pairs, flow_style=False), stream)
    return stream.getvalue()


def find_node(root: MappingNode, path: str) -> Node:
    """Follow a dotted path; what stands at its end may be a reference.

    Raises
    ------
    UserError
        If it leads nowhere.
    """
    node: Node = root
    for step in path.split("."):
        node = _followed(root, node)
        entries = node.value if isinstance(node, MappingNode) else []
        node = next((value for key, value in entries if key.value == step), None)
        if node is None:
            raise UserError(f"export: the recipe has no {path} (nothing at '{step}')")
    return node


def _followed(root: MappingNode, node: Node) -> Node:
    """Go where references to a whole key lead; a resolved recipe has no circles."""
    while isinstance(node, ScalarNode) and node.tag in _REFERS:
        whole = _WHOLE.fullmatch(node.value)
        if whole is None:
            return node
        keys = [whole[1], *_INDEX.findall(whole[2])]
        node = root
        for key in keys:
            node = _followed(root, node)
            if isinstance(node, SequenceNode):
                node = node.value[int(key)]
            else:
                node = next(value for name, value in node.value if name.value == key)
    return node


def _closure(top: dict[str, Node], nodes) -> set[str]:
    """Top-level keys that nodes refer to, and those that these refer to."""
    kept: set[str] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, MappingNode):
            todo += [value for _, value in node.value]
        elif isinstance(node, SequenceNode):
            todo += node.value
        elif node.tag.startswith("!"):
            for name in REFERENCE.findall(str(node.value)):
                key = re.split(r"[\[.]", name)[0]
                if key in top and key not in kept:
                    kept.add(key)
                    todo.append(top[key])
    return kept


def targets(text: str) -> list[str]:
    """List what a HyperPyYAML text builds or calls, such as ``torch.nn.ReLU``."""
    found: set[str] = set()
    todo = [ruamel.yaml.YAML(typ="safe", pure=True).compose(text)]
    while todo:
        node = todo.pop()
        if ":" in node.tag and node.tag.startswith("!"):
            found.add(node.tag.split(":", 1)[1])
        if isinstance(node, MappingNode):
            todo += [value for _, value in node.value]
        elif isinstance(node, SequenceNode):
            todo += node.value
    return sorted(found)
