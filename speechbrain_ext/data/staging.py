"""Audio on its way into a data folder: made beside it, moved in when all is well.

New audio waits in ``.staging`` until all checks have passed, so a run that fails leaves
the earlier data as it was. One run at a time; a killed one is gone on with.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from speechbrain_ext.data.check import Rejected, check_rejections, write_rejected
from speechbrain_ext.data.convert import Converted, Trim, convert_all, read_journal
from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.manifest import STATE_NAME, Utterance
from speechbrain_ext.data.split import Candidate, find_copies
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json, write_text

JOURNAL_NAME = ".journal.jsonl"
STAGING_NAME = ".staging"
LISTING_NAME = "rejected.tsv"
FAILED_NAME = "rejected.failed.tsv"


@dataclass(frozen=True)
class StagedAudio:
    """A corpus' recordings, converted and judged, not yet in their place.

    Arguments
    ---------
    folder : Path
        The data folder.
    sample_rate : int
        Of the audio, Hz.
    items : list of Item
        The recordings.
    done : list of Converted
        What became of them, in the same order.
    rejected : list of Rejected
        The faulty ones.
    good : list of Candidate
        The others, with copies.
    num_reused : int
        How many were converted by earlier runs.
    journal : dict
        utt_id -> what earlier runs did.
    """

    folder: Path
    sample_rate: int
    items: list[Item]
    done: list[Converted]
    rejected: list[Rejected]
    good: list[Candidate]
    num_reused: int
    journal: dict[str, Converted]

    @cached_property
    def copies(self) -> dict[str, str]:
        """utt_id of a recording whose audio is there already -> of the other one."""
        return find_copies(self.good)

    @cached_property
    def kept(self) -> list[Candidate]:
        """The good ones without copies, in the corpus' order."""
        return [one for one in self.good if one.utt_id not in self.copies]

    @cached_property
    def utterances(self) -> dict[str, Utterance]:
        """utt_id -> each good one as a manifest names it when it has moved in."""
        result_of = {result.utt_id: result for result in self.done if not result.reason}
        # Of two recordings with one name the first sound one was converted.
        item_of = {i.utt_id: i for i in reversed(self.items) if not i.fault}
        return {
            one.utt_id: Utterance(
                utt_id=one.utt_id,
                wav=self.folder / "wav" / f"{one.utt_id}.wav",
                duration=result_of[one.utt_id].num_samples / self.sample_rate,
                sample_rate=self.sample_rate,
                spk_id=one.spk_id,
                sha256=result_of[one.utt_id].sha256,
                source=item_of[one.utt_id].source,
            )
            for one in self.good
        }

    def path_now(self, utt_id: str) -> Path:
        """Return where a good one's audio lies before `settle`."""
        path = self.folder / STAGING_NAME / f"{utt_id}.wav"
        return path if path.exists() else self.folder / "wav" / path.name

    def settle(self) -> None:
        """Move new audio to its place; from here on nothing may fail but the disk."""
        staging, wav_folder = self.folder / STAGING_NAME, self.folder / "wav"
        wav_folder.mkdir(exist_ok=True)
        wanted = {one.utt_id for one in self.good}
        for path in staging.iterdir():
            if path.stem in wanted:
                os.replace(path, wav_folder / path.name)
        shutil.rmtree(staging)

    def finish(self, state: Mapping[str, Any]) -> None:
        """Write what was left out and the settings; forget what is no longer there.

        Arguments
        ---------
        state : Mapping
            For ``prepare.json``.
        """
        path_of = {i.utt_id: str(i.path) for i in self.items if not i.fault}
        listed = self.rejected + [
            Rejected(copy, path_of[copy], f"copy: the same audio as {original}")
            for copy, original in self.copies.items()
        ]
        write_rejected(self.folder / LISTING_NAME, listed)
        (self.folder / FAILED_NAME).unlink(missing_ok=True)
        write_json(self.folder / STATE_NAME, state)
        # Audio that we wrote once and that this corpus no longer has.
        good = {result.utt_id for result in self.done if result.reason is None}
        for utt_id in self.journal.keys() - good:
            (self.folder / "wav" / f"{utt_id}.wav").unlink(missing_ok=True)
        lines = [json.dumps(asdict(one)) + "\n" for one in self.done if one.stamp]
        write_text(self.folder / JOURNAL_NAME, "".join(lines))

    def describe_losses(self) -> str:
        """Return a line about what was left out, or nothing."""
        if not self.rejected and not self.copies:
            return ""
        return (
            f"prepare: {len(self.rejected)} of {len(self.items)} recordings rejected, "
            f"{len(self.copies)} copies left out: {self.folder / LISTING_NAME}"
        )


@contextlib.contextmanager
def stage_audio(
    items: Iterable[Item],
    folder: Path,
    *,
    sample_rate: int,
    max_rejected: float,
    manifests: Collection[str],
    nj: int = 1,
    trim: Trim | None = None,
    link: bool = False,
) -> Iterator[StagedAudio]:
    """Convert a corpus' recordings beside their place, and hold the folder meanwhile.

    Arguments
    ---------
    items : Iterable of Item
        The recordings; see `speechbrain_ext.data.corpora`.
    folder : Path
        The data folder.
    sample_rate : int
        Of the written audio, Hz.
    max_rejected : float
        Largest part that may be rejected, in [0, 1].
    manifests : Collection of str
        Names of the files that the caller writes into ``folder``: half-written ones
        of a killed run are removed.
    nj : int
        Number of jobs at a time.
    trim, link
        As `speechbrain_ext.data.convert.convert_all`.

    Yields
    ------
    StagedAudio

    Raises
    ------
    UserError
        If there is no recording, ``folder`` holds audio that isn't ours, or another
        run is at work in it.
    WorkError
        If too many recordings are rejected.
    """
    items = list(items)
    journal_path = folder / JOURNAL_NAME
    _check_places(items, folder, journal_path)
    folder.mkdir(parents=True, exist_ok=True)
    with open(journal_path, "a", encoding="utf-8") as stream:
        _lock(stream, folder)
        journal = read_journal(journal_path)
        _remove_leftovers(folder, manifests)
        done, num_reused = convert_all(
            items,
            folder / STAGING_NAME,
            folder / "wav",
            sample_rate,
            journal,
            stream,
            nj,
            trim=trim,
            link=link,
        )
        rejected, good = _sort_out(items, done, max_rejected, folder / FAILED_NAME)
        yield StagedAudio(
            folder, sample_rate, items, done, rejected, good, num_reused, journal
        )


def _sort_out(
    items: Sequence[Item], done: Sequence[Converted], limit: float, listing: Path
) -> tuple[list[Rejected], list[Candidate]]:
    """Part the faulty from the good, and stop if too many are faulty."""
    rejected, good = [], []
    for item, result in zip(items, done, strict=True):
        if result.reason:
            rejected.append(Rejected(item.utt_id, str(item.path), result.reason))
        else:
            good.append(Candidate(item.utt_id, item.spk_id, item.role, result.sha256))
    if len(rejected) > limit * len(items):
        write_rejected(listing, rejected)
    check_rejections(rejected, len(items), limit, listing)
    return rejected, good


def _check_places(items: Sequence[Item], folder: Path, journal: Path) -> None:
    """Refuse to write over, or to read, what isn't ours to."""
    if not items:
        raise UserError("prepare: the corpus has no recording at all")
    if (folder / "wav").exists() and not journal.exists():
        raise UserError(
            f"prepare: {folder / 'wav'} holds files that were not made by this "
            "command; choose another --datadir"
        )
    ours = Path(os.path.abspath(folder))
    for item in items:
        path = Path(os.path.abspath(item.path))
        if ours / "wav" in path.parents or ours / STAGING_NAME in path.parents:
            raise UserError(
                f"prepare: {path} is prepared audio, not a recording: --datadir "
                f"{folder} lies inside the folder that is read; choose "
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


def _remove_leftovers(folder: Path, manifests: Collection[str]) -> None:
    """Remove half-written files of a killed run; finished ones stay."""
    staging = folder / STAGING_NAME
    staging.mkdir(parents=True, exist_ok=True)
    leftovers = list(staging.glob(".*"))
    for name in [*manifests, STATE_NAME, LISTING_NAME, FAILED_NAME, JOURNAL_NAME]:
        stem, suffix = os.path.splitext(name)
        leftovers += folder.glob(f".{stem}.*{suffix}")  # as `atomic_path` names them
    for path in leftovers:
        path.unlink()
