"""The resolved configuration: one self-contained text, and its hash.

References between keys stay references (rewritten from the root), so that objects keep
their identities and ``output_folder`` can still be changed. Where HyperPyYAML would
read a reference otherwise than we do, the value is written instead.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import io
import json
import math
import re
from typing import Any

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from .arithmetic import evaluate
from .faults import Faults
from .references import REFERENCE, Resolver, Value, absolute
from .tree import CORE, Node, bracketed, walk

#: top-level keys that say where, not what: left out of the hash, with what they fill
VOLATILE = re.compile(r"^(tag|(.+_)?(folder|dir|manifest))$")
#: texts that every YAML reader and writer takes unquoted for what they are
_BARE = re.compile(
    r"(?!(?:y|n|yes|no|on|off)$)[A-Za-z_./][\w./+ -]*(?<! )", re.A | re.I
)
_WIDTH = 10**6


def flatten(root: Node, resolver: Resolver) -> str:
    """Write a tree without faults as one HyperPyYAML text.

    Arguments
    ---------
    root : Node
        Includes expanded, overrides applied.
    resolver : Resolver
        Of the same tree.

    Returns
    -------
    str
        Loads with `load_recipe` and with `hyperpyyaml.load_hyperpyyaml` to the same
        objects, identities and order of construction.
    """
    raw = _Writer(root, resolver).node(root)
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.width, yaml.allow_unicode = _WIDTH, True
    stream = io.StringIO()
    yaml.serialize(raw, stream)
    return stream.getvalue()


class _Writer:
    def __init__(self, root: Node, resolver: Resolver):
        self.resolver = resolver
        self.order = {id(node): i for i, (_, node) in enumerate(walk(root))}

    def node(self, node: Node):
        """Return ruamel's node for one of ours."""
        if node.tag in ("!ref", "!copy"):
            return self._reference(node)
        if node.kind == "map" or (node.kind == "scalar" and node.target):
            # An object without arguments gets {}: a bare tag has no identity to share.
            entries = node.value.items() if node.kind == "map" else ()
            return MappingNode(
                tag=node.tag or CORE + "map",
                value=[(scalar(key), self.node(value)) for key, value in entries],
                flow_style=not entries,
            )
        if node.kind == "list":
            items = [self.node(item) for item in node.value]
            return SequenceNode(
                tag=node.tag or CORE + "seq",
                value=items,
                flow_style=all(_fits_flow(item) for item in items),
            )
        if node.tag == "!tuple":
            return _tuple(node.value)
        return scalar(node.value, node.text if not node.quoted else None)

    def _reference(self, node: Node):
        found = self.resolver.resolve(node)
        if found.kind == "node" or (found.attribute is not None):
            text = absolute(found)
            return ScalarNode(tag=node.tag, value=text)
        text = self._rewritten(node)
        if text is not None and (found.kind == "dynamic" or _reads_same(text, found)):
            template = REFERENCE.sub(lambda match: f"<{match[1]}>", text[0])
            return ScalarNode(tag="!ref", value=template)
        if isinstance(found.value, tuple):
            return _tuple(found.value)
        return scalar(found.value)

    def _rewritten(self, node: Node) -> tuple[str, list[Value]] | None:
        """Template with absolute paths, and its values; None if order forbids it."""
        values: list[Value] = []
        names: list[str] = []
        for name in REFERENCE.findall(node.value):
            path, target = self.resolver.holder(name, node.scope)
            if target.tag and self.order[id(target)] > self.order[id(node)]:
                return None  # HyperPyYAML resolves from top to bottom
            names.append(f"<{bracketed(path)}>")
            values.append(self.resolver.resolve(target))
        left = iter(names)
        return REFERENCE.sub(lambda _: next(left), node.value), values


def _reads_same(rewritten: tuple[str, list[Value]], found: Value) -> bool:
    """Whether HyperPyYAML makes the same value of a template."""
    template, values = rewritten
    if any(isinstance(v.value, str) and REFERENCE.search(v.value) for v in values):
        return False
    if REFERENCE.fullmatch(template):
        return True
    left = iter(values)
    text = REFERENCE.sub(lambda _: str(next(left).value), template)
    try:
        nodes = [type(n) for n in ast.walk(ast.parse(text, mode="eval"))]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return isinstance(found.value, str)
    calculable = (ast.Expression, ast.Constant, ast.BinOp, ast.operator)
    if not all(issubclass(kind, calculable) for kind in nodes):
        return isinstance(found.value, str) and ast.UnaryOp not in nodes
    if isinstance(found.value, str):
        return False
    try:
        return evaluate(text) == found.value
    except ValueError:
        return False


def scalar(value: Any, text: str | None = None) -> ScalarNode:
    """Give ruamel's node of a plain scalar; numbers survive, so do texts like them.

    Example
    -------
    >>> scalar(1e-05).value, scalar("no").style, scalar(True).value
    ('1.0e-05', "'", 'true')
    """
    if value is None:
        return ScalarNode(tag=CORE + "null", value="null")
    if isinstance(value, bool):
        return ScalarNode(tag=CORE + "bool", value="true" if value else "false")
    if isinstance(value, int):
        return ScalarNode(tag=CORE + "int", value=str(value))
    if isinstance(value, float):
        return ScalarNode(tag=CORE + "float", value=_float(value))
    if isinstance(value, datetime.date):
        return ScalarNode(tag=CORE + "timestamp", value=text or value.isoformat())
    return ScalarNode(tag=CORE + "str", value=value, style=_style(value))


def _style(text: str) -> str | None:
    """Quotes of a text; a text like a number is quoted by ruamel itself."""
    if _BARE.fullmatch(text):
        return None
    return "'" if text.isprintable() else '"'


def _float(value: float) -> str:
    """Shortest text with a point, so that YAML 1.1 readers see a float as well."""
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def _tuple(values: tuple) -> ScalarNode:
    """``(1, 2)`` in a form that HyperPyYAML's own re-parse reads alike."""
    items = []
    for value in values:
        node = scalar(value)
        text = isinstance(value, str)
        items.append(json.dumps(value, ensure_ascii=False) if text else node.value)
    return ScalarNode(tag="!tuple", value=f"({', '.join(items)})", style="'")


def _fits_flow(node) -> bool:
    if not isinstance(node, ScalarNode) or not node.tag.startswith(CORE):
        return False
    # HyperPyYAML writes the list once more, and without the quotes in [...].
    return node.tag != CORE + "str" or node.style is None


def config_hash(root: Node) -> str:
    """SHA-256 of what is trained: resolved values, without where things are put.

    Left out are top-level keys named ``tag`` or ending in ``folder``, ``dir`` or
    ``manifest``; where another value is made of one of them, its name stands for it.
    """
    kept = {k: v for k, v in root.value.items() if not VOLATILE.match(str(k))}
    symbols = {
        key: Node("scalar", "", f"{{{key}}}", node.where)
        for key, node in root.value.items()
        if key not in kept
    }
    tree = Node("map", "", {**root.value, **symbols}, root.where)
    resolver = Resolver(tree, Faults())
    canonical = [[str(k), _canonical(v, resolver)] for k, v in kept.items()]
    text = json.dumps(canonical, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(node: Node, resolver: Resolver) -> Any:
    found = resolver.resolve(node)
    if node.tag in ("!ref", "!copy"):
        if found.kind != "scalar" and found.path:
            # A copied value is the value; a copied object is another one.
            tag = node.tag if found.kind == "node" else "!ref"
            return {tag: absolute(found)}
        if found.kind != "scalar":
            names = REFERENCE.findall(node.value)
            paths = [resolver.holder(name, node.scope)[0] for name in names]
            return {"!ref": [REFERENCE.sub("<>", node.value), *map(bracketed, paths)]}
        return _canonical_scalar(found.value)
    if node.kind == "scalar":
        return {node.tag: []} if node.target else _canonical_scalar(node.value)
    items = [_canonical(child, resolver) for _, child in node.children()]
    if node.kind == "map":
        items = [[str(key), item] for key, item in zip(node.value, items, strict=True)]
    return {node.tag or node.kind: items}


def _canonical_scalar(value: Any) -> Any:
    if isinstance(value, tuple):
        return {"!tuple": [_canonical_scalar(item) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return _float(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value
