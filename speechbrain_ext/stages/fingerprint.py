"""Content of files and folders as short text, read once per change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from speechbrain_ext.files import sha256_file, write_json

#: A file changed less than this before it was read may change again within the
#: clock's tick without a new time stamp, so its digest is not remembered (git's
#: "racy" rule).
_SETTLED_SECONDS = 0.1


class Fingerprints:
    """SHA-256 of files and folders, remembered by size and time of change.

    Arguments
    ---------
    cache : Path
        JSON file with what was read before. A damaged or foreign file is ignored.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("x")
    >>> prints = Fingerprints(folder / ".cache.json")
    >>> prints.content(folder / "b") is None
    True
    >>> prints.content(folder / "a") == sha256_file(folder / "a")
    True
    """

    def __init__(self, cache: Path):
        self.cache = cache
        self._changed = False
        try:
            entries = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            entries = {}
        self._entries: dict = entries if isinstance(entries, dict) else {}

    def content(self, path: str | os.PathLike) -> str | None:
        """Digest of a file's bytes, or of all files of a folder; None if missing.

        Hidden files in folders do not count: they are temporary or ours.
        """
        path = Path(path)
        if path.is_dir():
            return _digest(f"{name}\0{self._file(file)}" for name, file in _walk(path))
        return self._file(path)

    def listing(self, path: str | os.PathLike) -> str | None:
        """Digest of names, sizes and times of a folder's files; None if missing.

        For folders of raw recordings, which may be too large to be read each time.
        """
        path = Path(path)
        if not path.exists():
            return None
        files = _walk(path) if path.is_dir() else [(path.name, path)]
        return _digest(f"{name}\0{(_stamp(file) or [])[:2]}" for name, file in files)

    def save(self) -> None:
        """Write what was learned, if anything; a read-only place is no error."""
        if not self._changed:
            return
        try:
            write_json(self.cache, self._entries)
        except OSError:
            return  # only speed is lost
        self._changed = False

    def _file(self, path: Path) -> str | None:
        stamp = _stamp(path)
        if stamp is None:
            return None
        key = os.path.abspath(path)
        known = self._entries.get(key)
        if isinstance(known, list) and known[:-1] == stamp:
            return known[-1]
        digest = sha256_file(path)
        if time.time() - stamp[2] / 1e9 > _SETTLED_SECONDS:
            self._entries[key] = [*stamp, digest]
            self._changed = True
        return digest


def _walk(folder: Path) -> list[tuple[str, Path]]:
    files = []
    seen = set()  # a link to a folder above would be walked for ever
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in names:
            if not name.startswith("."):
                path = Path(parent, name)
                files.append((str(path.relative_to(folder)), path))
    return sorted(files)


def _stamp(path: Path) -> list[int] | None:
    """Size, time of change of the content and of the entry (which nobody can set)."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _digest(lines) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
