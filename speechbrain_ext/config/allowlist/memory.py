"""What a person allowed for an experiment, kept beside its ``hyperparams.yaml``.

``allow.json`` lets the later stages load what training loaded. It lies in a folder that
may have come from someone else, and a recipe must not extend the list: so it counts
only with a code that nobody else can make (HMAC-SHA256 over the names and the very text
of ``hyperparams.yaml``), by a key that stays in this user's home.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from speechbrain_ext.files import write_json

ALLOW_FILE = "allow.json"
RECIPE_FILE = "hyperparams.yaml"


def remember(folder: str | os.PathLike, names: Iterable[str]) -> bool:
    """Write what a person allowed into an experiment; without names remove the file.

    Arguments
    ---------
    folder : str or PathLike
        The experiment, with its ``hyperparams.yaml`` written already.
    names : Iterable[str]
        As `AllowList.extra`.

    Returns
    -------
    bool
        False if there is no place for a key: then later commands need ``--allow``.
    """
    path = Path(folder) / ALLOW_FILE
    names = sorted(set(names))
    if not names:
        path.unlink(missing_ok=True)
        return True
    key = _key(make=True)
    if key is None:
        return False
    code = _code(key, names, Path(folder) / RECIPE_FILE)
    write_json(path, {"allow": names, "code": code})
    return True


def remembered(recipe: Path) -> tuple[str, ...]:
    """Return what this user allowed for the experiment that a recipe belongs to.

    Arguments
    ---------
    recipe : Path
        Only a ``hyperparams.yaml`` belongs to an experiment.

    Returns
    -------
    tuple of str
        Empty if nothing was allowed, or not by this user, or not for this text.
    """
    path = recipe.parent / ALLOW_FILE
    if recipe.name != RECIPE_FILE or not path.is_file():
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names, code = found["allow"], found["code"]
        key = _key(make=False)
        if key is None or not all(isinstance(name, str) for name in names):
            return ()
        known = hmac.compare_digest(code, _code(key, names, recipe))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(names) if known else ()


def _code(key: bytes, names: list[str], recipe: Path) -> str:
    text = json.dumps([names, hashlib.sha256(recipe.read_bytes()).hexdigest()])
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _key(*, make: bool) -> bytes | None:
    """Return this user's key, made when it is first needed; None if there is none."""
    try:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(home) / "speechbrain_ext" / "allow.key"
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(32))
        key = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    return key if len(key) == 32 else None
