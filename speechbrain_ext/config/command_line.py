"""The grammar of the command line: recipe, presets, keys of the recipe, run options.

``--a.b.c=v`` or ``--a.b.c v``; split at the first ``=``; ``--flag`` alone means true;
dashes and underscores in keys are the same; of two values for one key the last counts.
A word that belongs to no option is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain_ext.errors import UserError

from .faults import COMMAND_LINE, ConfigError, Faults, Where
from .run_options import RUN_OPTIONS, run_option_value
from .values import plain_value

USAGE = """usage: {program} RECIPE.yaml [--preset NAME ...] [--key=value ...] [options]

  --a.b=v          set a key of the recipe, at any depth; also: --a.b v
  --flag           the same as --flag=true
  --force_resume   go on in an experiment that was trained with other settings
  --preset NAME    a file of hparams/presets/, or a path; applied before --key=value
  --allow NAME     let the recipe name this too: my.Net, or my.models.* for all below
  options          SpeechBrain's run options: --device cpu, --debug, ..."""

#: how click leaves what follows a command's own options to us
LEFT_TO_US = {
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": ["-h", "--help"],
}


@dataclass(frozen=True)
class Override:
    """One value for one key, not yet held against a recipe.

    Attributes
    ----------
    name : str
        Dotted key, as typed.
    where : Where
        The command line, or the line of a preset.
    text : str or None
        The value as typed; None for a bare flag or where ``value`` holds it.
    value : Any
        A Python value (from a preset or a dict); True for a bare flag.
    factor : float or None
        From a preset: the recipe's number is multiplied by it.
    """

    name: str
    where: Where
    text: str | None = None
    value: Any = None
    factor: float | None = None

    @property
    def label(self) -> str:
        """The key as the user finds it again."""
        return f"--{self.name}" if self.where.file == COMMAND_LINE else self.name


class CommandLine(NamedTuple):
    """What a training script was asked for.

    Attributes
    ----------
    recipe : Path
        The recipe's file.
    overrides : list of str
        Left for `load_recipe`: keys of the recipe and run options.
    presets : list of str
        Names or paths, in the order given.
    run_opts : dict
        SpeechBrain's run options among the overrides, checked.
    allow : list of str
        Names that a person allows beyond the list.
    """

    recipe: Path
    overrides: list[str]
    presets: list[str]
    run_opts: dict[str, Any]
    allow: list[str] = []


class Words(NamedTuple):
    """A command line, taken apart and not yet understood.

    Attributes
    ----------
    recipe : str
        The first word.
    overrides : list of str
        Keys of the recipe and run options, as typed.
    presets, allow : list of str
        Values of ``--preset`` and ``--allow``, in order.
    """

    recipe: str
    overrides: list[str]
    presets: list[str]
    allow: list[str]


def parse_command_line(argv: Sequence[str], program: str = "train.py") -> CommandLine:
    """Split a script's arguments into recipe, overrides, presets and run options.

    Arguments
    ---------
    argv : Sequence[str]
        Without the script's own name, e.g. ``sys.argv[1:]``.
    program : str
        Name for the usage line.

    Returns
    -------
    CommandLine
        Its overrides still hold the run options: `load_recipe` sets a YAML key of the
        same name too.

    Raises
    ------
    ConfigError
        Naming every argument that cannot be understood.

    Example
    -------
    >>> parse_command_line(["a.yaml", "--seed", "3", "--debug", "--preset=safe"])[1:]
    (['--seed', '3', '--debug'], ['safe'], {'debug': True}, [])
    """
    faults = Faults()
    recipe, kept, presets, allow = split_command_line(argv, program, faults)
    run_opts = run_options(parse_overrides(kept, faults), faults)
    if faults:
        raise ConfigError(recipe, faults)
    return CommandLine(Path(recipe), kept, presets, run_opts, allow)


def split_command_line(argv: Sequence[str], program: str, faults: Faults) -> Words:
    """Take recipe, overrides, presets and allowed names apart; collect grammar faults.

    Raises
    ------
    ConfigError
        If there is no recipe to go on with.
    """
    words = [str(word) for word in argv]
    if not words or words[0] in ("-h", "--help"):
        print(USAGE.format(program=program))
        sys.exit(0 if words else 2)
    if words[0].startswith("-"):
        faults.add(
            Where(COMMAND_LINE),
            f"{words[0]}: the recipe comes first: {program} RECIPE.yaml --key=value",
        )
        raise ConfigError(program, faults)
    ours: dict[str, list[str]] = {"--preset": [], "--allow": []}
    kept: list[str] = []
    rest = words[1:]
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option not in ours:
            kept.append(word)
        elif value:
            ours[option].append(value)
        elif not equals and rest and not rest[0].startswith("-"):
            ours[option].append(rest.pop(0))
        else:
            faults.add(Where(COMMAND_LINE), f"{option}: needs a name")
    return Words(words[0], kept, ours["--preset"], ours["--allow"])


def parse_overrides(
    overrides: Iterable[str] | Mapping[str, Any], faults: Faults
) -> list[Override]:
    """Read command-line words, or a dict of dotted keys, into `Override` s.

    Example
    -------
    >>> [o] = parse_overrides(["--url=http://a/b?x=1&y=2"], Faults())
    >>> o.name, o.text
    ('url', 'http://a/b?x=1&y=2')
    """
    where = Where(COMMAND_LINE)
    if isinstance(overrides, str):
        overrides = [overrides]
    if isinstance(overrides, Mapping):
        return [
            Override(name, where, value=value)
            for name, value in flattened(overrides, where, faults)
        ]
    parsed: list[Override] = []
    rest = [str(word) for word in overrides]
    while rest:
        word = rest.pop(0)
        name, equals, text = word[2:].partition("=")
        if not word.startswith("--") or not name.strip(".") or " " in name:
            faults.add(where, f"{word!r}: an argument must look like --key=value")
        elif equals:
            parsed.append(Override(name, where, text))
        elif RUN_OPTIONS.get(folded(name)) is list:
            parsed.append(Override(name, where, value=_following(rest)))
        elif (
            RUN_OPTIONS.get(folded(name)) is not bool
            and rest
            and not rest[0].startswith("--")
        ):
            parsed.append(Override(name, where, rest.pop(0)))
        else:
            parsed.append(Override(name, where, value=True))
    return parsed


def _following(rest: list[str]) -> list[str]:
    words = []
    while rest and not rest[0].startswith("--"):
        words.append(rest.pop(0))
    return words


def flattened(
    tree: Mapping, where: Where, faults: Faults, prefix: str = ""
) -> list[tuple[str, Any]]:
    """Nested mappings as pairs of dotted key and value."""
    pairs = []
    for key, value in tree.items():
        if not isinstance(key, str):
            faults.add(where, f"{prefix}{key!r}: a key must be a text")
        elif isinstance(value, Mapping):
            pairs += flattened(value, where, faults, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, value))
    return pairs


def take_flag(argv: Sequence[str], name: str) -> tuple[list[str], bool]:
    """Take a script's own flag out of its arguments.

    Returns
    -------
    list of str
        The other arguments.
    bool
        Whether the flag was there; of several the last counts.

    Raises
    ------
    UserError
        If its value is neither true nor false.

    Example
    -------
    >>> take_flag(["a.yaml", "--force-resume", "--seed=1"], "force_resume")
    (['a.yaml', '--seed=1'], True)
    """
    rest, found = [], False
    for word in argv:
        key, equals, value = word.partition("=")
        if not key.startswith("--") or folded(key[2:]) != name:
            rest.append(word)
        elif equals and value not in ("true", "false"):
            raise UserError(f"--{name}: is true or false, not {value!r}")
        else:
            found = value != "false"
    return rest, found


def names_of(allow: Iterable[str]) -> list[str]:
    """Take the values of ``--allow`` apart, which may have commas.

    Example
    -------
    >>> names_of(["a.B,c.D", "e.F"])
    ['a.B', 'c.D', 'e.F']
    """
    return [name for text in allow for name in text.split(",") if name]


def folded(name: str) -> str:
    """Return a key with underscores for dashes."""
    return name.replace("-", "_")


def run_options(overrides: Iterable[Override], faults: Faults) -> dict[str, Any]:
    """Pick SpeechBrain's run options out of the overrides, by exact name."""
    chosen = {}
    for override in overrides:
        name = folded(override.name)
        if name not in RUN_OPTIONS:
            continue
        if override.factor is not None:
            # The recipe's key is multiplied; an option from before it has to follow.
            if isinstance(chosen.get(name), (int, float)):
                chosen[name] *= override.factor
            continue
        try:
            chosen[name] = run_option_value(name, _run_option_given(name, override))
        except (ValueError, OverflowError) as reason:
            faults.add(override.where, f"{override.label}: {reason}")
    return chosen


def _run_option_given(name: str, override: Override) -> Any:
    if override.text is None:
        if override.value is True and RUN_OPTIONS[name] is not bool:
            raise ValueError("needs a value")
        return override.value
    if RUN_OPTIONS[name] is str or isinstance(RUN_OPTIONS[name], tuple):
        if not override.text:
            raise ValueError("needs a value")
        return override.text
    return plain_value(override.text)
