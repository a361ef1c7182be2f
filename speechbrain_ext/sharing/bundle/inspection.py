"""``inspect BUNDLE``: all that a person should see before using a stranger's bundle."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from pathlib import Path

from speechbrain_ext.sharing.bundle.errors import printable
from speechbrain_ext.sharing.bundle.manifest import code_digest
from speechbrain_ext.sharing.bundle.names import CODE, RECIPE
from speechbrain_ext.sharing.bundle.people import SOURCES, people_in
from speechbrain_ext.sharing.bundle.scripts import compare_scripts
from speechbrain_ext.sharing.bundle.unpacking import Contents, opened

#: Of each kind so many names are shown.
_MAX_NAMES = 10


def describe_bundle(
    bundle: str | os.PathLike, *, allow: Iterable[str] = ()
) -> list[str]:
    """Say what a bundle holds, with which code it runs, and what its recipe would do.

    Arguments
    ---------
    bundle : str or PathLike
        What `pack` wrote; nothing of it is run.
    allow : Iterable of str
        Names that its recipe may use beyond the list.

    Returns
    -------
    list of str
        Lines to be printed; text of the bundle cannot steer a terminal.

    Raises
    ------
    BundleError
        If it is anything but what its manifest says.
    """
    with opened(bundle) as contents:
        return [
            *_what(contents),
            *_files(contents),
            *_people(contents),
            *_code(contents),
            "recipe: what loading it would do",
            *(f"  {line}" for line in _recipe(contents.folder / RECIPE, allow)),
        ]


def _what(contents: Contents) -> list[str]:
    manifest = contents.manifest
    versions = ", ".join(f"{k} {v}" for k, v in sorted(manifest["versions"].items()))
    return [
        f"bundle {manifest['name']}: a {manifest['kind']}"
        + (f" of the task {printable(manifest['task'])}" if manifest["task"] else ""),
        f"  digest       {contents.digest}",
        f"  config_hash  {printable(manifest['config_hash'])}",
        f"  made with    {printable(versions)}",
        *_data(manifest),
        f"  you fill in  {printable(', '.join(manifest['inputs'])) or 'nothing'}",
    ]


def _data(manifest: dict) -> list[str]:
    told = [f"--{name}={value}" for name, value in manifest.get("data", {}).items()]
    return [f"  trained on   {' '.join(told)}"] if told else []


def _files(contents: Contents) -> list[str]:
    files = contents.manifest["files"]
    width = max(len(f"{file['bytes']:,}") for file in files.values())
    total = sum(file["bytes"] for file in files.values())
    return [
        f"files: {len(files)}, {total:,} bytes",
        *(
            f"  {file['bytes']:>{width},}  {file['sha256'][:16]}  {printable(name)}"
            for name, file in sorted(files.items())
        ),
    ]


def _people(contents: Contents) -> list[str]:
    named = [name for name in SOURCES if name in contents.manifest["files"]]
    people = people_in({name: (contents.folder / name).read_bytes() for name in named})
    if not people:
        return ["people: none are named, and no utterances"]
    lines = [f"people: {people}"]
    for (_, kind), names in people.kinds.items():
        shown = ", ".join(map(printable, names[:_MAX_NAMES]))
        more = f", and {len(names) - _MAX_NAMES:,} more" * (len(names) > _MAX_NAMES)
        lines.append(f"  {kind}: {shown}{more}")
    return lines


def _code(contents: Contents) -> list[str]:
    carried = {
        name: (contents.folder / name).read_bytes()
        for name in contents.manifest["files"]
        if name.startswith(CODE)
    }
    lines = ["scripts:" if contents.manifest["scripts"] else "scripts: none are named"]
    for name, verdict, diff in compare_scripts(contents.manifest["scripts"], carried):
        lines.append(f"  {name}: {verdict}")
        lines += [f"    {printable(line, 400)}" for line in diff]
    digest = code_digest(contents.manifest["files"])
    if digest:
        lines += [
            f"code: carries {len(carried)} scripts; they run only after",
            f"  speechbrain-ext unpack BUNDLE FOLDER --trust_code {digest}",
        ]
    else:
        lines.append(
            "code: carries none; the scripts that run are those installed here"
        )
    return lines


def _recipe(path: Path, allow: Iterable[str]) -> list[str]:
    """Say what `speechbrain_ext.config.inspection` says of the recipe inside."""
    try:
        inspection = importlib.import_module("speechbrain_ext.config.inspection")
    except ModuleNotFoundError:
        return _targets(path)
    found = inspection.inspect_recipe(path, allow=tuple(allow))
    told = (line.replace(str(path), RECIPE) for line in found.lines())
    return [printable(line, 400) for line in told]


def _targets(path: Path) -> list[str]:
    from speechbrain_ext.config.loader import plan_recipe
    from speechbrain_ext.config.tree import walk

    plan = plan_recipe(path, open_inputs=True)
    nodes = [] if plan.root is None else [node for _, node in walk(plan.root)]
    named = dict.fromkeys(printable(n.tag) for n in nodes if n.target is not None)
    return [*named, *(printable(f"fault: {fault.message}") for fault in plan.faults)]
