"""``speechbrain-ext inspect``: what a recipe would do, before it does it."""

from __future__ import annotations

import json

import click

from .command_line import LEFT_TO_US, split_command_line
from .faults import ConfigError, Faults
from .inspection import inspect_recipe


@click.command("inspect", context_settings=LEFT_TO_US)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="RECIPE [--key=v ...]"
)
def inspect(as_json: bool, words: tuple[str, ...]) -> int:
    """Print what loading a recipe would import, build, call, read and write.

    Nothing of it is done. Exit code 2 if something of it is refused.
    """
    if not words:
        raise click.UsageError("name a recipe: speechbrain-ext inspect RECIPE.yaml")
    if "--json" in words:  # behind the recipe too, where a key may be expected
        words, as_json = tuple(word for word in words if word != "--json"), True
    faults = Faults()
    given = split_command_line(words, "inspect", faults)
    if faults:
        raise ConfigError(given.recipe, faults)
    found = inspect_recipe(
        given.recipe, given.overrides, presets=given.presets, allow=given.allow
    )
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(found.lines()))
    return 2 if found.refused or found.faults else 0
