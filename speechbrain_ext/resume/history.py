"""``resumed.json``: what was changed each time an experiment was gone on with.

Its shape is a list, oldest first::

    [{"time": "2026-01-31T12:00:00+00:00", "epoch": epochs trained until then,
      "forced": whether --force_resume was needed,
      "changes": [{"key", "old", "new"}, ...]}, ...]

``data.json`` beside it holds, for each manifest, the number of its utterances and the
hash of its content.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechbrain_ext.files import read_json, write_json
from speechbrain_ext.resume.changes import Change, Kind

HISTORY_NAME = "resumed.json"
DATA_NAME = "data.json"


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read what was changed in an experiment; empty if nothing was.

    What is not of the shape above is passed over: it is a note, not a setting.
    """
    found = read_json(folder / HISTORY_NAME, list)
    return [
        entry
        for entry in found
        if isinstance(entry, dict) and isinstance(entry.get("changes"), list)
    ]


def add_to_history(folder: Path, changes: Sequence[Change], epoch: int) -> None:
    """Remember that an experiment goes on with changed settings.

    Arguments
    ---------
    folder : Path
        The experiment.
    changes : sequence of Change
        If empty, nothing is written.
    epoch : int
        Epochs trained until now.
    """
    if not changes:
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    entry = {
        "time": now.isoformat(timespec="seconds"),
        "epoch": epoch,
        "forced": any(change.kind is not Kind.HARMLESS for change in changes),
        "changes": [
            {"key": change.key, "old": change.old, "new": change.new}
            for change in changes
        ],
    }
    write_json(folder / HISTORY_NAME, [*read_history(folder), entry])


def read_data_record(folder: Path) -> dict[str, Any]:
    """Read what the manifests were; empty of an experiment older than this record."""
    return read_json(folder / DATA_NAME, dict)


def write_data_record(folder: Path, record: dict[str, Any]) -> None:
    """Remember what the manifests are."""
    write_json(folder / DATA_NAME, record)
