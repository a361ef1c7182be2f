"""Where an export goes: found out before the work, not after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from speechbrain_ext.errors import UserError


def check_writable(place: Path) -> None:
    """Refuse a folder that can't be made here.

    Arguments
    ---------
    place : Path
        The folder; its parent is made if it is missing.

    Raises
    ------
    UserError
        With the reason of the operating system.
    """
    try:
        inside = place if place.is_dir() else place.resolve().parent
        inside.mkdir(parents=True, exist_ok=True)
        for folder in {inside, place.resolve().parent}:
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{place.name}."):
                pass
    except OSError as error:
        raise UserError(
            f"export: --output {place} can't be written: {error.strerror or error}\n"
            "  Next: give a folder that you may write"
        ) from error
