"""The lists as they are shipped: text files that a person can read and review.

``namespaces.txt``  drafted by ``draft.py``: what ``!new:`` and ``!name:`` may name
``exact.txt``       the same, outside the namespaces, by hand
``calls.txt``       what ``!apply:`` and ``!applyref:`` may call, by hand
``refused.tsv``     what is refused, and why, by hand
``arguments.tsv``   which arguments are places to write, read or fetch, by hand
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
#: allowed name -> where it is defined, "built in" or "a constant"
Names = dict[str, str]
#: names made in C++, which say of themselves too little
BUILT_IN = "built in"
CONSTANT = "a constant"

_HEAD = """\
# What !new: and !name: may name: a module, and below it its names.
# "Name = module.Other" is another name for what is defined there as Other.
# Drafted by python -m speechbrain_ext.config.allowlist.draft, and looked at by hand:
# what runs, imports, fetches, writes or loads a pickle is in refused.tsv instead.
"""


class Refusal(NamedTuple):
    """Why a name is refused.

    Attributes
    ----------
    reason : str
        What it does, to be put after its name.
    top : bool
        Whether a recipe may hold it at the top, for a script to call.
    """

    reason: str
    top: bool = False


class Place(NamedTuple):
    """An argument that names a file, a folder or a URL.

    Attributes
    ----------
    argument : str
        Its name.
    position : int or None
        Its position; None if it is given by name only.
    role : str
        "write", "store", "read", "fetch" or "word".
    """

    argument: str
    position: int | None
    role: str


def _lines(name: str) -> list[str]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@functools.cache
def read_names(*files: str) -> Mapping[str, str]:
    """Read lists such as ``namespaces.txt``: allowed name -> home."""
    names: Names = {}
    for file in files:
        module = ""
        for line in _lines(file):
            if not line.startswith(" "):
                module = line
                continue
            name, _, home = line.strip().partition(" = ")
            names[f"{module}.{name}"] = home or f"{module}.{name}"
    return names


def written(names: Names) -> str:
    """Write names as `read_names` reads them."""
    lines = [_HEAD.rstrip()]
    module = ""
    for name, home in sorted(names.items(), key=lambda item: item[0].rpartition(".")):
        owner, _, last = name.rpartition(".")
        if owner != module:
            lines.append(owner)
            module = owner
        lines.append(f"  {last}" + (f" = {home}" if home != name else ""))
    return "\n".join(lines) + "\n"


@functools.cache
def read_refusals() -> Mapping[str, Refusal]:
    """Read ``refused.tsv``: name, or ``name.*``, -> why."""
    refusals = {}
    for line in _lines("refused.tsv"):
        name, reason, *more = line.split("\t")
        refusals[name] = Refusal(reason, more == ["top"])
    return refusals


@functools.cache
def read_places() -> Mapping[str, tuple[Place, ...]]:
    """Read ``arguments.tsv``: home of a callable -> its arguments that are places."""
    places: dict[str, tuple[Place, ...]] = {}
    for line in _lines("arguments.tsv"):
        name, argument, position, role = line.split("\t")
        place = Place(argument, None if position == "-" else int(position), role)
        places[name] = (*places.get(name, ()), place)
    return places


def refusal_of(name: str, refusals: Mapping[str, Refusal]) -> Refusal | None:
    """Return why a name is refused; the longest entry that covers it counts."""
    if name in refusals:
        return refusals[name]
    prefix = name
    while prefix:
        if found := refusals.get(f"{prefix}.*"):
            return found
        prefix = prefix.rpartition(".")[0]
    return None
