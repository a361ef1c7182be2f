"""What can be compared: each kind of thing is opened as a `Side`.

A new kind (a bundle, say) needs one more entry in `OPENERS`, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechbrain_ext.config.dotted import settings_of
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import read_json
from speechbrain_ext.report.headline import peek_results
from speechbrain_ext.resume.history import read_data_record, read_history
from speechbrain_ext.sharing.kinds import refuse_kinds


@dataclass(frozen=True)
class Side:
    """One of two things that are compared; what it does not have is None.

    Arguments
    ---------
    name : str
        As the user typed it.
    kind : str
        ``experiment``, ``recipe``, ``results`` ...
    settings : dict or None
        Dotted key -> text, without where things are put.
    results : dict or None
        What `peek_results` returns.
    env : dict or None
        ``env.json``: versions, processor, git of the training.
    data : dict
        ``data.json``: size and hash of the manifests.
    history : list
        ``resumed.json``: what was changed on the way.
    packed : dict
        Of a bundle: its digest, and ``manifest.json``'s hash of the library.
    """

    name: str
    kind: str
    settings: dict[str, str] | None = None
    results: dict[str, Any] | None = None
    env: dict[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    packed: dict[str, str] = field(default_factory=dict)


def _open_folder(path: Path, name: str, kind: str, recipe: str) -> Side:
    return Side(
        name,
        kind,
        settings=settings_of(path / recipe),
        results=peek_results(path / "results.json"),
        env=read_json(path / "env.json") or None,
        data=read_data_record(path),
        history=read_history(path),
    )


def _open_experiment(path: Path, name: str) -> Side:
    return _open_folder(path, name, "experiment", "hyperparams.yaml")


def _open_unpacked(path: Path, name: str) -> Side:
    side = _open_folder(path, name, "unpacked bundle", "recipe.yaml")
    return replace(side, packed=_packed(path))


def _open_bundle(path: Path, name: str) -> Side:
    from speechbrain_ext.sharing.bundle.unpacking import opened

    with opened(path) as contents:
        side = _open_folder(contents.folder, name, "bundle", "recipe.yaml")
        return replace(side, packed=_packed(contents.folder))


def _packed(folder: Path) -> dict[str, str]:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return {}
    return {
        "digest of the bundle": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        "library, SHA-256": str(read_json(manifest).get("library_sha256")),
    }


def _open_recipe(path: Path, name: str) -> Side:
    return Side(name, "recipe", settings=settings_of(path))


def _open_results(path: Path, name: str) -> Side:
    return Side(name, "results", results=peek_results(path))


#: (does it open this path?, how), asked in this order.
OPENERS: list[tuple[Callable[[Path], bool], Callable[[Path, str], Side]]] = [
    (lambda path: (path / "hyperparams.yaml").is_file(), _open_experiment),
    (lambda path: (path / "recipe.yaml").is_file(), _open_unpacked),
    (lambda path: path.suffix in (".yaml", ".yml") and path.is_file(), _open_recipe),
    (lambda path: path.suffix == ".zip" and path.is_file(), _open_bundle),
    (lambda path: path.suffix == ".json" and path.is_file(), _open_results),
]


def open_side(name: str) -> Side:
    """Open what a user named.

    Raises
    ------
    UserError
        If there is nothing, or nothing that can be compared.
    """
    path = Path(name).expanduser()
    refuse_kinds("diff", path, "export")  # its hyperparams.yaml is stock's
    for accepts, opened in OPENERS:
        if accepts(path):
            return opened(path, name)
    what = "there is no such file or folder"
    if path.is_dir():
        what = "this folder is no experiment (no hyperparams.yaml in it)"
    elif path.exists():
        what = "no recipe (.yaml), bundle (.zip) or results (.json)"
    raise UserError(
        f"diff: {name}: {what}\n  what there is: speechbrain-ext list experiments"
    )
