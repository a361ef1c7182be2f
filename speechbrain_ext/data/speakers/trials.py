"""Trial lists: which two pieces of audio are compared, and whether one person speaks.

The official format of VoxCeleb, a line for each: ``1 key key`` for one speaker, ``0 key
key`` for two. Keys are the names of a manifest, whole, dots and all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from speechbrain_ext.data.split import draw_order
from speechbrain_ext.files import atomic_path

#: Rows of the pair matrix looked at together: bounds the memory.
_ROWS = 256


@dataclass(frozen=True)
class TrialList:
    """Pairs of keys with labels.

    Arguments
    ---------
    keys : list of str
        What the indices stand for.
    labels : numpy.ndarray
        bool [n]: one speaker (target).
    enroll, test : numpy.ndarray
        int32 [n], indices of ``keys``.
    """

    keys: list[str]
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    enroll: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    test: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.labels)

    @property
    def num_targets(self) -> int:
        """Trials of one speaker with itself."""
        return int(self.labels.sum())

    def where(self, wanted: np.ndarray) -> TrialList:
        """Return those trials for which ``wanted`` (bool [n]) is true."""
        return TrialList(
            self.keys, self.labels[wanted], self.enroll[wanted], self.test[wanted]
        )

    def write(self, path: str | os.PathLike) -> None:
        """Write the official format, atomically."""
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", encoding="utf-8") as stream,
        ):
            rows = zip(
                self.labels.tolist(),
                self.enroll.tolist(),
                self.test.tolist(),
                strict=True,
            )
            keys = self.keys
            stream.writelines(
                f"{label:d} {keys[a]} {keys[b]}\n" for label, a, b in rows
            )


def pair_all(
    keys: Sequence[str],
    speakers: Sequence[str],
    groups: Sequence[str],
    *,
    limit: int = 2_000_000,
) -> TrialList:
    """Compare each key with each other one.

    Pairs of different speakers of one group are left out: they may be one person.
    Of too many pairs those with the smallest hash of their two keys stay, targets
    first.

    Arguments
    ---------
    keys, speakers, groups : Sequence of str
        Name, speaker and group of each piece of audio.
    limit : int
        Largest number of trials.

    Returns
    -------
    TrialList
        In the order of the keys.

    Example
    -------
    >>> trials = pair_all("abc", ["x", "x", "y"], ["x", "x", "y"])
    >>> [("abc"[i] + "abc"[j]) for i, j in zip(trials.enroll, trials.test)]
    ['ab', 'ac', 'bc']
    >>> trials.labels.tolist()
    [True, False, False]
    """
    num_keys = len(keys)
    speaker = np.unique(np.asarray(speakers), return_inverse=True)[1]
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    draws = np.array(
        [int(draw_order("trial", key)[:16], 16) for key in keys], dtype=np.uint64
    )
    sizes = np.bincount(speaker, minlength=1) if num_keys else np.zeros(1, int)
    num_targets = int((sizes * (sizes - 1) // 2).sum())
    num_pairs = num_keys * (num_keys - 1) // 2
    max_targets = min(num_targets, limit)
    max_others = limit - max_targets
    kept = []
    for start in range(0, num_keys, _ROWS):
        rows = np.arange(start, min(start + _ROWS, num_keys))
        first, second = np.nonzero(rows[:, None] < np.arange(num_keys)[None])
        first = rows[first]
        same = speaker[first] == speaker[second]
        order = _mix(draws[first] + draws[second])
        # Somewhat more than are wanted, to be cut to the exact number below.
        wanted = same & _is_drawn(order, max_targets, num_targets)
        wanted |= (group[first] != group[second]) & _is_drawn(
            order, max_others, num_pairs - num_targets
        )
        kept.append((same[wanted], first[wanted], second[wanted], order[wanted]))
    if not kept:
        return TrialList(list(keys))
    labels, enroll, test, order = map(np.concatenate, zip(*kept, strict=True))
    chosen = np.sort(
        np.concatenate(
            [
                _smallest(np.flatnonzero(labels), order, max_targets),
                _smallest(np.flatnonzero(~labels), order, max_others),
            ]
        )
    )
    return TrialList(
        list(keys),
        labels[chosen],
        enroll[chosen].astype(np.int32),
        test[chosen].astype(np.int32),
    )


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit integers (the finalizer of SplitMix64, Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _is_drawn(order: np.ndarray, wanted: int, total: int) -> np.ndarray:
    if wanted >= total:
        return np.ones(len(order), bool)
    part = min(1.1 * wanted / total + 100 / total, 1.0)
    return order < np.uint64(min(int(part * 2**64), 2**64 - 1))


def _smallest(indices: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    if len(indices) <= count:
        return indices
    return indices[np.argsort(order[indices], kind="stable")[:count]]


def keep_same_source(trials: TrialList, sources: Sequence[str | None]) -> TrialList:
    """Return all targets, and those non-targets whose two sides share a source.

    Arguments
    ---------
    trials : TrialList
        The main list.
    sources : Sequence of (str or None)
        Of each of its keys; None is a source as well.
    """
    source = np.unique([str(one) for one in sources], return_inverse=True)[1]
    return trials.where(trials.labels | (source[trials.enroll] == source[trials.test]))


def take_official(
    rows: Iterable[tuple[int, str, str]], known: Mapping[str, str]
) -> tuple[TrialList, list[str]]:
    """Make a list of a corpus' published trials.

    Arguments
    ---------
    rows : Iterable of (int, str, str)
        Label and two keys.
    known : Mapping
        utt_id -> speaker of what may be tested.

    Returns
    -------
    TrialList
        The trials whose keys are known, in the order given.
    list of str
        Keys that are not, sorted.

    Raises
    ------
    ValueError
        If a label contradicts the speakers: all such trials, up to ten.
    """
    keys: dict[str, int] = {}
    missing, wrong, columns = set(), [], ([], [], [])
    for label, enroll, test in rows:
        unknown = {enroll, test} - known.keys()
        if unknown:
            missing |= unknown
            continue
        if bool(label) != (known[enroll] == known[test]):
            wrong.append(f"{label} {enroll} {test}")
            continue
        for column, value in zip(
            columns,
            (bool(label), *(keys.setdefault(k, len(keys)) for k in (enroll, test))),
            strict=True,
        ):
            column.append(value)
    if wrong:
        shown = "; ".join(wrong[:10])
        raise ValueError(f"{len(wrong)} trials contradict the speakers: {shown}")
    labels, enroll, test = columns
    trials = TrialList(
        list(keys),
        np.array(labels, dtype=bool),
        np.array(enroll, dtype=np.int32),
        np.array(test, dtype=np.int32),
    )
    return trials, sorted(missing)


def read_rows(path: str | os.PathLike) -> Iterator[tuple[int, str, str]]:
    """Read ``label key key`` lines, one at a time.

    Raises
    ------
    ValueError
        Telling the first line that is none.
    """
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            words = line.split()
            if len(words) != 3 or words[0] not in ("0", "1"):
                raise ValueError(f"line {number} is not a trial: {line[:80]!r}")
            yield int(words[0]), words[1], words[2]
