"""One checkpoint folder on disk: sealed when written, verified when read.

Beside the files that stock SpeechBrain knows lies ``VERIFIED.json``: size and SHA-256
of each of them, and which tensors hold -Inf or the like by right. Stock ignores it. A
folder without it was written by stock; of that only the archive's own CRC-32,
readability and finiteness can be checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from speechbrain.utils.checkpoints import METAFNAME, PARAMFILE_EXT, Checkpoint

from speechbrain_ext.brain.checkpoints.state import (
    AllowedKinds,
    Kinds,
    file_lines,
    nested_tensors,
    nonfinite_kinds,
)
from speechbrain_ext.files import sha256_file

SEAL = "VERIFIED.json"
_FORMAT = "speechbrain-ext checkpoint 1"


@dataclass
class Seal:
    """What ``VERIFIED.json`` says.

    Attributes
    ----------
    files : dict[str, dict]
        Path inside the folder -> ``{"bytes": int, "sha256": str}``.
    nonfinite : dict[str, dict[str, list[str]]]
        Recoverable -> tensor -> kinds of non-finite values that it holds by right.
    """

    files: dict[str, dict]
    nonfinite: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def _body(self) -> dict:
        return {
            "format": _FORMAT,
            "files": self.files,
            "nonfinite": self.nonfinite,
        }

    def text(self) -> str:
        """JSON with a digest of itself, so that damage to the seal is seen too."""
        body = self._body()
        return json.dumps({**body, "digest": _digest(body)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Seal:
        """Read a seal.

        Raises
        ------
        ValueError
            If it is damaged, or of a format that this version does not know.
        """
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            digest = body.pop("digest")
            if digest != _digest(body):
                raise ValueError("its digest differs")
            if body["format"] != _FORMAT:
                raise ValueError(f"unknown format {body['format']!r}")
            return cls(body["files"], body["nonfinite"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{SEAL}: damaged ({error})") from error


def _digest(body: dict) -> str:
    text = json.dumps(body, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Folder:
    """What is known of a checkpoint folder before its large files are read.

    Attributes
    ----------
    path : Path
        The folder.
    checkpoint : Checkpoint or None
        As stock describes it; None if its meta data can't be trusted.
    seal : Seal or None
        None if it was written by stock.
    problems : list[str]
        Why there is no ``checkpoint``.
    """

    path: Path
    checkpoint: Checkpoint | None = None
    seal: Seal | None = None
    problems: list[str] = field(default_factory=list)


def read_folder(path: Path) -> Folder:
    """Read meta data and seal of a folder; whatever is wrong is in ``problems``."""
    folder = Folder(path)
    seal_path, meta_path = path / SEAL, path / METAFNAME
    try:
        if seal_path.exists():
            folder.seal = Seal.read(seal_path)
        if not meta_path.exists():
            raise ValueError(f"{METAFNAME}: missing")
        if folder.seal is not None:
            problem = sealed_problem(meta_path, folder.seal.files.get(METAFNAME))
            if problem:
                raise ValueError(
                    f"{problem} (edited on purpose? then remove {SEAL} beside it)"
                )
        meta = _read_meta(meta_path)
    except (OSError, ValueError) as error:
        folder.problems = [str(error)]
        return folder
    paramfiles = {p.stem: p for p in path.iterdir() if p.suffix == PARAMFILE_EXT}
    folder.checkpoint = Checkpoint(path, meta, paramfiles)
    return folder


def _read_meta(path: Path) -> dict:
    """Read CKPT.yaml; raises ValueError with the reason if it is of no use."""
    text = path.read_bytes()
    if not text.strip():
        raise ValueError(f"{METAFNAME}: empty")
    try:
        meta = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{METAFNAME}: not readable as YAML ({reason})") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{METAFNAME}: holds no keys")
    recency = meta.get("unixtime")
    if not isinstance(recency, (int, float)) or recency != recency:
        raise ValueError(f"{METAFNAME}: lacks 'unixtime', a number (cut off?)")
    if "end-of-epoch" not in meta:
        raise ValueError(f"{METAFNAME}: lacks 'end-of-epoch' (cut off?)")
    return meta


def sealed_problem(path: Path, entry: Mapping | None) -> str | None:
    """Say how a file differs from what its seal promises, or return None."""
    if entry is None:
        return f"{path.name}: not in {SEAL}"
    try:
        size = path.stat().st_size
        if size == 0 and entry["bytes"]:
            return f"{path.name}: empty"
        if size != entry["bytes"]:
            return f"{path.name}: {size} bytes instead of {entry['bytes']}"
        if sha256_file(path) != entry["sha256"]:
            return f"{path.name}: changed since it was written (SHA-256 differs)"
    except FileNotFoundError:
        return f"{path.name}: missing"
    except OSError as error:
        return f"{path.name}: can't be read ({error.strerror})"
    return None


def stock_problem(path: Path, *, is_torch: bool) -> str | None:
    """Say what is visibly wrong with a file without a seal, or return None.

    Arguments
    ---------
    path : Path
        A file written by stock.
    is_torch : bool
        Whether it ought to be torch's, and hence can't be empty. Of other files
        (counters as text) nothing is known that could be checked.
    """
    try:
        if path.stat().st_size == 0:
            return f"{path.name}: empty" if is_torch else None
        if _is_archive(path):
            return _archive_problem(path)
    except OSError as error:
        return f"{path.name}: can't be read ({error.strerror})"
    return None


def _is_archive(path: Path) -> bool:
    """Whether a file is, or was, an archive such as torch.save writes."""
    with open(path, "rb") as stream:
        return stream.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(path)


def _archive_problem(path: Path) -> str | None:
    """Compare the CRC-32 that torch.save writes and torch.load does not look at."""
    bad = []
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            for record in records:
                try:
                    with archive.open(record) as stream:
                        while stream.read(1 << 20):
                            pass
                except (zipfile.BadZipFile, zlib.error, EOFError):
                    bad.append(record.filename)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return f"{path.name}: cut off or damaged ({error})"
    # torch.serialization.set_crc32_options(False) writes none that fits.
    if bad and len(bad) < len(records):
        return f"{path.name}: damaged (CRC-32 of {bad[0]} differs)"
    return None


def file_kinds(path: Path) -> dict[str, Kinds]:
    """Names and kinds of the non-finite tensors in a torch file.

    A file of another form, or one with classes that ``weights_only`` refuses, holds
    none that could be looked at.

    Raises
    ------
    ValueError
        If it is torch's and can't be read.
    """
    try:
        if not _is_archive(path):
            return {}
        with zipfile.ZipFile(path) as archive:
            records = {name.rpartition("/")[2] for name in archive.namelist()}
        if "data.pkl" not in records or "constants.pkl" in records:
            return {}  # another program's archive, or TorchScript
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        return {}
    except (RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"{path.name}: can't be loaded ({reason})") from error
    return nonfinite_kinds(nested_tensors(content))


def finite_problem(path: Path, allowed: AllowedKinds) -> str | None:
    """Say what a file holds that it must not, or return None."""
    try:
        lines = file_lines(allowed.excess(path.stem, file_kinds(path)))
    except ValueError as error:
        return str(error)
    if not lines:
        return None
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return f"{path.name}: {', '.join(lines[:3])}{more}"


def verify_folder(path: str | os.PathLike) -> list[str]:
    """Verify one checkpoint folder completely, without any model.

    Arguments
    ---------
    path : str or PathLike
        A folder named CKPT+..., written by `VerifiedCheckpointer` or by stock.

    Returns
    -------
    list[str]
        What is wrong, one line for each file; empty if nothing is. Of a folder that
        stock wrote only readability, CRC-32 and finiteness are known.
    """
    folder = read_folder(Path(path))
    if folder.checkpoint is None:
        return folder.problems
    allowed = AllowedKinds()
    problems = []
    if folder.seal is not None:
        for name, entry in folder.seal.files.items():
            problem = sealed_problem(folder.path / name, entry)
            problems += [problem] if problem else []
        for name, kinds in folder.seal.nonfinite.items():
            allowed.see(name, None)
            allowed.extend(name, kinds)
    for path in sorted(folder.checkpoint.paramfiles.values()):
        problem = None
        if path.name not in (folder.seal.files if folder.seal is not None else {}):
            # A text without a seal may be anything, but it is not empty.
            problem = None if path.is_dir() else stock_problem(path, is_torch=True)
        elif any(line.startswith(f"{path.name}:") for line in problems):
            continue
        if problem is None and path.is_file():
            problem = finite_problem(path, allowed)
        problems += [problem] if problem else []
    return problems
