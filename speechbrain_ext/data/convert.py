"""Recordings to uniform WAV files, in parallel, going on where a killed run stopped.

Each finished recording is a line in a journal. A line is believed only if the source's
size and time are what it says, and the audio's hash too.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import soundfile

from speechbrain_ext.data.audio import AudioError, save_audio
from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.progress import progress_bar
from speechbrain_ext.data.recording import load_recording
from speechbrain_ext.files import sha256_file

# Raise it when the same source would give other samples than before.
_FORMAT = 1


@dataclass(frozen=True)
class Converted:
    """What became of one recording; a line of the journal.

    Arguments
    ---------
    utt_id, source : str
        Its name, and its absolute path.
    stamp : str
        Size and time of the source, the format it was converted to, and how it was
        cut.
    num_samples : int
        Length of the written audio.
    sha256 : str
        Hash of the written file.
    reason : str or None
        Why it was rejected instead.
    """

    utt_id: str
    source: str
    stamp: str
    num_samples: int = 0
    sha256: str = ""
    reason: str | None = None


class Trim(Protocol):
    """Cuts a recording to what is of use, such as `vad.SpeechDetector`.

    It is called from several threads.
    """

    #: Names all settings: recordings that another stamp cut are cut again.
    stamp: str

    def __call__(
        self, wav: np.ndarray, sample_rate: int
    ) -> tuple[np.ndarray, str | None]:
        """Return the samples to keep, [time], and None or a reason to reject them."""


def convert(
    item: Item,
    target: Path,
    sample_rate: int,
    trim: Trim | None = None,
    link: bool = False,
) -> tuple[int, str, str | None]:
    """Decode, check, cut and write one recording.

    Arguments
    ---------
    item : Item
        Where it comes from.
    target : Path
        The WAV file to write; not touched if the recording is faulty.
    sample_rate : int
        In Hz.
    trim : Trim, optional
        Sees the checked and resampled samples; nothing is cut without it.
    link : bool
        A mono PCM16 WAV file of this rate is not copied: ``target`` becomes a second
        name (hard link) of it, where the file system can. Not together with ``trim``.

    Returns
    -------
    int
        Number of samples written.
    str
        SHA-256 of the file.
    str or None
        A reason to reject it, or None.
    """
    try:
        wav = load_recording(item.path, sample_rate, trim)
    except AudioError as error:
        return 0, "", error.reason
    if not (link and trim is None and _link(item.path, target, sample_rate)):
        save_audio(target, wav, sample_rate)
    return len(wav), sha256_file(target), None


def _link(source: Path, target: Path, sample_rate: int) -> bool:
    """Give a source that needs no conversion a second name, if that can be."""
    try:
        info = soundfile.info(source)
    except soundfile.LibsndfileError:  # of those that only PyAV reads
        return False
    ready = ("WAV", "PCM_16", 1, sample_rate)
    if (info.format, info.subtype, info.channels, info.samplerate) != ready:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or not ours: then a copy
        return False
    return True


def convert_all(
    items: Sequence[Item],
    staging: Path,
    finished: Path,
    sample_rate: int,
    journal: Mapping[str, Converted],
    stream: TextIO,
    nj: int = 1,
    *,
    trim: Trim | None = None,
    link: bool = False,
) -> tuple[list[Converted], int]:
    """Convert every recording that has no fault and isn't done.

    Arguments
    ---------
    items : Sequence of Item
        The recordings.
    staging, finished : Path
        Folders: where new audio goes, and where audio of earlier runs may lie.
    sample_rate : int
        In Hz.
    journal : Mapping
        utt_id -> what earlier runs did.
    stream : TextIO
        The journal, open for appending.
    nj : int
        Number of threads; decoders and filters work outside Python's lock.
    trim, link
        As `convert`.

    Returns
    -------
    list of Converted
        In the order of ``items``.
    int
        How many were done before.
    """
    results: list[Converted | None] = [None] * len(items)
    seen: set[str] = set()
    todo = []
    for index, item in enumerate(items):
        fault = item.fault
        if fault is None and item.utt_id in seen:
            fault = f"wrongly labelled: a second recording is called {item.utt_id}"
        if fault is None:
            seen.add(item.utt_id)
            todo.append(index)
        else:
            results[index] = Converted(
                item.utt_id, os.path.abspath(item.path), "", reason=fault
            )
    num_reused = 0
    folders = (staging, finished)
    with progress_bar() as progress, _pool(nj) as submit:
        task = progress.add_task("prepare", total=len(todo), unit="recordings")

        def work() -> Iterator[tuple[int, Future]]:
            for index in todo:
                before = journal.get(items[index].utt_id)
                job = (items[index], folders, sample_rate, before, trim, link)
                yield index, submit(_reuse_or_convert, *job)

        for index, (result, reused) in _as_completed(work(), limit=4 * nj):
            results[index] = result
            num_reused += reused
            if not reused:
                stream.write(json.dumps(asdict(result)) + "\n")
                stream.flush()
            progress.advance(task)
    return results, num_reused


def _reuse_or_convert(
    item: Item,
    folders: tuple[Path, Path],
    sample_rate: int,
    before: Converted | None,
    trim: Trim | None,
    link: bool,
) -> tuple[Converted, bool]:
    source = os.path.abspath(item.path)
    stamp = _stamp(item.path, sample_rate, trim, link)
    name = f"{item.utt_id}.wav"
    if before is not None and (before.source, before.stamp) == (source, stamp):
        if before.reason is not None:
            return before, True
        for folder in folders:
            path = folder / name
            if path.is_file() and sha256_file(path) == before.sha256:
                return before, True
    num_samples, sha256, reason = convert(
        item, folders[0] / name, sample_rate, trim, link
    )
    return Converted(item.utt_id, source, stamp, num_samples, sha256, reason), False


def _stamp(path: Path, sample_rate: int, trim: Trim | None, link: bool) -> str:
    """Identify a source's content without reading it, and what is done to it."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    stamp = f"{_FORMAT} {sample_rate} {stat.st_size} {stat.st_mtime_ns}"
    if trim is not None:
        return f"{stamp} {trim.stamp}"
    return f"{stamp} linked" if link else stamp


@contextlib.contextmanager
def _pool(nj: int) -> Iterator[Callable[..., Future]]:
    """Yield a ``submit``; with one job it works at once, without threads."""
    if nj <= 1:

        def submit(function, *args) -> Future:
            future: Future = Future()
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)
            return future

        yield submit
        return
    executor = ThreadPoolExecutor(nj)
    try:
        yield executor.submit
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _as_completed(work: Iterator[tuple[int, Future]], limit: int):
    """Yield (index, result), with at most ``limit`` tasks waiting at a time."""
    running: dict[Future, int] = {}
    for index, future in work:
        running[future] = index
        if future.done() or len(running) >= limit:
            yield from _collect(running)
    while running:
        yield from _collect(running)


def _collect(running: dict[Future, int]):
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()


def read_journal(path: Path) -> dict[str, Converted]:
    """Read what earlier runs did; a line that a kill tore in two is passed over.

    Returns
    -------
    dict
        utt_id -> its last line.
    """
    journal = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = Converted(**json.loads(line))
            except (ValueError, TypeError):
                continue
            journal[entry.utt_id] = entry
        # What follows must not be glued to a torn line.
        with open(path, "a", encoding="utf-8") as stream:
            stream.write("\n")
    return journal
