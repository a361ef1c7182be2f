"""What a recipe may do, checked three times.

`check_text` holds every name and place in the tree to the allow-list, before anything
is imported. `Guard.check_object` holds what a name really led to, before it is used.
`Guard.check_call` and `Guard.check_value` hold, while the recipe is built, what is
called with which arguments, and what is read from built objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .allowlist import AllowList
from .allowlist.judge import home_of
from .faults import Faults
from .pickles import NAME as PICKLES
from .pickles import guard_pickles
from .places import Places, writes
from .references import Resolver
from .tree import Node, walk

MAX_HINTS = 10
_HANDED_OUT = (
    "writes, so it may stand as a !name: at the top only, and nothing may refer to it: "
    "whoever called it could give it any place"
)


class Guard:
    """The checks of one recipe.

    Arguments
    ---------
    root : Node
        The whole tree, includes expanded and overrides applied.
    resolver : Resolver
        Of the same tree.
    recipe : Path
        The recipe's file.
    allowed : AllowList
        What may be named.
    """

    def __init__(
        self, root: Node, resolver: Resolver, recipe: Path, allowed: AllowList
    ):
        self.root = root
        self.resolver = resolver
        self.allowed = allowed
        self.places = Places(root, recipe)
        # Loading can't call what stands at the top and what nothing refers to.
        referred = {
            id(resolver.resolve(node).node)
            for _, node in walk(root)
            if node.tag in ("!ref", "!copy")
        }
        self.only_held = {
            id(node) for node in root.value.values() if id(node) not in referred
        }
        #: what `check_text` found, and whether names are among it
        self.faults = Faults()
        self.names_refused = False

    def check_text(self, faults: Faults) -> None:
        """Report every name that is not allowed, and every place outside."""
        try:
            self._check_text()
        finally:
            faults.extend(self.faults)

    def _check_text(self) -> None:
        for _, node in walk(self.root):
            if fault := self.text_fault(node, hint=len(self.faults) < MAX_HINTS):
                self.names_refused = True
                self.faults.add(node.where, f"{node.tag}: {fault}")
            elif node.target is not None and self._hands_out(node, node.target):
                self.faults.add(node.where, f"{node.tag}: {_HANDED_OUT}")
        task = self.root.value.get("task")
        if task is not None:
            found = self.resolver.resolve(task)
            name = found.value if found.kind == "scalar" else None
            fault = "must be the name of a module"
            if isinstance(name, str):
                fault = self.allowed.text_fault("task", name)
            if fault and found.kind != "broken":
                self.faults.add(task.where, f"task: {name}: {fault}")
        self.places.check(self.faults)

    def text_fault(self, node: Node, *, hint: bool = False) -> str | None:
        """Say why a node's name may not stand there; None if it may or has none."""
        if node.target is None or node.tag.startswith("!include:"):
            return None
        tag = node.tag.partition(":")[0]
        top = id(node) in self.only_held
        return self.allowed.text_fault(tag, node.target, top=top, hint=hint)

    def check_object(self, node: Node, thing: Any) -> None:
        """Raise ValueError if what a node's name led to may not be used."""
        tag = node.tag.partition(":")[0]
        fault = self.text_fault(node)
        if fault is None and self.allowed.text_fault(tag, node.target) is None:
            fault = self.allowed.object_fault(tag, node.target, thing)
        elif fault is None and home_of(thing) != node.target:  # allowed for its place
            fault = f"leads to {home_of(thing)}"
        if fault:
            raise ValueError(fault)

    def check_call(self, node: Node, thing: Any, args: list, kwargs: dict) -> None:
        """Raise ValueError if a node may not call this with these arguments."""
        guard_pickles(allowed=PICKLES in self.allowed.exact)
        self.check_object(node, thing)
        if self._hands_out(node, home_of(thing) or ""):
            raise ValueError(_HANDED_OUT)
        if fault := self.places.check_call(thing, args, kwargs):
            raise ValueError(fault)

    def _hands_out(self, node: Node, name: str) -> bool:
        """Whether a node gives what writes to an object, which could call it.

        It would be called with places that nobody looked at; also with others than
        stand in the recipe, since a keyword may be given again.
        """
        is_held = id(node) in self.only_held
        return node.tag.startswith("!name:") and not is_held and writes(name)

    def check_value(self, node: Node, value: Any) -> None:
        """Raise ValueError if a value read from a built object may not be used."""
        if fault := self.allowed.value_fault(value):
            raise ValueError(fault)
