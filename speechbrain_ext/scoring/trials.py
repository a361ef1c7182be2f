"""Trial lists in the official format of VoxCeleb, and files of scores.

A list has one trial a line, ``<label> <key> <key>``: label 1 for the same speaker, 0
for different ones. A key is the name of an utterance as it stands; SpeechBrain's recipe
cuts it at its first dot, which confuses utterances whose names hold one.
"""

from __future__ import annotations

import codecs
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import atomic_path

#: Dropped from the end of a key where that makes it the name of a known utterance.
AUDIO_SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".aac", ".sph")
#: Read and written at a time: large enough to be fast, small in memory.
BLOCK_BYTES = 1 << 20
BLOCK_LINES = 1 << 14
#: Faults and unknown keys named in a message; of the others only the number is told.
NAMED = 5


class Trials(NamedTuple):
    """Pairs of utterances, and whether one speaker speaks both.

    ``ids`` names each utterance that a trial names, once, sorted if read from
    text; ``enroll`` and ``test`` are positions in it, int32 [num_trials]; ``labels`` is
    bool [num_trials].
    """

    labels: np.ndarray
    enroll: np.ndarray
    test: np.ndarray
    ids: list[str]


def read_trials(
    path: str | os.PathLike, known_ids: Iterable[str] | None = None
) -> Trials:
    r"""Read a trial list.

    Arguments
    ---------
    path : str or PathLike
        Text in UTF-8, ``<label> <key> <key>`` a line; empty lines are left out.
    known_ids : iterable of str or None
        Utterances that there are. A key is taken as it stands; if it isn't known, then
        without its audio suffix, if it has one. None: any key is good.

    Returns
    -------
    Trials
        In the order of the file.

    Raises
    ------
    UserError
        If the file can't be read, lines are not as said (with their numbers), keys are
        unknown (the first ones and how many), or one of the classes has no trial.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "trials.txt"
    >>> _ = path.write_text("1 ann/1.5.wav ann/2.wav\n0 ann/1.5.wav bob/1.wav\n")
    >>> read_trials(path, ["ann/1.5", "ann/2", "bob/1"]).ids
    ['ann/1.5', 'ann/2', 'bob/1']
    """
    trials, _ = _read_text(Path(path), known_ids, has_scores=False)
    num_targets = int(np.count_nonzero(trials.labels))
    if not 0 < num_targets < trials.labels.size:
        raise UserError(
            f"{path}: a trial list needs trials of both classes, got {num_targets} "
            f"targets (1) and {trials.labels.size - num_targets} non-targets (0)"
        )
    return trials


def write_trials(path: str | os.PathLike, trials: Trials) -> None:
    """Write a trial list in the official format.

    Raises
    ------
    ValueError
        If an id is empty or holds white space: it could not be read again.
    """
    _write_text(path, trials, None)


def write_scores(path: str | os.PathLike, trials: Trials, scores: np.ndarray) -> None:
    """Write trials with their scores.

    Arguments
    ---------
    path : str or PathLike
        ``.npz``: the arrays as they are. Anything else: text, ``<label> <key> <key>
        <score>`` a line, with as many digits as bring back the same number.
    trials : Trials
        What was scored.
    scores : np.ndarray
        float32 or float64, [num_trials]; NaN and Inf are written as such.

    Raises
    ------
    ValueError
        If there are not as many scores as trials, or, for text, an id is empty or holds
        white space.
    """
    scores = np.asarray(scores)
    if scores.shape != trials.labels.shape:
        raise ValueError(
            f"scoring: {trials.labels.size} trials need as many scores, got "
            f"{list(scores.shape)}"
        )
    if Path(path).suffix == ".npz":
        with atomic_path(path) as temporary:
            np.savez(temporary, **trials._asdict(), scores=scores)
    else:
        _write_text(path, trials, scores)


def read_scores(
    path: str | os.PathLike, known_ids: Iterable[str] | None = None
) -> tuple[Trials, np.ndarray]:
    """Read what `write_scores` wrote.

    Arguments
    ---------
    path : str or PathLike
        ``.npz`` or text.
    known_ids : iterable of str or None
        For text, as in `read_trials`.

    Returns
    -------
    tuple of Trials and np.ndarray
        The trials and their scores, [num_trials]; float64 from text.

    Raises
    ------
    UserError
        If the file can't be read or holds something else.
    """
    path = Path(path)
    if path.suffix != ".npz":
        return _read_text(path, known_ids, has_scores=True)
    try:
        with np.load(path, allow_pickle=False) as file:
            labels, enroll, test, ids, scores = (
                file[name] for name in ("labels", "enroll", "test", "ids", "scores")
            )
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not a file of scores ({error}); score again to make it"
        ) from error
    trials = Trials(labels, enroll, test, ids.tolist())
    positions = np.concatenate((enroll, test)) if enroll.size else np.zeros(1, int)
    whole = len({x.shape for x in (labels, enroll, test, scores)}) == 1
    if not whole or positions.min() < 0 or positions.max() >= max(1, ids.size):
        raise UserError(
            f"{path}: its arrays don't fit together; score again to make it"
        )
    return trials, scores


def _read_text(
    path: Path, known_ids: Iterable[str] | None, *, has_scores: bool
) -> tuple[Trials, np.ndarray | None]:
    positions = _Positions(known_ids)
    labels, enroll, test, scores = [], [], [], []
    faults, line_number = [], 1
    try:
        with open(path, "rb") as stream:
            while block := stream.read(BLOCK_BYTES) + stream.readline():
                if line_number == 1:
                    block = block.removeprefix(codecs.BOM_UTF8)
                try:
                    columns = _columns(block, 3 + has_scores)
                except ValueError:
                    faults += _faults(block, line_number, 3 + has_scores)
                else:
                    labels.append(columns[0])
                    enroll.append(positions.of(columns[1]))
                    test.append(positions.of(columns[2]))
                    scores.append(columns[3])
                line_number += block.count(b"\n")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as text ({error})") from error
    if faults:
        form = "<0 or 1> <key> <key>" + (" <score>" if has_scores else "")
        said = [f"  line {number}: {text[:80]}" for number, text in faults[:NAMED]]
        if len(faults) > NAMED:
            said.append(f"  and {len(faults) - NAMED} more")
        raise UserError("\n".join([f"{path}: each line must be {form}", *said]))
    if unknown := positions.unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise UserError(
            f"{path}: {len(unknown)} keys name no known utterance: "
            f"{', '.join(unknown[:NAMED])}{more}; a key must be an utterance's id, "
            "with or without an audio suffix"
        )
    # By name: the order of first appearance would depend on how blocks fell.
    ids = sorted(positions.ids)
    rank = dict(zip(ids, range(len(ids)), strict=True))
    ranks = np.array([rank[name] for name in positions.ids], np.int32)
    empty = np.empty(0, np.int32)
    trials = Trials(
        np.concatenate([empty.astype(bool), *labels]),
        ranks[np.concatenate([empty, *enroll])],
        ranks[np.concatenate([empty, *test])],
        ids,
    )
    return trials, np.concatenate([np.empty(0), *scores]) if has_scores else None


def _columns(
    block: bytes, num_fields: int
) -> tuple[np.ndarray, list[bytes], list[bytes], np.ndarray | None]:
    """Take whole lines apart, column by column.

    Raises
    ------
    ValueError
        If any line is not as it must be.
    """
    fields = block.split()
    if not _is_regular(block, len(fields), num_fields):
        counts = set(map(len, map(bytes.split, block.splitlines())))
        if not counts <= {0, num_fields}:
            raise ValueError
    labels = fields[::num_fields]
    if not set(labels) <= {b"0", b"1"}:
        raise ValueError
    numbers = None
    if num_fields == 4:
        numbers = np.array([float(score) for score in fields[3::4]], np.float64)
    return (
        np.frombuffer(b"".join(labels), np.uint8) == ord("1"),
        fields[1::num_fields],
        fields[2::num_fields],
        numbers,
    )


def _is_regular(block: bytes, found: int, num_fields: int) -> bool:
    """Tell whether one space parts the fields and a newline ends each line.

    With as many fields in all as those lines can hold at most, each line holds exactly
    ``num_fields``; this is many times faster than to split line by line.
    """
    characters = np.frombuffer(block, np.uint8)
    white = characters[characters <= ord(" ")]
    pattern = np.full(num_fields, ord(" "), np.uint8)
    pattern[-1] = ord("\n")
    if found != white.size or found % num_fields:
        return False
    return bool((white.reshape(-1, num_fields) == pattern).all())


def _faults(
    block: bytes, first_line: int, num_fields: int
) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not as it must be."""
    for number, line in enumerate(block.splitlines(), first_line):
        try:
            _columns(line, num_fields)
        except ValueError:
            yield number, line.decode("utf-8", "replace").strip()


class _Positions(dict):
    """Position of the utterance that a key names; its first key gives it the next."""

    def __init__(self, known_ids: Iterable[str] | None):
        self._known = None if known_ids is None else frozenset(known_ids)
        self._position_of_id: dict[str, int] = {}
        self.unknown: list[str] = []

    @property
    def ids(self) -> list[str]:
        return list(self._position_of_id)

    def of(self, keys: list[bytes]) -> np.ndarray:
        return np.fromiter(map(self.__getitem__, keys), np.int32, len(keys))

    def __missing__(self, key: bytes) -> int:
        self[key] = position = self._resolve(key.decode("utf-8"))
        return position

    def _resolve(self, key: str) -> int:
        name = key
        if self._known is not None and key not in self._known:
            name, suffix = os.path.splitext(key)
            if suffix.lower() not in AUDIO_SUFFIXES or name not in self._known:
                self.unknown.append(key)
                return -1
        return self._position_of_id.setdefault(name, len(self._position_of_id))


def _write_text(
    path: str | os.PathLike, trials: Trials, scores: np.ndarray | None
) -> None:
    for name in trials.ids:
        if name.split() != [name]:
            raise ValueError(
                f"scoring: the id {name!r} is empty or holds white space, so a trial "
                "list can't hold it"
            )
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for start in range(0, trials.labels.size, BLOCK_LINES):
            block = slice(start, start + BLOCK_LINES)
            columns = [
                ["1" if label else "0" for label in trials.labels[block].tolist()],
                [trials.ids[i] for i in trials.enroll[block].tolist()],
                [trials.ids[i] for i in trials.test[block].tolist()],
            ]
            if scores is not None:
                # The shortest text that is read as the same number.
                columns.append([str(score) for score in scores[block].tolist()])
            rows = map(" ".join, zip(*columns, strict=True))
            out.write("\n".join(rows) + "\n")
