"""Options of the commands that open a model which may come from somebody else."""

from __future__ import annotations

import click

REVISION = click.option(
    "--revision", metavar="NAME", help="Of the Hub: a branch, tag or commit."
)
ALLOW = click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="A name that an export is built from, beyond the list; more with commas.",
)
