"""Which speech an experiment learned from, by the options of its ``run.sh``.

``run.sh`` keeps them in the experiment; a bundle has them in its manifest, and an
unpacked one keeps them again, so that the next command need not say them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from speechbrain_ext.files import write_text

#: Where ``run.sh`` remembers; see `speechbrain_ext.stages.memory`.
SETTINGS = Path(".stages", "settings")

NAME = re.compile(r"[a-z][a-z_]{0,39}", re.ASCII)
#: A word or a number: no folder, and nothing that a shell or a path could obey.
VALUE = re.compile(r"[A-Za-z0-9](?:\.?[A-Za-z0-9_+-]){0,39}", re.ASCII)

#: Said by whoever runs it: where their files lie, and the recipe that lies beside.
_NOT_SHARED = ("recipe", "data_folder", "datadir")


def data_settings(folder: Path, command: str = "") -> dict[str, str]:
    """Read what an experiment remembers of its speech, without folders.

    Arguments
    ---------
    folder : Path
        The experiment.
    command : str
        That was typed, for one that remembers nothing: its corpus is taken.

    Returns
    -------
    dict
        Option -> value, such as ``{"corpus": "festival", "num_test": "12"}``; empty if
        nothing is known.
    """
    try:
        text = (folder / SETTINGS).read_text(encoding="utf-8")
        found = dict(_pairs(text.splitlines()))
    except (OSError, UnicodeDecodeError):
        found = {}
    if found:
        return found
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    typed = dict(_pairs(word.removeprefix("--") for word in words))
    return {"corpus": typed["corpus"]} if "corpus" in typed else {}


def remember_data(folder: Path, settings: Mapping[str, str]) -> None:
    """Let ``run.sh`` recall these settings in an experiment; without any, do nothing.

    Arguments
    ---------
    folder : Path
        The experiment.
    settings : Mapping
        As a manifest has them, checked.
    """
    if settings:
        lines = (f"{name}={value}\n" for name, value in settings.items())
        write_text(folder / SETTINGS, "".join(lines))


def _pairs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition("=")
        value = f"0{value}" if value.startswith(".") else value  # .2 is a number, too
        whole = NAME.fullmatch(name) and VALUE.fullmatch(value)
        if whole and name not in _NOT_SHARED:
            yield name, value
