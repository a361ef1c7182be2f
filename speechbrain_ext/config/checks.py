"""Checks of a whole tree that need neither imports nor the code behind it."""

from __future__ import annotations

from .faults import Faults
from .references import REFERENCE, Resolver
from .tree import Node, TreePath, dotted, walk

MAX_COPIES = 200
MAX_COPIED = 20_000


def check_references(
    root: Node, resolver: Resolver, faults: Faults, *, open_inputs: bool = False
) -> None:
    """Report open placeholders, bad and circular references, objects before the seed.

    Arguments
    ---------
    root : Node
        The whole tree, includes expanded and overrides applied.
    resolver : Resolver
        Of the same tree.
    faults : Faults
        Grows.
    open_inputs : bool
        Whether placeholders may stay open (a recipe looked at without its data).
    """
    order = {id(node): i for i, (_, node) in enumerate(walk(root))}
    if too_many := _too_many_copies(root, resolver):
        faults.add(too_many.where, f"{too_many.tag} {too_many.value}: copies too much")
        return
    for path, node in walk(root):
        name = dotted(path)
        if node.tag == "!PLACEHOLDER" and not open_inputs:
            how = _how_to_set(path, node, root)
            faults.add(node.where, f"{name}: left open; {how}")
        elif node.tag in ("!ref", "!copy"):
            if needs := _needs_above(node, resolver, order):
                faults.add(
                    node.where,
                    f"{name}: {node.tag} {node.value} must stand below {needs}",
                )
        elif node.tag.startswith("!applyref:"):
            _check_applyref(name, node, resolver, faults)
        elif node.tag == "" and isinstance(node.value, str) and _like_tuple(node.value):
            faults.add(
                node.where,
                f"{name}: HyperPyYAML reads a text in (...) as a tuple; "
                "write it without the outer brackets",
            )
    resolver.check_cycles()
    if not any("circular" in fault.message for fault in faults):
        _check_seed_first(root, resolver, faults)


def _too_many_copies(root: Node, resolver: Resolver) -> Node | None:
    """Return the !copy with which copies of copies come to be too large to build."""
    sizes: dict[int, int] = {}
    copies = 0

    def size(node: Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 1  # cycles are reported elsewhere
            total = 1 + sum(size(child) for _, child in node.children())
            if node.tag == "!copy" and (copied := resolver.resolve(node).node):
                total += size(copied)
            sizes[id(node)] = total
        return sizes[id(node)]

    for _, node in walk(root):
        if node.tag == "!copy":
            copies += 1
            if copies > MAX_COPIES or size(node) > MAX_COPIED:
                return node
    return None


def _needs_above(node: Node, resolver: Resolver, order: dict[int, int]) -> str | None:
    """Say what must stand above a reference and does not; None if all is well."""
    found, here = resolver.resolve(node), order[id(node)]
    if found.kind == "dynamic" and found.attribute is None:
        for name in REFERENCE.findall(node.value):
            _, needed = resolver.holder(name, node.scope)
            if order[id(needed)] > here:
                return f"<{name}>, which an !applyref: fills ({needed.where})"
    if node.tag == "!copy" and _latest(found.node, resolver, order) > here:
        return "what it copies and all that refers to"
    return None


def _check_applyref(name: str, node: Node, resolver: Resolver, faults: Faults) -> None:
    """Report objects among the arguments: there are none yet when it runs."""
    looked: set[int] = set()
    for _, inner in walk(node):
        found = resolver.resolve(inner)
        thing = found.node if found.kind == "node" else None
        has_object = False
        if thing is not None and id(thing) not in looked:
            looked.add(id(thing))
            has_object = any(n.target for _, n in walk(thing))
        if inner is not node and (has_object or found.attribute):
            faults.add(
                inner.where,
                f"{name}: {node.tag} runs before any object is built: give it plain "
                "values",
            )
            return


def _how_to_set(path: TreePath, node: Node, root: Node) -> str:
    """Where an open input can be given: the command line, or the include above it."""
    option = f"set it: --{dotted(path)}=..."
    if not node.scope or path[: len(node.scope)] != node.scope:
        return option
    fragment = root
    for part in node.scope:
        fragment = fragment.value[part]
    key = dotted(path[len(node.scope) :])
    return f"pass '{key}' to the !include ({fragment.where}), or {option}"


def _latest(node: Node | None, resolver: Resolver, order: dict[int, int]) -> int:
    """Position of the last node that a copy of ``node`` would need resolved."""
    latest, seen, left = -1, set(), [node]
    while left:
        node = left.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        latest = max(latest, order[id(node)])
        left += [child for _, child in node.children()]
        if node.tag in ("!ref", "!copy"):
            left.append(resolver.resolve(node).node)
    return latest


def _like_tuple(text: str) -> bool:
    return text.startswith("(") and text.endswith(")")


def _check_seed_first(root: Node, resolver: Resolver, faults: Faults) -> None:
    """Report an object that is built before the generators are seeded."""
    seeds = ("manual_seed", "seed_everything", "set_seed")
    seen: set[int] = set()
    before: list[tuple[Node, Node]] = []

    def visit(node: Node, place: Node) -> bool:
        """Walk in order of construction; True when the seed is reached."""
        if id(node) in seen:
            return False
        seen.add(id(node))
        if node.tag in ("!ref", "!copy"):
            found = resolver.resolve(node)
            return found.node is not None and visit(found.node, node)
        if any(visit(child, child) for _, child in node.children()):
            return True
        if node.tag.startswith("!apply:") and node.tag.endswith(seeds):
            for built, written in before:
                faults.add(
                    written.where,
                    f"{built.tag} is built before {node.tag} (line {node.where.line}): "
                    "seed first",
                )
            return True
        if node.tag.startswith(("!new:", "!apply:")):
            before.append((node, place))
        return False

    visit(root, root)
