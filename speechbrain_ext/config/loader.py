"""`load_recipe`: a strict front for HyperPyYAML. Everything is checked, then built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .build import BuildError, build
from .faults import COMMAND_LINE, ConfigError, Faults, Where, shown
from .flatten import config_hash, flatten
from .include import Includes
from .keys import TaskKeys, check_keys, declared_keys
from .overrides import (
    apply_overrides,
    parse_overrides,
    run_options,
    split_command_line,
)
from .presets import read_presets
from .references import Resolver
from .signatures import check_signatures
from .source import Node, dotted, read_source, walk


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe.

    Attributes
    ----------
    hparams : dict
        Top-level keys and their values, objects built; give it to
        ``speechbrain.Brain(hparams=...)``.
    run_opts : dict
        SpeechBrain's run options that were given; for ``Brain(run_opts=...)``.
    resolved_yaml : str
        Self-contained HyperPyYAML of the same objects: includes, presets and overrides
        are in it.
    config_hash : str
        SHA-256 over the resolved values, without where things are put (see
        `speechbrain_ext.config.flatten.config_hash`).
    path : Path
        The recipe's file.
    """

    hparams: dict[str, Any]
    run_opts: dict[str, Any]
    resolved_yaml: str
    config_hash: str
    path: Path


@dataclass
class Plan:
    """A recipe read and checked without importing what it names; not built yet.

    Attributes
    ----------
    name : str
        The recipe as a user would type it.
    path : Path
        The recipe's file.
    faults : Faults
        All that is wrong so far.
    root : Node or None
        The whole tree; None if the file could not be read.
    resolver : Resolver or None
        Of that tree.
    run_opts : dict
        Run options given.
    keys : TaskKeys or None
        Keys that the recipe's task declares; None if nothing declares any.
    """

    name: str
    path: Path
    faults: Faults = field(default_factory=Faults)
    root: Node | None = None
    resolver: Resolver | None = None
    run_opts: dict[str, Any] = field(default_factory=dict)
    keys: TaskKeys | None = None

    def raise_faults(self) -> None:
        """Raise `ConfigError` if there is any fault."""
        if self.faults:
            raise ConfigError(self.name, self.faults)


def plan_recipe(
    path: str | os.PathLike,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    presets: Sequence[str] = (),
    run_opts: Mapping[str, Any] | None = None,
    required: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> Plan:
    """Read a recipe and check all that can be checked without importing torch.

    Takes `load_recipe`'s arguments; never raises for what is in them, all faults are in
    the plan.
    """
    plan = Plan(shown(path), Path(path))
    try:
        _plan(plan, overrides, presets, run_opts or {}, required, optional)
    except RecursionError:
        plan.faults.add(Where(plan.name), "references or values nested too deeply")
    return plan


def _plan(plan: Plan, overrides, presets, run_opts, required, optional) -> None:
    faults = plan.faults
    includes = Includes(plan.path, faults)
    chosen = read_presets(presets, includes.root, faults)
    chosen += [*parse_overrides(dict(run_opts), faults)]
    chosen += parse_overrides(overrides, faults)
    plan.run_opts = run_options(chosen, faults)
    root = plan.root = read_source(plan.path, plan.name, faults)
    if root is None:
        return
    if root.tag:
        faults.add(root.where, f"{root.tag}: a recipe is a plain mapping at the top")
        return
    includes.expand(root, plan.path)
    apply_overrides(root, chosen, faults, plan.name)
    plan.resolver = Resolver(root, faults)
    _check_references(root, plan.resolver, faults)
    includes.check_passed(plan.resolver)
    plan.keys = _task_keys(root, required, optional, faults)
    check_keys(root, plan.keys, faults, plan.name)


def _task_keys(root: Node, required, optional, faults: Faults) -> TaskKeys | None:
    declared = declared_keys(root, faults)
    if not (required or optional):
        return declared
    declared = declared or TaskKeys()
    return TaskKeys(
        (*declared.required, *required),
        (*declared.optional, *optional),
        declared.reader,
    )


def _check_references(root: Node, resolver: Resolver, faults: Faults) -> None:
    """Open placeholders, broken and circular references, objects before the seed."""
    order = {id(node): i for i, (_, node) in enumerate(walk(root))}
    for path, node in walk(root):
        if node.tag == "!PLACEHOLDER":
            faults.add(
                node.where, f"{dotted(path)}: left open; set it: --{dotted(path)}=..."
            )
        elif node.tag in ("!ref", "!copy"):
            found = resolver.resolve(node)
            late = found.node is not None and order[id(found.node)] > order[id(node)]
            if node.tag == "!copy" and late:
                faults.add(
                    node.where,
                    f"{dotted(path)}: !copy {node.value} must stand below what it copies",
                )
        elif node.tag == "" and isinstance(node.value, str) and _like_tuple(node.value):
            faults.add(
                node.where,
                f"{dotted(path)}: HyperPyYAML reads a text in (...) as a tuple; "
                "write it without the outer brackets",
            )
    resolver.check_cycles()
    if not any("circular" in fault.message for fault in faults):
        _check_seed_first(root, resolver, faults)


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


def load_recipe(
    path: str | os.PathLike,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    presets: Sequence[str] = (),
    allow: Iterable[str] = (),
    run_opts: Mapping[str, Any] | None = None,
    required: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> Recipe:
    """Load a HyperPyYAML recipe strictly: check everything, report all, then build.

    Arguments
    ---------
    path : str or PathLike
        The recipe. Includes are confined to the project tree around it, or else to its
        own folder.
    overrides : Iterable[str] or Mapping
        Command-line words (``["--a.b=1", "--debug"]``) or dotted keys to values.
    presets : Sequence[str]
        Names in ``hparams/presets/`` or paths; applied before the overrides.
    allow : Iterable[str]
        Names of objects allowed beyond the list. There is no list yet: every importable
        name is accepted, so load recipes you trust only.
    run_opts : Mapping, optional
        Run options by name; those among the overrides win.
    required, optional : Iterable[str]
        Top-level keys that the caller reads, beside those that the module named by the
        recipe's ``task`` declares. Given either, any other key that no reference names
        is a fault.

    Returns
    -------
    Recipe
        Built in the order of the document.

    Raises
    ------
    ConfigError
        With every fault found, each with its file and line; nothing was built. Or with
        the one object whose constructor failed.

    Example
    -------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.yaml"
    >>> _ = file.write_text("seed: 1\\nbag: !new:collections.Counter {a: !ref <seed>}")
    >>> recipe = load_recipe(file, ["--seed=3", "--device=cpu"])
    >>> recipe.hparams["bag"], recipe.run_opts
    (Counter({'a': 3}), {'device': 'cpu'})
    """
    plan = plan_recipe(
        path,
        overrides,
        presets=presets,
        run_opts=run_opts,
        required=required,
        optional=optional,
    )
    if plan.root is not None:
        check_signatures(plan.root, plan.faults)
    plan.raise_faults()
    try:
        hparams = build(plan.root)
    except BuildError as error:
        plan.faults.add(error.where, str(error))
        raise ConfigError(plan.name, plan.faults) from error
    return Recipe(
        hparams=hparams,
        run_opts=plan.run_opts,
        resolved_yaml=flatten(plan.root, plan.resolver),
        config_hash=config_hash(plan.root),
        path=plan.path,
    )


def load_command_line(argv: Sequence[str], **kwargs: Any) -> Recipe:
    """Load the recipe that a script's arguments ask for.

    Arguments
    ---------
    argv : Sequence[str]
        ``sys.argv[1:]``: RECIPE.yaml, presets, keys and run options.
    **kwargs
        Passed to `load_recipe`.
    """
    faults = Faults()
    recipe, overrides, presets = split_command_line(argv, "train.py", faults)
    try:
        loaded = load_recipe(recipe, overrides, presets=presets, **kwargs)
    except ConfigError as error:
        raise ConfigError(error.recipe, [*faults, *error.faults]) from error
    if faults:
        raise ConfigError(recipe, faults)
    return loaded


__all__ = [
    "COMMAND_LINE",
    "Plan",
    "Recipe",
    "load_command_line",
    "load_recipe",
    "plan_recipe",
]
