"""Manifests: which utterances play which role, with their lengths and hashes.

One JSON object per role (`train.json`, `valid.json`, `test.json`), readable by
SpeechBrain's ``DynamicItemDataset.from_json``::

    {"utt_id": {"wav": "wav/utt_id.wav", "duration": 3.2, "sample_rate": 16000,
                "spk_id": "f1", "sha256": "9f86...", "source": "klettres"}}

``wav`` is relative to the manifest's folder, or absolute. ``source`` is there only if
it is known.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file, write_json

#: Written beside the manifests by `prepare`; names the command that remakes them.
STATE_NAME = "prepare.json"

#: The same beside the manifests of one of several splits.
SPLIT_NAME = "split.json"

_MAX_FAULTS_SHOWN = 20


class ManifestError(UserError):
    """A manifest, or the audio it names, is not what preparation left behind."""


@dataclass(frozen=True)
class Utterance:
    """One audio file with one role.

    Arguments
    ---------
    utt_id : str
        Name, unique within a data folder.
    wav : Path
        Absolute path of a mono file.
    duration : float
        In seconds (> 0).
    sample_rate : int
        In Hz.
    spk_id : str or None
        Speaker where known.
    sha256 : str
        Hexadecimal hash of the file's bytes.
    source : str or None
        Where recordings share a room and a microphone, such as a package, if known.
    """

    utt_id: str
    wav: Path
    duration: float
    sample_rate: int
    spk_id: str | None
    sha256: str
    source: str | None = None

    @property
    def num_samples(self) -> int:
        """Length in samples."""
        return round(self.duration * self.sample_rate)


def write_manifest(
    path: str | os.PathLike,
    utterances: Iterable[Utterance],
    data_folder: str | os.PathLike | None = None,
) -> None:
    """Write a manifest atomically, sorted by utt_id.

    Audio below the manifest's folder, or below ``data_folder`` if the manifest lies in
    it, is written as a relative path, so that the data folder can be moved as a whole.

    Arguments
    ---------
    path : str or PathLike
        The JSON file.
    utterances : Iterable of Utterance
        What it shall hold.
    data_folder : str or PathLike, optional
        Folder above the manifest's: audio in it is named ``../wav/a.wav``.

    Raises
    ------
    ValueError
        If two utterances have one name.
    """
    # Not resolve(): a linked data folder still holds its own audio.
    folder = Path(os.path.abspath(path)).parent
    home = folder if data_folder is None else Path(os.path.abspath(data_folder))
    entries = {}
    for utterance in sorted(utterances, key=lambda utterance: utterance.utt_id):
        wav = Path(os.path.abspath(utterance.wav))
        if utterance.utt_id in entries:
            raise ValueError(f"write_manifest: two utterances {utterance.utt_id!r}")
        entries[utterance.utt_id] = {
            "wav": os.path.relpath(wav, folder) if home in wav.parents else str(wav),
            "duration": utterance.duration,
            "sample_rate": utterance.sample_rate,
            "spk_id": utterance.spk_id,
            "sha256": utterance.sha256,
        }
        if utterance.source is not None:
            entries[utterance.utt_id]["source"] = utterance.source
    write_json(path, entries)


def read_manifest(path: str | os.PathLike) -> dict[str, Utterance]:
    """Read a manifest; the audio itself is not looked at, see `verify_manifest`.

    Arguments
    ---------
    path : str or PathLike
        A JSON file; keys beyond those of this module are ignored.

    Returns
    -------
    dict
        utt_id -> `Utterance`, in the file's order, with absolute paths.

    Raises
    ------
    ManifestError
        If the file is missing, is not whole JSON, holds an utterance twice, is empty,
        or an entry lacks a field or has a wrong one; all faults together.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"manifest {path}: no such file\n{_remedy(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest {path}: unreadable: {error}") from None
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return entries

    try:
        entries = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"manifest {path}: not valid JSON (line {error.lineno}: {error.msg}); "
            f"the file is truncated or was edited\n{_remedy(path)}"
        ) from None
    if not isinstance(entries, dict) or not entries:
        what = "is empty" if entries == {} else "is not a JSON object of utterances"
        raise ManifestError(f"manifest {path}: {what}\n{_remedy(path)}")
    faults = [f"{name}: appears twice" for name in twice]
    folder = path.resolve().parent
    utterances = {}
    for utt_id, entry in entries.items():
        wrong = _faults_of(entry)
        faults += [f"{utt_id}: {fault}" for fault in wrong]
        if not wrong:
            utterances[utt_id] = Utterance(
                utt_id=utt_id,
                wav=Path(os.path.normpath(folder / entry["wav"])),
                duration=float(entry["duration"]),
                sample_rate=entry["sample_rate"],
                spk_id=entry.get("spk_id"),
                sha256=entry["sha256"],
                source=entry.get("source"),
            )
    if faults:
        raise ManifestError(_report(path, faults))
    return utterances


def _faults_of(entry: Any) -> list[str]:
    """Say what is wrong with one entry of the JSON object."""
    if not isinstance(entry, dict):
        return [f"must be an object, is {type(entry).__name__}"]
    rules = {
        "wav": (lambda v: isinstance(v, str) and v != "", "a path"),
        "duration": (
            lambda v: type(v) in (int, float) and math.isfinite(v) and v > 0,
            "positive seconds",
        ),
        "sample_rate": (lambda v: type(v) is int and v > 0, "a positive integer, Hz"),
        "spk_id": (lambda v: v is None or isinstance(v, str), "text or null"),
        "sha256": (lambda v: isinstance(v, str) and len(v) == 64, "64 hex digits"),
        "source": (lambda v: v is None or isinstance(v, str), "text or null"),
    }
    return [
        f"{key} must be {rule}, is {entry.get(key)!r}"
        for key, (is_right, rule) in rules.items()
        if not is_right(entry.get(key))
    ]


def verify_manifest(
    path: str | os.PathLike, *, hashes: bool = True
) -> dict[str, Utterance]:
    """Read a manifest and look at every file it names, before training does.

    Arguments
    ---------
    path : str or PathLike
        The manifest.
    hashes : bool
        Also compare the SHA-256 of every file; False only finds missing and empty
        ones (for corpora too large to be read again).

    Returns
    -------
    dict
        As `read_manifest`.

    Raises
    ------
    ManifestError
        With every missing or changed file at once, and the command that remakes them.
    """
    utterances = read_manifest(path)
    faults = []
    for utterance in utterances.values():
        try:
            if utterance.wav.stat().st_size == 0:
                faults.append(f"{utterance.utt_id}: {utterance.wav}: empty")
            elif hashes and sha256_file(utterance.wav) != utterance.sha256:
                faults.append(f"{utterance.utt_id}: {utterance.wav}: changed")
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else error
            faults.append(f"{utterance.utt_id}: {utterance.wav}: {reason}")
    if faults:
        raise ManifestError(_report(Path(path), faults))
    return utterances


def split_hash(*paths: str | os.PathLike) -> str:
    """Name a split by its content: SHA-256 over sorted (role, utt_id, sha256).

    The role is the manifest's stem. Neither folders nor order matter, so two machines
    that prepared the same split agree.

    Arguments
    ---------
    *paths : str or PathLike
        One or several manifests.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    lines = [
        f"{Path(path).stem}\t{utterance.utt_id}\t{utterance.sha256}\n"
        for path in paths
        for utterance in read_manifest(path).values()
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def content_hash(utterances: Mapping[str, Utterance]) -> str:
    """Name what a manifest holds: SHA-256 over sorted (utt_id, sha256, speaker).

    Neither its name nor its place matters; see `split_hash` for several roles.
    """
    lines = sorted(
        f"{one.utt_id}\t{one.sha256}\t{one.spk_id or ''}\n"
        for one in utterances.values()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def total_seconds(utterances: Mapping[str, Utterance]) -> float:
    """Sum of all durations, in seconds."""
    return math.fsum(utterance.duration for utterance in utterances.values())


def _report(path: Path, faults: list[str]) -> str:
    shown = [f"  {fault}" for fault in faults[:_MAX_FAULTS_SHOWN]]
    if len(faults) > len(shown):
        shown.append(f"  ... and {len(faults) - len(shown)} more")
    plural = "problem" if len(faults) == 1 else "problems"
    head = f"manifest {path} ({len(faults)} {plural})"
    return "\n".join([head, *shown, _remedy(path)])


def _remedy(path: Path) -> str:
    """Return the command that makes this manifest again."""
    for name in (STATE_NAME, SPLIT_NAME):
        try:
            state = json.loads((path.parent / name).read_text(encoding="utf-8"))
            return f"make it again with: {state['command']}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "make it again with the recipe's prepare stage: ./run.sh --stage prepare"
