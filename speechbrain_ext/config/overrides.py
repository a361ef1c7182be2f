"""Overrides: the grammar of the command line, and putting values into a tree.

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

from .faults import COMMAND_LINE, ConfigError, Faults, Where, did_you_mean, nearest
from .references import Resolver
from .run_options import RUN_OPTIONS, run_option_value
from .source import TARGET_TAGS, Node, Path_, dotted, walk
from .values import TEXT_KEY, plain_value, typed_text, typed_value, value_node

USAGE = """usage: {program} RECIPE.yaml [--preset NAME ...] [--key=value ...] [run options]

  --a.b=v          set a key of the recipe, at any depth; also: --a.b v
  --flag           the same as --flag=true
  --preset NAME    a file of hparams/presets/, or a path; applied before --key=value
  run options      SpeechBrain's: --device cpu, --precision bf16, --debug, ..."""


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
    """

    name: str
    where: Where
    text: str | None = None
    value: Any = None

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
    """

    recipe: Path
    overrides: list[str]
    presets: list[str]
    run_opts: dict[str, Any]


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
    (['--seed', '3', '--debug'], ['safe'], {'debug': True})
    """
    faults = Faults()
    recipe, kept, presets = split_command_line(argv, program, faults)
    run_opts = run_options(parse_overrides(kept, faults), faults)
    if faults:
        raise ConfigError(recipe, faults)
    return CommandLine(Path(recipe), kept, presets, run_opts)


def split_command_line(
    argv: Sequence[str], program: str, faults: Faults
) -> tuple[str, list[str], list[str]]:
    """Recipe, overrides as typed, and presets; grammar faults are collected.

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
    presets: list[str] = []
    kept: list[str] = []
    rest = words[1:]
    while rest:
        word = rest.pop(0)
        if word == "--preset" and rest and not rest[0].startswith("-"):
            presets.append(rest.pop(0))
        elif word.startswith("--preset=") and word != "--preset=":
            presets.append(word.partition("=")[2])
        elif word in ("--preset", "--preset="):
            faults.add(Where(COMMAND_LINE), "--preset: needs a name")
        else:
            kept.append(word)
    return words[0], kept, presets


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
        elif RUN_OPTIONS.get(_folded(name)) is list:
            parsed.append(Override(name, where, value=_following(rest)))
        elif (
            RUN_OPTIONS.get(_folded(name)) is not bool
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


def _folded(name: str) -> str:
    return name.replace("-", "_")


def run_options(overrides: Iterable[Override], faults: Faults) -> dict[str, Any]:
    """Pick SpeechBrain's run options out of the overrides, by exact name."""
    chosen = {}
    for override in overrides:
        name = _folded(override.name)
        if name not in RUN_OPTIONS:
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


def apply_overrides(
    root: Node, overrides: Iterable[Override], faults: Faults, recipe: str
) -> None:
    """Put values into a tree, in order; every one that does not fit is a fault.

    Arguments
    ---------
    root : Node
        Changed in place; includes are expanded.
    overrides : Iterable[Override]
        Presets first, then the command line.
    faults : Faults
        Grows by what does not fit.
    recipe : str
        Name of the recipe for messages.
    """
    resolver = Resolver(root, Faults())
    for override in overrides:
        try:
            parent, key, path = _find(root, override, recipe)
            current = parent.value[key]
            value = _value(override, key, current, resolver)
        except KeyError as reason:
            if reason.args[0] is not None:
                faults.add(override.where, f"{override.label}: {reason.args[0]}")
        except (ValueError, OverflowError) as reason:
            faults.add(override.where, f"{override.label}: {reason}")
        else:
            node = value_node(value, override.where)
            parent.value[key] = node
            # Values found before may have been followed through the replaced node.
            resolver = Resolver(root, Faults())


def _find(root: Node, override: Override, recipe: str) -> tuple[Node, Any, Path_]:
    """Return parent, key and path; KeyError(None) for a run option without a key."""
    section, path = root, ()
    parts = override.name.split(".")
    for depth, part in enumerate(parts):
        if section.tag in ("!ref", "!copy"):
            other = section.value.strip("<>").replace("[", ".").replace("]", "")
            raise KeyError(
                f"{dotted(path)} is a reference to {other} ({section.where}); "
                f"set --{other}.{'.'.join(parts[depth:])}"
            )
        if section.kind != "map":
            what = "an empty object" if section.target else f"a {section.kind}"
            raise KeyError(f"{dotted(path)} is {what} without keys ({section.where})")
        key = _matching(part, section.value)
        if key is None:
            if depth == 0 and len(parts) == 1 and _folded(part) in RUN_OPTIONS:
                raise KeyError(None)
            raise KeyError(_unknown(root, section, path, part, parts, depth, recipe))
        path = (*path, key)
        if depth + 1 < len(parts):
            section = section.value[key]
    return section, path[-1], path


def _matching(part: str, entries: Mapping) -> Any:
    if part in entries:
        return part
    for key in entries:
        if str(key) == part or str(key).replace("-", "_") == _folded(part):
            return key
    return None


def _unknown(root, section, path, part, parts, depth, recipe) -> str:
    """Name the nearest key, here or anywhere else in the tree, and the section."""
    place = f" in {dotted(path)} ({section.where})" if path else ""
    known = list(section.value)
    if not path:
        known += RUN_OPTIONS if len(parts) == 1 else []
    message = f"no key '{part}'{place}"
    if not nearest(part, [key for key in known if isinstance(key, str)]):
        wanted = _folded(parts[-1])
        elsewhere = [
            dotted(other)
            for other, node in walk(root)
            if len(other) > 1 and other[-1] == wanted and node.target is None
        ]
        if elsewhere:
            options = " or ".join(f"--{name}" for name in elsewhere[:3])
            return f"{message}; did you mean {options}?"
    if not path:
        hint = nearest(part, [key for key in known if isinstance(key, str)])
        if hint in section.value:
            line = section.value[hint].where
            return f"{message}; did you mean '{hint}' ({line})?"
        if hint is None:
            return f"{message} in {recipe}" + did_you_mean(part, section.value)
    return message + did_you_mean(part, known)


def _value(override: Override, key: Any, current: Node, resolver: Resolver) -> Any:
    """Hold an override to what the YAML has there now."""
    if current.target is not None and not current.tag.startswith("!applyref:"):
        raise ValueError(
            f"is the object {current.tag} ({current.where}); set one of its arguments: "
            + _arguments(override, current)
        )
    if current.kind == "map":
        raise ValueError(
            f"is a section ({current.where}); set one of its keys: "
            + _arguments(override, current)
        )
    known = _current(key, current, resolver)
    given, text = override.value, override.text
    try:
        if text is not None:
            if isinstance(known, str):
                refuse_tags(text)
            elif not text.strip():
                raise ValueError("needs a value")
            return typed_text(text, known)
        if isinstance(given, Path):
            given = str(given)
        if given is True and not isinstance(known, bool) and known is not None:
            raise ValueError("needs a value; only a true/false key may stand alone")
        _check_plain(given)
        return typed_value(given, known)
    except ValueError as reason:
        raise ValueError(f"{reason} ({current.where})") from None


def _current(key: Any, node: Node, resolver: Resolver) -> Any:
    """Value that the YAML has now, as an example of the wanted type; None if open."""
    if node.tag == "!PLACEHOLDER":
        if node.text:
            return {"text": "", "int": 0, "float": 0.0, "bool": False, "list": []}[
                node.text
            ]
        return "" if TEXT_KEY.search(str(key)) else None
    found = resolver.resolve(node)
    if found.kind == "node" and found.node.target is not None:
        raise ValueError(f"is the object {found.node.tag}")
    if found.kind == "node" and found.node.kind == "list":
        return [resolver.resolve(item).value for item in found.node.value]
    if found.kind == "node":
        raise ValueError("is a section")
    return found.value


def refuse_tags(text: str) -> None:
    """Refuse a text that looks like a HyperPyYAML tag, though it would stay a text."""
    if text.startswith(("!!", "!ref ", "!copy ", "!include:", *TARGET_TAGS)):
        raise ValueError("tags are refused in a value")


def _check_plain(value: Any) -> None:
    if isinstance(value, str):
        refuse_tags(value)
        return
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if not (item is None or isinstance(item, (bool, int, float, str))):
            raise ValueError(
                f"must be a number, text, true/false, null or a list of them; got a "
                f"{type(item).__name__}"
            )


def _arguments(override: Override, node: Node) -> str:
    if node.kind != "map" or not node.value:
        return "it has none in the YAML"
    return ", ".join(f"--{override.name}.{key}" for key in list(node.value)[:4])
