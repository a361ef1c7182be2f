"""`load_recipe`: a strict front for HyperPyYAML. Everything is checked, then built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .allowlist import AllowList
from .allowlist.memory import RECIPE_FILE, remembered
from .build import BuildError, build
from .checks import check_references
from .command_line import (
    Override,
    parse_overrides,
    run_options,
    split_command_line,
)
from .faults import ConfigError, Fault, Faults, TooManyFaultsError, Where, shown
from .flatten import config_hash, flatten
from .include import Includes, recipe_root
from .keys import TaskKeys, check_keys, declared_keys
from .overrides import apply_overrides
from .presets import read_presets
from .references import Resolver
from .signatures import check_signatures
from .source import read_source
from .tree import Node, walk
from .trust import Guard


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
    allow : tuple of str
        Names that a person allowed beyond the list.
    """

    hparams: dict[str, Any]
    run_opts: dict[str, Any]
    resolved_yaml: str
    config_hash: str
    path: Path
    presets: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


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
    guard : Guard or None
        What the recipe may name and where it may write; None if it could not be read.
    files : list of Path
        The recipe and what it includes.
    """

    name: str
    path: Path
    faults: Faults = field(default_factory=Faults)
    root: Node | None = None
    resolver: Resolver | None = None
    run_opts: dict[str, Any] = field(default_factory=dict)
    keys: TaskKeys | None = None
    guard: Guard | None = None
    files: list[Path] = field(default_factory=list)

    def check_signatures(self) -> None:
        """Add the faults that only importing what the recipe names can find."""
        if self.guard is None:
            return
        try:
            check_signatures(self.root, self.faults, self.guard)
        except TooManyFaultsError:
            pass

    def raise_faults(self) -> None:
        """Raise `ConfigError` if there is any fault."""
        if self.faults:
            raise ConfigError(self.name, self.faults)


def plan_recipe(
    path: str | os.PathLike,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    presets: Sequence[str] = (),
    allow: Iterable[str] = (),
    run_opts: Mapping[str, Any] | None = None,
    required: Iterable[str] = (),
    optional: Iterable[str] = (),
    open_inputs: bool = False,
    fragment: bool = False,
    only_read: bool = False,
) -> Plan:
    """Read a recipe and check all that can be checked without importing torch.

    Takes `load_recipe`'s arguments; never raises for what is in them, all faults are in
    the plan. With ``open_inputs`` placeholders may stay open: the recipe is looked at
    without its data. With ``fragment`` the file may be one object, as what an
    ``!include:`` names. With ``only_read`` it may name what it wants: it will be
    compared or shown, and never be built.
    """
    plan = Plan(shown(path), Path(path))
    try:
        allowed = AllowList([*AllowList(allow).extra, *remembered(plan.path)])
        chosen = _overrides(plan, overrides, presets, run_opts or {})
        plan.root = read_source(plan.path, plan.name, plan.faults)
        if plan.root is not None and plan.root.tag and fragment:
            plan.root = _below_a_key(plan.root)
        checked = None if only_read else allowed
        _plan(plan, chosen, (required, optional), open_inputs, checked)
    except RecursionError:
        plan.faults.add(Where(plan.name), "references or values nested too deeply")
    except TooManyFaultsError:
        plan.faults[-1] = Fault(Where(plan.name), "too many faults to tell them all")
    return plan


def _overrides(plan: Plan, overrides, presets, run_opts) -> list[Override]:
    """Presets, then run options, then the command line."""
    chosen = read_presets(presets, recipe_root(plan.path), plan.faults)
    chosen += parse_overrides(dict(run_opts), plan.faults)
    chosen += parse_overrides(overrides, plan.faults)
    plan.run_opts = run_options(chosen, plan.faults)
    return chosen


def _plan(
    plan: Plan,
    chosen: list[Override],
    keys,
    open_inputs: bool,
    allowed: AllowList | None,
) -> None:
    faults, root = plan.faults, plan.root
    if root is None:
        return
    if root.tag:
        faults.add(root.where, f"{root.tag}: a recipe is a plain mapping at the top")
        return
    includes = Includes(plan.path, faults)
    includes.expand(root, plan.path)
    plan.files = list(dict.fromkeys(includes.files))
    apply_overrides(root, chosen, faults)
    plan.resolver = Resolver(root, faults)
    check_references(root, plan.resolver, faults, open_inputs=open_inputs)
    includes.check_passed(plan.resolver)
    if allowed is not None:
        plan.guard = Guard(root, plan.resolver, plan.path, allowed)
        plan.guard.check_text(faults)
        _explain_experiment(plan)
    plan.keys = _task_keys(root, *keys, faults)
    check_keys(root, plan.keys, faults, plan.name)


def _explain_experiment(plan: Plan) -> None:
    """Say how names are allowed for an experiment, whose stages take no --allow."""
    if plan.guard.names_refused and plan.path.name == RECIPE_FILE:
        plan.faults.add(
            Where(plan.name),
            "belongs to an experiment for which nobody here allowed these names; to "
            "allow them for all its stages: speechbrain-ext check --remember "
            f"{plan.name} --allow NAME",
        )


def _below_a_key(root: Node) -> Node:
    """Put a fragment that is one object where an include would put it."""
    for _, node in walk(root):
        node.scope = ("fragment",)
    return Node("map", "", {"fragment": root}, root.where)


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
        Names that the recipe may use beyond the list: ``my_models.Net``, or
        ``my_models.*`` for all below a module. Only a person allows: nothing that the
        recipe says extends the list. It is no sandbox.
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
    >>> options = ["--seed=3", "--device=cpu"]
    >>> recipe = load_recipe(file, options, allow=["collections.Counter"])
    >>> recipe.hparams["bag"], recipe.run_opts
    (Counter({'a': 3}), {'device': 'cpu'})
    """
    plan = plan_recipe(
        path,
        overrides,
        presets=presets,
        allow=allow,
        run_opts=run_opts,
        required=required,
        optional=optional,
    )
    plan.check_signatures()
    plan.raise_faults()
    try:
        hparams = build(plan.root, plan.guard)
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
        allow=plan.guard.allowed.extra,
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
    words = split_command_line(argv, "train.py", faults)
    recipe = words.recipe
    try:
        loaded = load_recipe(
            recipe, words.overrides, presets=words.presets, allow=words.allow, **kwargs
        )
    except ConfigError as error:
        raise ConfigError(error.recipe, [*faults, *error.faults]) from error
    if faults:
        raise ConfigError(recipe, faults)
    return loaded
