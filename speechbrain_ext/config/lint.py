"""``speechbrain-ext check``: everything wrong with a recipe, before it is built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from .command_line import split_command_line
from .faults import ConfigError, Faults
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
        path, overrides, presets=presets, allow=allow, open_inputs=open_inputs
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


@click.command(
    "check",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    },
)
@click.option("--static", is_flag=True, help="Without imports: no signatures, < 1 s.")
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="RECIPE [--key=v ...]"
)
def check(static: bool, words: tuple[str, ...]) -> None:
    """Report everything wrong with a recipe and its overrides, without building it.

    Takes what a training script takes: RECIPE.yaml, --preset NAME, --key=value, run
    options. Exit code 0 and a line that begins with OK, or 2 and all faults.
    """
    if not words:
        raise click.UsageError("name a recipe: speechbrain-ext check RECIPE.yaml")
    faults = Faults()
    recipe, overrides, presets = split_command_line(words, "check", faults)
    plan = check_recipe(recipe, overrides, presets=presets, signatures=not static)
    if faults or plan.faults:
        raise ConfigError(plan.name, [*faults, *plan.faults])
    click.echo(summary(plan, signatures=not static))
