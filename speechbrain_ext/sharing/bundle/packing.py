"""``pack``: a recipe, and if asked its result, as one file; the same each time."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import speechbrain_ext
from speechbrain_ext.errors import UserError
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.sharing.bundle.archive import write_archive
from speechbrain_ext.sharing.bundle.contents import check_file
from speechbrain_ext.sharing.bundle.data import data_settings
from speechbrain_ext.sharing.bundle.errors import BundleError, printable
from speechbrain_ext.sharing.bundle.manifest import (
    FORMAT,
    NAME,
    VERSION,
    describe_files,
    digest_of,
    manifest_bytes,
)
from speechbrain_ext.sharing.bundle.names import (
    CARD,
    CODE,
    MANIFEST,
    MODEL,
    RECIPE,
    RESULTS,
    check_distinct,
    check_known,
    check_name,
)
from speechbrain_ext.sharing.bundle.people import people_in
from speechbrain_ext.sharing.bundle.privacy import (
    clean_environment,
    clean_results,
    refuse_private,
)
from speechbrain_ext.sharing.bundle.scripts import (
    changed_scripts,
    library_hash,
    script_hashes,
)
from speechbrain_ext.sharing.bundle.unpacking import is_bundle


class Packed(NamedTuple):
    """What `pack` wrote.

    Attributes
    ----------
    path : Path
        The bundle.
    digest : str
        SHA-256 of its manifest: publish it, so that others can compare.
    notes : list of str
        What a person who shares it should know.
    """

    path: Path
    digest: str
    notes: list[str]


@tells_own_commands
def pack(
    source: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    result: bool = True,
    with_code: bool = False,
    overrides: Iterable[str] = (),
    presets: Sequence[str] = (),
    allow: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> Packed:
    """Write a bundle; the same source gives the same bytes.

    Arguments
    ---------
    source : str or PathLike
        An experiment folder with results, or a recipe.
    output : str or PathLike or None
        The file, ``*.zip``; None: ``<name>.zip`` here. A bundle that is there is
        replaced, anything else is not.
    result : bool
        Of an experiment, also take results, scores, card, environment and weights.
    with_code : bool
        Take along the scripts that differ from the last commit; they run elsewhere
        only for a person who says so.
    overrides, presets
        For a recipe; they become part of it.
    allow : Iterable of str
        Names allowed beyond the list; the bundle does not carry that permission.
    keep : Iterable of str
        See `privacy.find_private`.

    Returns
    -------
    Packed

    Raises
    ------
    UserError
        If there is nothing to pack, something of it is broken, or it would tell of
        this machine; nothing is written.
    """
    source = Path(source)
    name = _name(source)
    path = Path(output or f"{name}.zip")
    _check_output(path)
    if source.is_dir():
        members, facts = _experiment(source, result, tuple(allow), (overrides, presets))
    else:
        members, facts = _recipe(source, overrides, presets, tuple(allow))
    if MODEL in members:
        from speechbrain_ext.sharing.bundle import card

        results, data = facts.pop("results"), facts.get("data", {})
        weights = describe_files({MODEL: members[MODEL]})[MODEL]["sha256"]
        text = card.render(results, name, members, weights, data=data)
        members[CARD] = text.encode()
    notes = []
    if people := people_in(members):
        look = f"speechbrain-ext inspect {shlex.quote(str(path))}"
        notes.append(f"holds {people}; look: {look}")
    for script, data in changed_scripts(facts["task"]).items():
        if with_code:
            members[CODE + script] = data
            notes.append(f"carries {script}, which differs from the last commit")
        else:
            notes.append(
                f"{script} differs from the last commit: others don't have it; "
                "--with_code takes it along"
            )
    for member in members:
        check_name(member)
        check_known(member)
    check_distinct(members)
    manifest = manifest_bytes(
        {
            "format": FORMAT,
            "version": VERSION,
            "kind": "result" if MODEL in members else "recipe",
            "name": name,
            "versions": _versions(),
            "library_sha256": library_hash(),
            "scripts": script_hashes(facts["task"]),
            "files": describe_files(members),
            **facts,
        }
    )
    members[MANIFEST] = manifest
    refuse_private(members, keep=keep)
    _refuse_unreadable(members)
    try:
        write_archive(path, members)
    except OSError as error:  # the disk may be full by now
        raise _not_written(path, error) from error
    return Packed(path, digest_of(manifest), notes)


def _check_output(path: Path) -> None:
    """Find out before the work whether the file can be written."""
    if path.exists() and not path.is_file():
        raise UserError(
            f"pack: --output {path} is a folder or device; name a file: "
            f"--output {path / 'NAME.zip'}"
        )
    if path.suffix != ".zip":
        raise UserError(
            f"pack: --output {path}: the name of a bundle ends in .zip\n  Next: "
            f"--output {path.with_name(path.name + '.zip')}"
        )
    if path.exists() and not is_bundle(path):
        raise UserError(
            f"pack: {path} is there and is no bundle; only a bundle is replaced\n"
            "  Next: name another file: --output FILE.zip"
        )
    try:
        parent = path.resolve().parent
        made = [p for p in (parent, *parent.parents) if not p.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
        for folder in made:  # made again once there is something to put into it
            folder.rmdir()
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(
        f"pack: {path} can't be written: {error.strerror or error}\n  Next: name a "
        "file where you may write: --output FILE.zip"
    )


def _name(source: Path) -> str:
    """Call it as the experiment, or as the recipe's file."""
    name = source.resolve().name if source.is_dir() else source.stem
    if not NAME.fullmatch(name):
        raise UserError(
            f"pack: '{name}' can't name a bundle: letters, digits and _ . + @ = - can; "
            "rename it, or copy it under another name"
        )
    return name


def _versions() -> dict[str, str]:
    return {
        "speechbrain_ext": speechbrain_ext.__version__,
        "speechbrain": importlib.metadata.version("speechbrain"),
    }


def _recipe(
    path: Path, overrides: Iterable[str], presets: Sequence[str], allow: tuple[str, ...]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Members and facts of a recipe alone."""
    from speechbrain_ext.sharing.bundle.recipe import open_recipe, plan_open

    if not path.exists():
        raise UserError(
            f"pack: {path}: no such experiment or recipe; give a folder such as "
            "egs/telugu/exp/transform_espeak, or a RECIPE.yaml"
        )
    plan = plan_open(path, overrides, presets=presets, allow=allow)
    found = open_recipe(plan)
    return {RECIPE: found.text.encode()}, {
        "config_hash": found.config_hash,
        "inputs": found.inputs,
        "task": found.task,
        "model": None,
    }


def _experiment(
    folder: Path, result: bool, allow: tuple[str, ...], extra: tuple
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Members and facts of an experiment; with ``results`` if they were asked for."""
    if any(map(tuple, extra)):
        raise UserError(
            f"pack: {folder} was trained with its own settings; --key=value and "
            "--preset are for a recipe"
        )
    resolved = folder / "hyperparams.yaml"
    if not resolved.exists():
        raise UserError(
            f"pack: {folder} is no experiment (no hyperparams.yaml in it); train "
            "first: ./run.sh --stage train"
        )
    # Where it lies is said by a person; what the file says of it does not count.
    members, facts = _recipe(resolved, [f"--output_folder={folder}"], (), allow)
    if not result:
        return members, facts | _data(folder)
    from speechbrain_ext.report.results import read_results
    from speechbrain_ext.sharing.bundle.models import trained_model

    if not (folder / RESULTS).exists():
        raise UserError(
            f"pack: {folder} has no {RESULTS}: nothing was scored yet. Next: "
            "./run.sh --stage train; or share the recipe alone: --no_result"
        )
    _refuse_links(folder)
    results = clean_results(read_results(folder / RESULTS))
    model = trained_model(folder, results["task"])
    members |= {RESULTS: _json(results), MODEL: model.weights}
    members |= _scores(folder)
    if (folder / "env.json").exists():
        environment = _read_json(folder / "env.json")
        members["env.json"] = _json(clean_environment(environment))
    for name in ("speakers.json", "train_log.txt"):
        if (folder / name).exists():
            members[name] = (folder / name).read_bytes()
    facts |= {"model": model.facts, "results": results}
    return members, facts | _data(folder, str(results["command"]))


def _data(folder: Path, command: str = "") -> dict[str, dict[str, str]]:
    found = data_settings(folder, command)
    return {"data": found} if found else {}


def _refuse_links(folder: Path) -> None:
    """Refuse what would take along a file from elsewhere on this machine.

    An experiment may have come from somebody else, who put a link into it.
    """
    inside = folder.resolve()
    named = (RESULTS, "env.json", "speakers.json", "train_log.txt", "scores")
    for path in (*(folder / name for name in named), *(folder / "scores").glob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise UserError(
                f"pack: {path} is a link to a file outside the experiment; what lies "
                "elsewhere is not packed\n  Next: look at it; put a copy in its place "
                "if it belongs there"
            )


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(key in found for key in keys):
            raise ValueError("not what training and scoring write")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"pack: {path}: broken: {printable(error)}\n  Next: make the experiment's "
            "results anew, or share the recipe alone: --no_result"
        ) from None
    return found


def _refuse_unreadable(members: Mapping[str, bytes]) -> None:
    """Refuse what nobody could unpack, before it is published."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in members.items():
            path = Path(scratch) / "member"
            path.write_bytes(data)
            try:
                check_file(path, name)
            except BundleError as error:
                raise UserError(
                    f"pack: {printable(error)}; nobody could unpack it, so nothing was "
                    "written"
                ) from None


def _scores(folder: Path) -> dict[str, bytes]:
    """Read the files of scores and write them anew: what else is in them stays here."""
    from speechbrain_ext.scoring.trials import read_scores, write_scores

    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted((folder / "scores").glob("*.npz")):
            copy = Path(scratch) / path.name
            write_scores(copy, *read_scores(path))
            found[f"scores/{path.name}"] = copy.read_bytes()
    utterances = folder / "scores" / "utterances.json"
    if utterances.exists():
        known = _read_json(utterances, "speakers", "sources")
        kept = {key: known[key] for key in ("speakers", "sources")}
        found["scores/utterances.json"] = _json(kept)
    return found


def _json(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()
