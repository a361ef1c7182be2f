"""What a path is, of all that can be shared; found out without importing torch."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import read_json

#: Says in an export folder what it is.
CONFIG = "config.json"
FORMAT = "speechbrain-ext export 1"

#: What a person should do with each kind; `{path}` is as they typed it.
_SAID = {
    "bundle": "is a bundle; make an experiment of it first: speechbrain-ext unpack "
    "{path} exp/NAME",
    "export": "is an export, a model without its experiment; look at it: "
    "speechbrain-ext verify {path}",
    "unpacked": "is an unpacked bundle; its recipe is {path}/recipe.yaml, and the file "
    "itself is looked at by: speechbrain-ext verify FILE.zip",
    "experiment": "is an experiment; its recipe is {path}/hyperparams.yaml, and one "
    "file of it is made by: speechbrain-ext pack {path}",
    "recipe": "is a recipe; train it first: ./run.sh --recipe {path}",
    "file": "is a file, but no recipe (.yaml) and no bundle (.zip); what there is: "
    "speechbrain-ext list experiments",
    "device": "is a device or pipe, and no file; what there is: speechbrain-ext list "
    "experiments",
    "folder": "is a folder, but no experiment (no hyperparams.yaml in it) and no "
    "export (no config.json of one); what there is: speechbrain-ext list experiments",
}


def kind_of(path: str | os.PathLike) -> str | None:
    """Find out what a path is.

    Arguments
    ---------
    path : str or PathLike
        What a person named.

    Returns
    -------
    str or None
        "bundle", "recipe", "export", "unpacked" (a bundle as a folder), "experiment",
        "file", "folder", "device"; None if there is nothing. Files go by their ending.

    Example
    -------
    >>> kind_of("/"), kind_of("/no/such.zip")
    ('folder', None)
    """
    path = Path(path)
    if path.is_dir():
        told = read_json(path / CONFIG).get("format") == FORMAT
        if told or all((path / name).is_file() for name in (CONFIG, "model.yaml")):
            return "export"  # whole or damaged
        if (path / "manifest.json").is_file() and (path / "recipe.yaml").is_file():
            return "unpacked"
        return "experiment" if (path / "hyperparams.yaml").is_file() else "folder"
    if not path.is_file():
        return "device" if path.exists() else None
    endings = {".zip": "bundle", ".yaml": "recipe", ".yml": "recipe"}
    return endings.get(path.suffix, "file")


def describe_kind(path: str | os.PathLike) -> str:
    """Say what a path is, and the command for that kind of thing.

    Arguments
    ---------
    path : str or PathLike
        Of something that is there.
    """
    said = _SAID[kind_of(path)].format(path=shlex.quote(str(path)))
    return f"{path} {said}"


def refuse_kinds(who: str, path: str | os.PathLike, *kinds: str) -> None:
    """Refuse a path that is one of these kinds.

    Raises
    ------
    UserError
        ``who``, what it is, and the command for that.
    """
    if kind_of(path) in kinds:
        raise UserError(f"{who}: {describe_kind(path)}")
