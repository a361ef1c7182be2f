"""What a recipe says after presets and overrides, as a stage's record keeps it.

Compared by value, not by the text of its files: a comment or another order of keys
trains nothing anew, and a changed value is named wherever it was changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from speechbrain_ext.errors import UserError
from speechbrain_ext.ranges import range_faults
from speechbrain_ext.stages.plan import suggest
from speechbrain_ext.task_folders import task_fault


def resolved_settings(words: Sequence[str]) -> dict[str, str] | None:
    """Return dotted key -> value of a recipe, without where things are put.

    Arguments
    ---------
    words : Sequence[str]
        What a training script takes: RECIPE.yaml, presets, overrides.

    Returns
    -------
    dict[str, str] or None
        None if the recipe has faults: then only its text can be compared.
    """
    # Here, not above: a run.sh without a recipe needs neither ruamel nor click.
    from speechbrain_ext.config.dotted import dotted_values

    plan = _read(words)
    if plan.faults or plan.root is None:
        return None
    return dotted_values(plan.root)


def check_recipe(
    words: Sequence[str], *, options: Sequence[str] = (), task: str = ""
) -> None:
    """Raise `UserError` with everything wrong with a recipe and its overrides.

    Arguments
    ---------
    words : Sequence[str]
        As for `resolved_settings`.
    options : Sequence[str]
        Names of ``run.sh``'s own options: a misspelt one arrives here as an override.
    task : str
        The task that ``run.sh`` trains; "": any.
    """
    from speechbrain_ext.config.faults import ConfigError

    plan = _read(words)
    said = dict(plan.root.children()).get("task") if plan.root is not None else None
    # First of all: keys of another task are no typing errors.
    if task and said and (fault := task_fault(words[0], said.value, task)):
        raise UserError(f"run.sh: {fault}")
    if not plan.faults:
        faults = range_faults(_plain_values(plan.root))
        if faults:
            raise UserError("run.sh:\n  " + "\n  ".join(faults))
        return
    unknown = [re.match(r"--([\w.-]+): no key", f.message) for f in plan.faults]
    hints = [
        f"  --{name[1]}: or an option of run.sh{suggest(name[1], options, prefix='--')}"
        for name in unknown
        if name and suggest(name[1], options)
    ]
    raise UserError("\n".join([str(ConfigError(plan.name, plan.faults)), *hints]))


def _plain_values(root) -> dict:
    """Top-level values of a recipe that are written out: numbers, texts, lists."""

    def value(node):
        if node.kind == "list":
            return [child.value for child in node.value]
        return node.value

    return {
        key: value(node)
        for key, node in (root.children() if root is not None else ())
        if not node.tag and node.kind != "map"
    }


def _read(words: Sequence[str]):
    from speechbrain_ext.config.command_line import split_command_line
    from speechbrain_ext.config.faults import Faults
    from speechbrain_ext.config.loader import plan_recipe

    faults = Faults()
    given = split_command_line(words, "run.sh", faults)
    plan = plan_recipe(
        given.recipe, given.overrides, presets=given.presets, allow=given.allow
    )
    plan.faults.extend(faults)
    return plan
