"""How a checkpoint folder gets on disk: it is there completely, or it is not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from speechbrain.utils.checkpoints import METAFNAME

from speechbrain_ext.brain.checkpoints.files import SEAL, Seal
from speechbrain_ext.brain.checkpoints.state import Kinds
from speechbrain_ext.files import sha256_file

#: Folders being written or removed; neither name is a checkpoint's for any reader.
_SAVING, _DELETING = ".saving+", ".deleting+"
#: A checkpoint that gives its name to its successor; still a checkpoint's name.
_REPLACED = "~replaced"
_DAY = 86400.0


def staging_path(final: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return final.with_name(f"{_SAVING}{_owner()}+{final.name}")


def _owner() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def write_seal(folder: Path, nonfinite: Mapping[str, Mapping[str, Kinds]]) -> Seal:
    """Seal a complete folder and flush all of it to disk."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    seal = Seal(
        {
            p.relative_to(folder).as_posix(): {
                "bytes": p.stat().st_size,
                "sha256": sha256_file(p),
            }
            for p in files
        },
        {
            name: {tensor: sorted(kinds) for tensor, kinds in found.items()}
            for name, found in nonfinite.items()
            if found
        },
    )
    (folder / SEAL).write_text(seal.text(), encoding="utf-8")
    for path in [*files, folder / SEAL]:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    for path in [p for p in folder.rglob("*") if p.is_dir()]:
        _flush_folder(path)
    _flush_folder(folder)
    return seal


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder; not every system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def publish(staging: Path, final: Path) -> None:
    """Give a sealed folder its name.

    If the name is taken (a custom name used again), its holder stays a checkpoint
    under another name until the new one stands: at no moment there is none.
    """
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
        if replaced.exists():
            remove_folder(replaced)
        os.rename(final, replaced)
    os.rename(staging, final)
    _flush_folder(final.parent)
    if replaced.exists():
        remove_folder(replaced)


def remove_folder(path: Path) -> None:
    """Remove a folder that no reader may ever see half removed."""
    doomed = path.with_name(f"{_DELETING}{_owner()}+{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def clear_leftovers(parent: Path) -> None:
    """Remove what killed processes left behind; what can't be removed stays."""
    for path in sorted(parent.iterdir()):
        with contextlib.suppress(OSError):
            if path.name.startswith((_SAVING, _DELETING)):
                if _is_abandoned(path):
                    shutil.rmtree(path)
            elif path.name.endswith(_REPLACED) and path.is_dir():
                final = path.with_name(path.name[: -len(_REPLACED)])
                if (final / METAFNAME).exists():
                    remove_folder(path)
                elif not final.exists():
                    os.rename(path, final)


def _is_abandoned(path: Path) -> bool:
    """Whether the process that made a temporary folder is gone."""
    host, _, pid = path.name.split("+")[1].rpartition("-")
    if host != socket.gethostname():
        return time.time() - path.stat().st_mtime > _DAY
    if not pid.isdigit() or int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # somebody else's, and alive
    return False
