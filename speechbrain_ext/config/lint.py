"""``speechbrain-ext check``: everything wrong with a recipe, before it is built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from speechbrain_ext.errors import UserError

from .allowlist.memory import RECIPE_FILE
from .allowlist.memory import remember as keep_allowed
from .command_line import LEFT_TO_US, split_command_line
from .faults import ConfigError, Fault, Faults, shown
from .loader import Plan, plan_recipe
from .tree import walk


def check_recipe(
    path: str | os.PathLike,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    presets: Sequence[str] = (),
    allow: Iterable[str] = (),
    signatures: bool = True,
    open_inputs: bool = False,
    fragment: bool = False,
) -> Plan:
    """Find all faults of a recipe; nothing is constructed, called or written.

    Arguments
    ---------
    path : str or PathLike
        The recipe.
    overrides, presets, allow
        As for `load_recipe`.
    signatures : bool
        Also import what ``!new:`` and ``!name:`` name and compare arguments: seconds
        where that is torch, while all else takes milliseconds and imports no torch.
    open_inputs : bool
        Accept placeholders that nothing fills.
    fragment : bool
        The file may be one object, as what an ``!include:`` names.

    Returns
    -------
    Plan
        Its ``faults`` are all faults, its ``root`` the checked tree.

    Example
    -------
    >>> plan = check_recipe("no/such.yaml")
    >>> [fault.message for fault in plan.faults]
    ['no such file']
    """
    plan = plan_recipe(
        path,
        overrides,
        presets=presets,
        allow=allow,
        open_inputs=open_inputs,
        fragment=fragment,
    )
    if signatures:
        plan.check_signatures()
    return plan


def summary(plan: Plan, *, signatures: bool) -> str:
    """One line for a recipe without faults: what was looked at and what was not."""
    nodes = [node for _, node in walk(plan.root)]
    objects = sum(node.target is not None for node in nodes)
    left_out = [] if signatures else ["signatures"]
    if plan.keys is None:
        left_out.append("unused and missing keys (the recipe names no task)")
    line = f"OK {plan.name}: {len(nodes) - 1} values, {objects} objects"
    return line + (f"; not checked: {', '.join(left_out)}" if left_out else "")


@click.command("check", context_settings=LEFT_TO_US)
@click.option("--static", is_flag=True, help="Without imports: no signatures, < 1 s.")
@click.option(
    "--remember",
    is_flag=True,
    help="Keep --allow for an experiment's hyperparams.yaml, for all its stages.",
)
@click.option(
    "--all",
    "whole_tree",
    is_flag=True,
    help="Every recipe, fragment, preset and egs of the tree around this folder.",
)
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="RECIPE [--key=v ...]"
)
def check(
    static: bool, remember: bool, whole_tree: bool, words: tuple[str, ...]
) -> None:
    """Report everything wrong with a recipe and its overrides, without building it.

    Takes what a training script takes: RECIPE.yaml, --preset NAME, --key=value, run
    options. Exit code 0 and a line that begins with OK, or 2 and all faults.
    """
    if whole_tree:
        check_tree(words, signatures=not static)
        return
    if not words:
        raise click.UsageError("name a recipe: speechbrain-ext check RECIPE.yaml")
    faults = Faults()
    given = split_command_line(words, "check", faults)
    plan = check_recipe(
        given.recipe,
        given.overrides,
        presets=given.presets,
        allow=given.allow,
        signatures=not static,
    )
    if faults or plan.faults:
        raise ConfigError(plan.name, [*faults, *plan.faults])
    if remember:
        _remember(plan)
    click.echo(summary(plan, signatures=not static))


def _remember(plan: Plan) -> None:
    """Keep what a person allows for an experiment that came from somewhere else."""
    if plan.path.name != RECIPE_FILE:
        raise UserError(
            f"check --remember {plan.name}: only the {RECIPE_FILE} of an experiment "
            "can be remembered; for a recipe give --allow with each command"
        )
    if not keep_allowed(plan.path.parent, plan.guard.allowed.extra):
        raise UserError(
            "check --remember: no place for a key in the home folder; set "
            "XDG_STATE_HOME to a folder of your own"
        )


def check_tree(words: Sequence[str], *, signatures: bool) -> None:
    """Print a line for each file of a tree; raise `ConfigError` if any is wrong.

    Arguments
    ---------
    words : Sequence[str]
        At most a folder in the tree, and ``--allow NAME``.
    signatures : bool
        As for `check_recipe`.
    """
    from .everything import check_everything, tree_of

    faults = Faults()
    folder = words[0] if words and not words[0].startswith("-") else "."
    rest = words[1:] if folder != "." else words
    given = split_command_line([folder, *rest], "check --all", faults)
    if given.overrides or given.presets or not Path(folder).is_dir():
        strange = [*given.overrides, *given.presets] or [folder]
        raise click.UsageError(
            f"check --all takes a folder and --allow NAME only, got {strange[0]}"
        )
    wrong: list[Fault] = list(faults)
    number = 0
    root = tree_of(Path(folder))
    for found in check_everything(root, signatures=signatures, allow=given.allow):
        number += 1
        problems = f"{len(found.faults)} problem{'s' * (len(found.faults) != 1)}"
        wrong += found.faults
        line = f"FAULT {found.name}: {problems}" if found.faults else f"OK {found.line}"
        click.echo(line)
    if wrong:
        raise ConfigError(shown(root), wrong)
    click.echo(f"OK {number} files in {shown(root)}")
