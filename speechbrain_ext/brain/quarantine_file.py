"""``quarantine.json``: which utterances are left out, made for people to read and edit.

Its shape::

    {"schema": 1,
     "about": what the file is for,
     "utterances": {utt_id: {"reason": why, for people,
                             "cause": one of the causes of the diagnosis,
                             "epoch": int, "batch": int: where it showed,
                             "dump": path from this file's folder, or null,
                             "taken_back": true, where it does not hold any more}}}
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json

SCHEMA = 1
FIELDS = ("reason", "cause", "epoch", "batch", "dump")
ABOUT = (
    "Utterances left out of training because they made a batch non-finite. Mend or "
    "remove the files. Then take one back by removing its entry here, or all with "
    "keep_quarantined: True in the nan_guard section of the YAML (./run.sh "
    "--keep_quarantined=True)."
)


class QuarantineError(UserError):
    """A list of quarantined utterances that can't be read."""


def quarantine_path(
    policy: NonFinitePolicy, debug_folder: str | os.PathLike | None
) -> Path | None:
    """Return where the list is kept: as the policy says, else beside ``debug_nan``."""
    if policy.quarantine_file is not None:
        return Path(policy.quarantine_file)
    if debug_folder is None:
        return None
    return Path(debug_folder).parent / "quarantine.json"


def read_quarantine(path: str | os.PathLike | None) -> dict[str, dict[str, Any]]:
    """Read all entries of a ``quarantine.json``, those taken back too.

    Returns
    -------
    dict
        utt_id -> entry; empty if there is no file.

    Raises
    ------
    QuarantineError
        If the file is broken, or of a schema that is not known.
    """
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _broken(path, f"can't be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise _broken(path, f"must be an object, is {type(found).__name__}")
    if found.get("schema") != SCHEMA:
        raise _broken(path, f"schema must be {SCHEMA}, is {found.get('schema')!r}")
    entries = found.get("utterances")
    if not isinstance(entries, dict):
        raise _broken(path, "utterances must be an object of utt_id: entry")
    for utt_id, entry in entries.items():
        if not isinstance(entry, dict):
            raise _broken(path, f"{utt_id}: must be an object, is {entry!r}")
        for key in FIELDS:
            entry.setdefault(key, None)  # a person wrote it
    return entries


def _broken(path: str | os.PathLike, problem: str) -> QuarantineError:
    return QuarantineError(
        f"quarantine error in {path}\n  {problem}\n"
        "  Next: mend the file; or start with an empty list: "
        f"mv {path} {path}.broken"
    )


def quarantine_table(path: str | os.PathLike | None) -> list[dict[str, Any]]:
    """List the utterances that are left out, for results and reports.

    Arguments
    ---------
    path : path or None
        ``quarantine.json``; it need not be there.

    Returns
    -------
    list of dict
        ``{"utt_id", "reason", "cause", "epoch", "batch", "dump"}`` in the order they
        were put there; without those taken back.

    Raises
    ------
    QuarantineError
        If the file is broken.
    """
    return [
        {"utt_id": utt_id, **{key: entry[key] for key in FIELDS}}
        for utt_id, entry in read_quarantine(path).items()
        if not entry.get("taken_back")
    ]


def write_quarantine(
    path: Path,
    entries: dict[str, dict[str, Any]],
    taken_back: dict[str, dict[str, Any]],
) -> None:
    """Write the list atomically: entries that hold, after those that do not."""
    earlier = {u: entry | {"taken_back": True} for u, entry in taken_back.items()}
    utterances = earlier | entries
    write_json(path, {"schema": SCHEMA, "about": ABOUT, "utterances": utterances})


def path_from(file: Path | None, path: str | os.PathLike | None) -> str | None:
    """Name a path from the folder of a file, so that both can be moved together.

    A path that is not in that folder stays as it is.
    """
    if path is None or file is None:
        return None if path is None else str(path)
    found, folder = Path(path).resolve(), file.resolve().parent
    inside = folder in found.parents
    return found.relative_to(folder).as_posix() if inside else str(path)
