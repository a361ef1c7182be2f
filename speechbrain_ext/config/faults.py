"""Faults of a configuration, collected first and told together."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from speechbrain_ext.errors import UserError

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Where:
    """Place of a piece of configuration: a file and line, or the command line.

    Attributes
    ----------
    file : str
        Path as a user would type it, or `COMMAND_LINE`.
    line : int
        First line is 1; 0 where a line means nothing.
    """

    file: str
    line: int = 0

    def __str__(self) -> str:
        """Return the place as messages show it."""
        return f"{self.file} line {self.line}" if self.line else self.file


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where."""

    where: Where
    message: str


class ConfigError(UserError):
    """Everything that is wrong with one recipe and its overrides; exit code 2.

    Arguments
    ---------
    recipe : str
        The recipe as the user named it.
    faults : Iterable[Fault]
        At least one fault.

    Example
    -------
    >>> print(ConfigError("a.yaml", [Fault(Where("a.yaml", 3), "x: unknown key")]))
    config error (1 problem) in a.yaml
      line 3  x: unknown key
    """

    def __init__(self, recipe: str, faults: Iterable[Fault]):
        self.recipe = recipe
        self.faults = ordered(recipe, faults)
        count = len(self.faults)
        lines = [
            f"config error ({count} problem{'s' * (count != 1)}) in {recipe}",
            *(f"  {_place(recipe, f.where)}  {f.message}" for f in self.faults),
        ]
        super().__init__("\n".join(lines))


def ordered(recipe: str, faults: Iterable[Fault]) -> list[Fault]:
    """Drop repeats; put the recipe's own first, then other files, then the rest."""

    def rank(fault: Fault) -> tuple:
        where = fault.where
        group = 0 if where.file == recipe else 1 if where.line else 2
        return group, where.file if group == 1 else "", where.line

    return sorted(dict.fromkeys(faults), key=rank)


def _place(recipe: str, where: Where) -> str:
    if where.file == recipe:
        return f"line {where.line}" if where.line else "whole file"
    return str(where)


#: faults told together; a text with more of them is no recipe with mistakes
MAX_FAULTS = 100
MAX_NAMES = 500
MAX_MESSAGE = 800


class TooManyFaultsError(Exception):
    """There is no use in looking on."""


class Faults(list):
    """A growing list of `Fault`; `add` is a shorthand."""

    def add(self, where: Where, message: str) -> None:
        """Note one fault; line breaks of foreign messages are folded.

        Raises
        ------
        TooManyFaultsError
            If there are `MAX_FAULTS` already.
        """
        if len(self) >= MAX_FAULTS:
            raise TooManyFaultsError
        message = " ".join(message.split("\n"))
        if not message.isprintable():
            # A message shall not steer the terminal it is shown on.
            message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        if len(message) > MAX_MESSAGE:
            message = f"{message[: MAX_MESSAGE - 200]} ... {message[-200:]}"
        self.append(Fault(where, message))


def did_you_mean(name: str, known: Iterable[object], ending: str = "") -> str:
    """Say which known names are nearest, or list them if there are few.

    Arguments
    ---------
    name : str
        What was typed.
    known : Iterable
        Names that would have been right; others than text are ignored.
    ending : str
        Put after the names, e.g. "at line 3".

    Returns
    -------
    str
        "; did you mean 'x'?", "; known: a, b" or nothing, to be put after a message.

    Example
    -------
    >>> did_you_mean("lernin_rate", ["seed", "learning_rate"])
    "; did you mean 'learning_rate'?"
    """
    names = list(dict.fromkeys(key for key in known if isinstance(key, str)))
    names = names[:MAX_NAMES]  # comparing takes time
    ending = ending and f" {ending}"
    if near := nearest(name, names):
        return f"; did you mean '{near}'{ending}?"
    if 0 < len(names) <= 8:
        return f"; known: {', '.join(names)}{ending}"
    return ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None if none is much like it."""
    folded = {}
    for candidate in known:
        folded.setdefault(candidate.replace("-", "_").lower(), candidate)
    wanted = name.replace("-", "_").lower()[:100]
    # Two letters swapped in a short name leave little in common.
    cutoff = 0.6 if len(wanted) <= 5 else 0.7
    near = difflib.get_close_matches(wanted, folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def shown(path: str | os.PathLike) -> str:
    """Path as a user would type it: relative where that is shorter and below here."""
    path = Path(path)
    if not path.is_absolute():
        return str(path)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
