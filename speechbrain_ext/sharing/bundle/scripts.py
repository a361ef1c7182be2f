"""The scripts that run a recipe: named and hashed, and carried only if asked."""

from __future__ import annotations

import difflib
import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

import speechbrain_ext
from speechbrain_ext.checkout import project_root
from speechbrain_ext.sharing.bundle.names import CODE


def scripts_of(task: str | None) -> dict[str, Path]:
    """Name the installed scripts of a task.

    Arguments
    ---------
    task : str or None
        Last word of the recipe's ``task``, such as ``speaker``.

    Returns
    -------
    dict
        ``recipes/<task>/train.py`` -> where it is; empty without a checkout.
    """
    folder = project_root() / "recipes" / (task or ".")
    if task is None or not folder.is_dir():
        return {}
    return {f"recipes/{task}/{p.name}": p for p in sorted(folder.glob("*.py"))}


def script_hashes(task: str | None) -> dict[str, str]:
    """SHA-256 of each installed script of a task."""
    return {name: _sha256(path.read_bytes()) for name, path in scripts_of(task).items()}


def changed_scripts(task: str | None) -> dict[str, bytes]:
    """Scripts of a task that others can't have: not as the last commit has them.

    Where there is no git to ask, all of them.

    Returns
    -------
    dict
        Name -> bytes.
    """
    changed = {}
    for name, path in scripts_of(task).items():
        data = path.read_bytes()
        if _committed(name) != data:
            changed[name] = data
    return changed


def _committed(name: str) -> bytes | None:
    return _git("show", f"HEAD:./{name}")


def head_commit() -> str:
    """Name the commit of the installed code, or say that there is none."""
    found = _git("rev-parse", "HEAD")
    return found.decode().strip() if found else "not known"


def _git(*words: str) -> bytes | None:
    command = ["git", "-C", str(project_root()), *words]
    try:
        found = subprocess.run(command, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if found.returncode else found.stdout


def library_hash() -> str:
    """SHA-256 over the names and bytes of all code of the installed package."""
    folder = Path(speechbrain_ext.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name} {_sha256(path.read_bytes())}\n".encode())
    return digest.hexdigest()


def compare_scripts(
    hashes: Mapping[str, str], carried: Mapping[str, bytes]
) -> list[tuple[str, str, list[str]]]:
    """Hold a bundle's scripts against the installed ones.

    Arguments
    ---------
    hashes : Mapping
        Of the manifest: name -> SHA-256.
    carried : Mapping
        Scripts in the bundle: name (with ``code/``) -> bytes.

    Returns
    -------
    list of tuple
        Name, "the installed one", "differs from the installed one" or "not installed
        here", and the lines of a diff where the bundle carries it.
    """
    found = []
    for name, sha256 in sorted(hashes.items()):
        path = project_root() / name
        ours = path.read_bytes() if path.is_file() else None
        if ours is not None and _sha256(ours) == sha256:
            found.append((name, "the installed one", []))
            continue
        verdict = "differs from the installed one" if ours else "not installed here"
        theirs = carried.get(CODE + name)
        lines = []
        if theirs is not None:
            lines = list(
                difflib.unified_diff(
                    (ours or b"").decode("utf-8", "replace").splitlines(),
                    theirs.decode("utf-8", "replace").splitlines(),
                    f"installed/{name}",
                    f"bundle/{name}",
                    lineterm="",
                )
            )
        found.append((name, verdict, lines))
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
