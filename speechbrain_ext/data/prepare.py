"""From a corpus to manifests: decode, check, convert, split, write.

A data folder afterwards holds::

    wav/<utt_id>.wav            16 kHz mono PCM16
    train.json valid.json test.json
    rejected.tsv                what was left out, and why
    prepare.json                the settings, and the command that made all this
    .journal.jsonl              what is done, so that a killed run goes on

Everything but the journal is a pure function of the recordings and the settings: any
number of jobs and any interruption give the same bytes. New audio waits in ``.staging``
until all checks have passed, so a run that fails leaves the earlier data as it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from speechbrain_ext.data.check import (
    Rejected,
    check_rejections,
    write_rejected,
)
from speechbrain_ext.data.convert import Converted, convert_all, read_journal
from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.manifest import (
    STATE_NAME,
    Utterance,
    total_seconds,
    write_manifest,
)
from speechbrain_ext.data.split import ROLES, Candidate, find_copies, split_roles
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json, write_text

_JOURNAL_NAME = ".journal.jsonl"
_STAGING_NAME = ".staging"
_LISTING_NAME = "rejected.tsv"
_FAILED_NAME = "rejected.failed.tsv"


@dataclass(frozen=True)
class Settings:
    """What decides the prepared data, beside the recordings.

    Arguments
    ---------
    sample_rate : int
        Of the written audio, Hz.
    seed : int
        Of the split.
    counts : dict
        Role -> number of utterances, None for the default; see `split_roles`.
    split_by : str
        ``auto``, ``speaker`` or ``utterance``.
    max_rejected : float
        Largest part that may be rejected, in [0, 1].
    """

    sample_rate: int = 16000
    seed: int = 1
    counts: dict[str, int | None] = field(default_factory=dict)
    split_by: str = "auto"
    max_rejected: float = 0.2


@dataclass(frozen=True)
class Summary:
    """What came out of preparation.

    Arguments
    ---------
    num_utterances, seconds : dict
        Per role.
    rejected : list of Rejected
        Faulty recordings; copies are not among them.
    num_copies : int
        Recordings left out because their audio was there already.
    split_by : str
        ``corpus``, ``speaker`` or ``utterance``.
    num_reused : int
        Recordings that were done before and taken over.
    """

    num_utterances: dict[str, int]
    seconds: dict[str, float]
    rejected: list[Rejected]
    num_copies: int
    split_by: str
    num_reused: int


def prepare(
    items: Iterable[Item],
    folder: str | os.PathLike,
    settings: Settings | None = None,
    *,
    command: str = "",
    nj: int = 1,
    log: Callable[[str], None] = print,
) -> Summary:
    """Prepare a data folder from a corpus' items.

    Arguments
    ---------
    items : Iterable of Item
        The recordings; see `speechbrain_ext.data.corpora`.
    folder : str or PathLike
        The data folder.
    settings : Settings, optional
        Defaults to ``Settings()``.
    command : str
        The command that prepares this folder, for the messages of later stages.
    nj : int
        Number of jobs at a time.
    log : Callable
        Gets one line of text at a time.

    Returns
    -------
    Summary

    Raises
    ------
    UserError
        If there is no recording, or ``folder`` holds audio that isn't ours.
    WorkError
        If too many recordings are rejected, or a role would stay empty. The earlier
        contents of ``folder`` are intact.
    """
    settings = settings or Settings()
    folder = Path(folder)
    wav_folder, staging = folder / "wav", folder / _STAGING_NAME
    journal_path = folder / _JOURNAL_NAME
    items = list(items)
    _check_places(items, wav_folder, journal_path)
    folder.mkdir(parents=True, exist_ok=True)
    with open(journal_path, "a", encoding="utf-8") as stream:
        _lock(stream, folder)
        journal = read_journal(journal_path)
        _remove_leftovers(folder, staging)
        done, num_reused = convert_all(
            items, staging, wav_folder, settings.sample_rate, journal, stream, nj
        )
        rejected, good = _sort_out(items, done, settings, folder / _FAILED_NAME)
        copies = find_copies(good)
        kept = [candidate for candidate in good if candidate.utt_id not in copies]
        roles, how = split_roles(
            kept, settings.seed, settings.counts, settings.split_by
        )
        # From here on nothing can fail but the disk.
        _settle(staging, wav_folder, {candidate.utt_id for candidate in good})
        seconds = _write_manifests(folder, roles, good, done, settings.sample_rate)
        _write_listings(folder, items, rejected, copies, settings, command, how)
        _forget_strangers(journal_path, wav_folder, journal, done)
    summary = Summary(
        num_utterances={role: len(roles[role]) for role in ROLES},
        seconds=seconds,
        rejected=rejected,
        num_copies=len(copies),
        split_by=how,
        num_reused=num_reused,
    )
    _report(summary, folder, len(items), log)
    return summary


def _sort_out(
    items: Sequence[Item], done: Sequence[Converted], settings: Settings, listing: Path
) -> tuple[list[Rejected], list[Candidate]]:
    """Part the faulty from the good, and stop if too many are faulty."""
    rejected, good = [], []
    for item, result in zip(items, done, strict=True):
        if result.reason:
            rejected.append(Rejected(item.utt_id, str(item.path), result.reason))
        else:
            good.append(Candidate(item.utt_id, item.spk_id, item.role, result.sha256))
    if len(rejected) > settings.max_rejected * len(items):
        write_rejected(listing, rejected)
    check_rejections(rejected, len(items), settings.max_rejected, listing)
    return rejected, good


def _write_manifests(folder, roles, good, done, sample_rate: int) -> dict[str, float]:
    """Write the three manifests; return their lengths in seconds."""
    speaker_of = {candidate.utt_id: candidate.spk_id for candidate in good}
    result_of = {result.utt_id: result for result in done if not result.reason}
    seconds = {}
    for role, utt_ids in roles.items():
        utterances = {
            utt_id: Utterance(
                utt_id=utt_id,
                wav=folder / "wav" / f"{utt_id}.wav",
                duration=result_of[utt_id].num_samples / sample_rate,
                sample_rate=sample_rate,
                spk_id=speaker_of[utt_id],
                sha256=result_of[utt_id].sha256,
            )
            for utt_id in utt_ids
        }
        write_manifest(folder / f"{role}.json", utterances.values())
        seconds[role] = total_seconds(utterances)
    return seconds


def _check_places(items: Sequence[Item], wav_folder: Path, journal: Path) -> None:
    """Refuse to write over, or to read, what isn't ours to."""
    if not items:
        raise UserError("prepare: the corpus has no recording at all")
    if wav_folder.exists() and not journal.exists():
        raise UserError(
            f"prepare: {wav_folder} holds files that were not made by this command; "
            "choose another --datadir"
        )
    ours = Path(os.path.abspath(wav_folder.parent))
    for item in items:
        path = Path(os.path.abspath(item.path))
        if ours / "wav" in path.parents or ours / _STAGING_NAME in path.parents:
            raise UserError(
                f"prepare: {path} is prepared audio, not a recording: --datadir "
                f"{wav_folder.parent} lies inside the folder that is read; choose "
                "another --datadir"
            )


def _lock(stream: TextIO, folder: Path) -> None:
    """Keep a second run out of this folder until the first has ended."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"prepare: another run is preparing {folder} right now; wait for it"
        ) from None


def _remove_leftovers(folder: Path, staging: Path) -> None:
    """Remove half-written files of a killed run; finished ones stay."""
    staging.mkdir(parents=True, exist_ok=True)
    leftovers = list(staging.glob(".*"))
    ours = [f"{role}.json" for role in ROLES]
    for name in [*ours, STATE_NAME, _LISTING_NAME, _FAILED_NAME, _JOURNAL_NAME]:
        stem, suffix = os.path.splitext(name)
        leftovers += folder.glob(f".{stem}.*{suffix}")  # as `atomic_path` names them
    for path in leftovers:
        path.unlink()


def _settle(staging: Path, wav_folder: Path, wanted: set[str]) -> None:
    """Move new audio to its place."""
    wav_folder.mkdir(exist_ok=True)
    for path in staging.iterdir():
        if path.stem in wanted:
            os.replace(path, wav_folder / path.name)
    shutil.rmtree(staging)


def _write_listings(folder, items, rejected, copies, settings, command, how) -> None:
    path_of = {item.utt_id: str(item.path) for item in items if not item.fault}
    listed = rejected + [
        Rejected(copy, path_of[copy], f"copy: the same audio as {original}")
        for copy, original in copies.items()
    ]
    write_rejected(folder / _LISTING_NAME, listed)
    (folder / _FAILED_NAME).unlink(missing_ok=True)
    state = {"command": command, "split": how, **asdict(settings)}
    write_json(folder / STATE_NAME, state)


def _forget_strangers(
    journal_path: Path,
    wav_folder: Path,
    journal: dict[str, Converted],
    done: Sequence[Converted],
) -> None:
    """Remove audio that we wrote once and that this corpus no longer has."""
    good = {result.utt_id for result in done if result.reason is None}
    for utt_id in journal.keys() - good:
        (wav_folder / f"{utt_id}.wav").unlink(missing_ok=True)
    lines = [json.dumps(asdict(result)) + "\n" for result in done if result.stamp]
    write_text(journal_path, "".join(lines))


def _report(summary: Summary, folder: Path, num_items: int, log) -> None:
    sizes = ", ".join(
        f"{role} {summary.num_utterances[role]} ({summary.seconds[role] / 60:.1f} min)"
        for role in ROLES
    )
    log(f"prepare: {folder}: {sizes}; split by {summary.split_by}")
    if summary.rejected or summary.num_copies:
        log(
            f"prepare: {len(summary.rejected)} of {num_items} recordings rejected, "
            f"{summary.num_copies} copies left out: {folder / 'rejected.tsv'}"
        )
