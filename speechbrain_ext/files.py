"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file beside its place, and move it there when it is complete.

    Arguments
    ---------
    path : str or PathLike
        Where the file shall be; missing parent folders are made.

    Yields
    ------
    Path
        A temporary path with the same suffix in the same folder. On a clean exit it
        is flushed to disk and renamed; on an exception it is removed and what stood
        at ``path`` before stays as it was.

    Raises
    ------
    OSError
        If it can't be written there, or a folder or device stands there.

    Example
    -------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # Renaming would put a file in the place of a device such as /dev/null.
        raise FileExistsError(errno.EEXIST, "is a folder or device", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp made it private
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Fill a folder beside its place, and move it there when it is complete.

    Arguments
    ---------
    path : str or PathLike
        Where the folder shall be; what stands there is replaced as a whole. Missing
        parent folders are made.

    Yields
    ------
    Path
        An empty folder beside it. On an exception it is removed, and what stood at
        ``path`` before stays as it was.

    Example
    -------
    >>> place = Path(tempfile.mkdtemp()) / "out"
    >>> with atomic_folder(place) as draft:
    ...     _ = (draft / "a.txt").write_text("whole")
    >>> [found.name for found in place.iterdir()]
    ['a.txt']
    """
    path = Path(path).resolve()  # a link stays, and leads to the new folder
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old = draft.with_name(f"{draft.name}.old")
    try:
        yield draft
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o777 & ~umask)  # mkdtemp made it private
        if path.exists():
            path.rename(old)
        try:
            draft.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write JSON atomically; NaN and Inf are refused, since JSON has neither.

    Raises
    ------
    ValueError
        If ``value`` holds a non-finite number: write ``None`` and say why beside it.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: str | os.PathLike, kind: type = dict) -> Any:
    """Read a note that may be missing, broken or of another type: then it is empty.

    Arguments
    ---------
    path : str or PathLike
        The JSON file.
    kind : type
        ``dict`` or ``list``: what it holds if it is what it should be.

    Example
    -------
    >>> read_json("no such file", list)
    []
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return kind()
    return found if isinstance(found, kind) else kind()


def sha256_file(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
