"""The recipe in a bundle: one text, and open where it said where things are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain_ext.config.faults import Faults
from speechbrain_ext.config.flatten import VOLATILE, config_hash, flatten
from speechbrain_ext.config.loader import Plan, plan_recipe
from speechbrain_ext.config.references import Resolver
from speechbrain_ext.config.tree import PLACEHOLDER_TYPES, Node, walk
from speechbrain_ext.errors import UserError
from speechbrain_ext.sharing.bundle.privacy import PATH

#: Stands for an open value while references to it are written.
_OPEN = "__open_input_{}__"


class OpenRecipe(NamedTuple):
    """A recipe without its places.

    Attributes
    ----------
    text : str
        Self-contained HyperPyYAML; open inputs are ``!PLACEHOLDER``.
    config_hash : str
        Of that text, whatever the inputs are filled with.
    inputs : list of str
        Dotted names of the open inputs.
    task : str or None
        Last word of the recipe's ``task``.
    """

    text: str
    config_hash: str
    inputs: list[str]
    task: str | None


def plan_open(
    path: str | os.PathLike,
    overrides: Iterable[str] = (),
    *,
    presets: Sequence[str] = (),
    allow: Iterable[str] = (),
) -> Plan:
    """Read and check a recipe whose inputs may be open; nothing is imported or built.

    Raises
    ------
    ConfigError
        With all faults.
    """
    more = {"allow": tuple(allow)} if allow else {}
    plan = plan_recipe(path, overrides, presets=presets, open_inputs=True, **more)
    plan.raise_faults()
    return plan


def open_recipe(plan: Plan) -> OpenRecipe:
    """Write a recipe as one text and open what says where things are.

    Opened are top-level texts that name a folder or manifest, and those that are an
    absolute path.

    Arguments
    ---------
    plan : Plan
        Without faults; its tree is changed.

    Raises
    ------
    UserError
        If another value would change with an input, so that it can't be opened.
    """
    root = plan.root
    for key, node in root.value.items():
        if _names_a_place(str(key), node):
            root.value[key] = Node("scalar", "!PLACEHOLDER", None, node.where, "")
    hashed = config_hash(root)
    tags, inputs = {}, []
    for path, node in walk(root):
        if node.tag == "!PLACEHOLDER":
            mark = _OPEN.format(len(tags))
            tags[mark] = f"!PLACEHOLDER {node.text or ''}".rstrip()
            inputs.append(".".join(map(str, path)))
            node.tag, node.value, node.quoted = "", mark, False
            node.text = mark
    text = flatten(root, Resolver(root, Faults()))
    for mark, tag in tags.items():
        text = text.replace(f": {mark}\n", f": {tag}\n").replace(
            f"- {mark}\n", f"- {tag}\n"
        )
        if mark in text:
            line = next(line for line in text.splitlines() if mark in line)
            raise UserError(
                f"pack: {plan.name}: '{line.split(':')[0].strip()}' is computed from "
                "where things are, so the recipe can't be given to others; make it a "
                "!ref that stays one, or a value of its own"
            )
    task = root.value.get("task")
    named = task is not None and task.tag == "" and isinstance(task.value, str)
    return OpenRecipe(
        text, hashed, inputs, task.value.rpartition(".")[2] if named else None
    )


def _names_a_place(key: str, node: Node) -> bool:
    if node.tag or key == "tag":
        return False
    if VOLATILE.match(key):
        return node.kind != "scalar" or (
            isinstance(node.value, str) and node.value != ""
        )
    text = node.value if isinstance(node.value, str) else ""
    return text.startswith(("/", "~")) or PATH.fullmatch(text) is not None


def recipe_hash(path: str | os.PathLike, *, allow: Iterable[str] = ()) -> str:
    """Compute the config_hash of a recipe whose inputs may be open.

    Raises
    ------
    ConfigError
        If the recipe has faults.
    """
    return config_hash(plan_open(path, allow=allow).root)


def filled_recipe(path: Path, folder: str, *, allow: Iterable[str] = ()) -> str:
    """Fill what a bundle leaves open, as an experiment in ``folder`` needs it.

    ``output_folder`` is the folder, ``train_manifest`` is ``train.json`` (looked for
    beside the test manifest), all else is empty.

    Arguments
    ---------
    path : Path
        The bundle's recipe.
    folder : str
        Where the experiment shall be.

    Raises
    ------
    ConfigError
        If the recipe has faults.
    """
    plan = plan_open(path, allow=allow)
    for tree_path, node in walk(plan.root):
        if node.tag == "!PLACEHOLDER":
            node.tag, node.value = "", _filling(tree_path, node.text, folder)
            node.text, node.quoted = None, False
    return flatten(plan.root, Resolver(plan.root, Faults()))


def _filling(path: tuple, kind: str | None, folder: str) -> Any:
    name = str(path[-1])
    if path == ("output_folder",):
        return folder
    if name.endswith("_manifest"):
        return f"{name.removesuffix('_manifest')}.json"
    value = PLACEHOLDER_TYPES.get(kind or "", "")
    return "" if isinstance(value, list) else value
