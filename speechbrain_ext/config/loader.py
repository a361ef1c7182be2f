"""`load_recipe`: a strict front for HyperPyYAML. Everything is checked, then built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .build import BuildError, build
from .checks import check_references
from .command_line import (
    Override,
    parse_overrides,
    run_options,
    split_command_line,
)
from .faults import ConfigError, Faults, Where, shown
from .flatten import config_hash, flatten
from .include import Includes, recipe_root
from .keys import TaskKeys, check_keys, declared_keys
from .overrides import apply_overrides
from .presets import read_presets
from .references import Resolver
from .signatures import check_signatures
from .source import read_source
from .tree import Node


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
    presets : tuple of str
        Names of the presets that were applied, in order.
    """

    hparams: dict[str, Any]
    run_opts: dict[str, Any]
    resolved_yaml: str
    config_hash: str
    path: Path
    presets: tuple[str, ...] = ()


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
    open_inputs: bool = False,
) -> Plan:
    """Read a recipe and check all that can be checked without importing torch.

    Takes `load_recipe`'s arguments; never raises for what is in them, all faults are in
    the plan. With ``open_inputs`` placeholders may stay open: the recipe is looked at
    without its data.
    """
    plan = Plan(shown(path), Path(path))
    try:
        chosen = _overrides(plan, overrides, presets, run_opts or {})
        _plan(plan, chosen, (required, optional), open_inputs)
    except RecursionError:
        plan.faults.add(Where(plan.name), "references or values nested too deeply")
    return plan


def _overrides(plan: Plan, overrides, presets, run_opts) -> list[Override]:
    """Presets, then run options, then the command line."""
    chosen = read_presets(presets, recipe_root(plan.path), plan.faults)
    chosen += parse_overrides(dict(run_opts), plan.faults)
    chosen += parse_overrides(overrides, plan.faults)
    plan.run_opts = run_options(chosen, plan.faults)
    return chosen


def _plan(plan: Plan, chosen: list[Override], keys, open_inputs: bool) -> None:
    faults = plan.faults
    root = plan.root = read_source(plan.path, plan.name, faults)
    if root is None:
        return
    if root.tag:
        faults.add(root.where, f"{root.tag}: a recipe is a plain mapping at the top")
        return
    includes = Includes(plan.path, faults)
    includes.expand(root, plan.path)
    apply_overrides(root, chosen, faults)
    plan.resolver = Resolver(root, faults)
    check_references(root, plan.resolver, faults, open_inputs=open_inputs)
    includes.check_passed(plan.resolver)
    plan.keys = _task_keys(root, *keys, faults)
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
    r"""Load a HyperPyYAML recipe strictly: check everything, report all, then build.

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
    >>> _ = file.write_text("seed: 1\nbag: !new:collections.Counter {a: !ref <seed>}")
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
        presets=tuple(Path(str(name)).stem for name in presets),
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
