"""What loading a recipe would do, told without doing it; torch is not imported."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .allowlist.judge import listed
from .allowlist.lists import BUILT_IN, CONSTANT
from .faults import COMMAND_LINE, Fault, Where, ordered, shown
from .loader import Plan, plan_recipe
from .places import WRITTEN_KEYS
from .tree import dotted, walk

#: keys under which the tasks' scripts read a file, beside those that end in _manifest
READ_KEYS = ("init_from",)


@dataclass(frozen=True)
class Item:
    """One thing that loading would do.

    Attributes
    ----------
    what : str
        A module, a name or a path.
    why : str
        What in the recipe asks for it: a key, or an argument.
    where : Where
        Where that is written.
    refused : str
        Why it would not be done; empty if it would.
    """

    what: str
    why: str
    where: Where
    refused: str = ""


@dataclass(frozen=True)
class Inspection:
    """What loading a recipe would do.

    Attributes
    ----------
    name : str
        The recipe as a user would type it.
    imports : tuple of str
        Modules; what these import themselves is not looked at.
    constructs, prepares, calls : tuple of Item
        ``!new:``; ``!name:`` and ``!module:``, kept to be used later; ``!apply:`` and
        ``!applyref:``.
    reads, writes, fetches : tuple of Item
        Files and folders; of ``fetches`` the URLs and names on a hub. They are used
        when an object is built, or by the script later on.
    sends : tuple of Item
        What a script sends to other machines because a key says so.
    refused : tuple of Fault
        What is not allowed, with the words that a person could type.
    faults : tuple of Fault
        What else is wrong with the recipe.
    """

    name: str
    imports: tuple[str, ...] = ()
    constructs: tuple[Item, ...] = ()
    prepares: tuple[Item, ...] = ()
    calls: tuple[Item, ...] = ()
    reads: tuple[Item, ...] = ()
    writes: tuple[Item, ...] = ()
    fetches: tuple[Item, ...] = ()
    sends: tuple[Item, ...] = ()
    refused: tuple[Fault, ...] = ()
    faults: tuple[Fault, ...] = ()

    def lines(self) -> list[str]:
        """Return what the command prints."""
        lines = [f"{self.name}: what loading would do (nothing was imported or built)"]
        lines += _block("imports", self.imports)
        for title, items in (
            ("constructs", self.constructs),
            ("prepares, to be called later", self.prepares),
            ("calls", self.calls),
            ("reads", self.reads),
            ("writes", self.writes),
            ("fetches from elsewhere, when a script asks for it", self.fetches),
            ("SENDS TO OTHER MACHINES, while it trains", self.sends),
        ):
            lines += _block(title, [self._told(item) for item in items])
        for title, faults in (
            ("refused", self.refused),
            ("wrong besides", self.faults),
        ):
            lines += _block(title, [f"{self._at(f)}{f.message}" for f in faults])
        if self.reads and not self.refused:  # else nothing was looked at
            lines.append("nothing is refused; this is no sandbox: read what it names")
        return lines

    def _told(self, item: Item) -> str:
        mark = "  REFUSED" if item.refused else ""
        return f"{self._at(item)}{item.why}: {item.what}{mark}"

    def _at(self, item: Item | Fault) -> str:
        """Return the place in front of a line; nothing for a whole file."""
        where = item.where
        if not where.line:
            return "" if where.file != COMMAND_LINE else f"{where}  "
        return f"line {where.line}  " if where.file == self.name else f"{where}  "

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""

        def plain(item: Item | Fault) -> dict[str, Any]:
            place = {"file": item.where.file, "line": item.where.line}
            if isinstance(item, Fault):
                return {"message": item.message, **place}
            said = {"what": item.what, "why": item.why, **place}
            return said | ({"refused": item.refused} if item.refused else {})

        items = ("constructs", "prepares", "calls")
        items += ("reads", "writes", "fetches", "sends")
        return {
            "recipe": self.name,
            "imports": list(self.imports),
            **{name: [plain(item) for item in getattr(self, name)] for name in items},
            "refused": [plain(fault) for fault in self.refused],
            "faults": [plain(fault) for fault in self.faults],
        }


def inspect_recipe(
    path: str | os.PathLike,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    presets: Sequence[str] = (),
    allow: Iterable[str] = (),
) -> Inspection:
    """Say what loading a recipe would import, build, call, read and write.

    Nothing of it is done. Inputs may stay open: a path that needs one shows its name,
    ``{output_folder}/save``.

    Arguments
    ---------
    path, overrides, presets, allow
        As for `speechbrain_ext.config.load_recipe`.

    Returns
    -------
    Inspection
        Its ``refused`` is empty if loading would refuse nothing.

    Example
    -------
    >>> inspect_recipe("no/such.yaml").faults[0].message
    'no such file'
    """
    plan = plan_recipe(path, overrides, presets=presets, allow=allow, open_inputs=True)
    if plan.guard is None:
        return Inspection(plan.name, faults=tuple(plan.faults))
    return _inspected(plan)


@dataclass
class _Found:
    """What is gathered on the way."""

    imports: dict[str, None] = field(default_factory=dict)
    items: dict[str, list[Item]] = field(default_factory=dict)

    def add(self, kind: str, item: Item) -> None:
        self.items.setdefault(kind, []).append(item)


_KINDS = {
    "!new": "constructs",
    "!name": "prepares",
    "!module": "prepares",
    "!apply": "calls",
    "!applyref": "calls",
}
_ROLES = {"write": "writes", "store": "writes", "read": "reads", "fetch": "fetches"}


def _inspected(plan: Plan) -> Inspection:
    found = _Found()
    for number, file in enumerate(plan.files):
        why = "included" if number else "recipe"
        found.add("reads", Item(shown(file), why, Where(shown(file))))
    for path, node in walk(plan.root):
        if node.target is None or node.tag.startswith("!include:"):
            continue
        tag = node.tag.partition(":")[0]
        refused = plan.guard.text_fault(node) or ""
        found.add(_KINDS[tag], Item(node.target, dotted(path), node.where, refused))
        if not refused:
            found.imports.update(dict.fromkeys(_modules(tag, node.target)))
    for use in plan.guard.places.uses():
        for value in use.values if use.role in _ROLES else ():
            if not isinstance(value, str):
                continue
            why = f"{use.argument} of {use.node.target}"
            direct = plan.guard.places.is_given(use)
            refused = plan.guard.places.fault(use.role, value, direct=direct) or ""
            item = Item(value, why, use.given.where, refused)
            found.add(_ROLES[use.role], item)
    if "task" in plan.root.value:
        _add_keys_of_tasks(found, plan)
    of_guard, faults = set(plan.guard.faults), ordered(plan.name, plan.faults)
    return Inspection(
        plan.name,
        imports=tuple(sorted(found.imports)),
        refused=tuple(fault for fault in faults if fault in of_guard),
        faults=tuple(fault for fault in faults if fault not in of_guard),
        **{kind: tuple(items) for kind, items in found.items.items()},
    )


def _add_keys_of_tasks(found: _Found, plan: Plan) -> None:
    """Add what the tasks' scripts do by themselves, as the recipe's keys say."""
    places = plan.guard.places

    def add(kind: str, key: str, what: Any, refused: str = "") -> None:
        if isinstance(what, str) and what:
            # Not in places.tree: there, what is open counts as given by a person.
            where = places.root.value[key].where
            found.add(kind, Item(what, f"key {key}", where, refused))

    folder = f"{places.experiment}"
    for key in places.tree.value:
        value = places.value_of(key)
        if key in READ_KEYS or key.endswith("_manifest"):
            add("reads", key, value)
        elif key == "output_folder":
            add("writes", key, value)
        elif key in WRITTEN_KEYS:
            add("writes", key, value, places.fault("write", value) or "")
        elif key == "tensorboard" and value is True:
            add("writes", key, f"{folder}/tensorboard")
        elif key == "wandb" and value != "disabled":
            add("writes", key, f"{folder}/wandb")
            if value != "offline":
                add(
                    "sends",
                    key,
                    f"losses, figures and settings, to W&B (wandb: {value})",
                )


def _modules(tag: str, name: str) -> list[str]:
    """Return the modules that a name is found in: as written, and its home."""
    home = listed(tag).get(name)
    if home is None:
        return [name if tag == "!module" else name.rpartition(".")[0] or "builtins"]
    modules = [name.rpartition(".")[0]]
    if home not in (BUILT_IN, CONSTANT) and "<locals>" not in home:
        modules.append(home.rpartition(".")[0])
    return modules


def _block(title: str, lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []
