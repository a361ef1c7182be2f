"""Which two pieces of audio are compared, and whether one person speaks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from speechbrain_ext.data.split import draw_order
from speechbrain_ext.scoring.trials import Trials, read_trials

#: Rows of the pair matrix looked at together: bounds the memory.
_ROWS = 256


def pair_all(
    ids: Sequence[str],
    speakers: Sequence[str],
    groups: Sequence[str],
    *,
    limit: int = 2_000_000,
) -> Trials:
    """Compare each piece of audio with each other one.

    Pairs of different speakers of one group are left out: they may be one person.
    Of too many pairs those with the smallest hash of their two ids stay, targets
    first.

    Arguments
    ---------
    ids, speakers, groups : Sequence of str
        Name, speaker and group of each piece of audio.
    limit : int
        Largest number of trials.

    Returns
    -------
    Trials
        In the order of the ids.

    Example
    -------
    >>> trials = pair_all("abc", ["x", "x", "y"], ["x", "x", "y"])
    >>> [("abc"[i] + "abc"[j]) for i, j in zip(trials.enroll, trials.test)]
    ['ab', 'ac', 'bc']
    >>> trials.labels.tolist()
    [True, False, False]
    """
    num_ids = len(ids)
    speaker = np.unique(np.asarray(speakers), return_inverse=True)[1]
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    draws = np.array(
        [int(draw_order("trial", name)[:16], 16) for name in ids], dtype=np.uint64
    )
    sizes = np.bincount(speaker, minlength=1) if num_ids else np.zeros(1, int)
    num_targets = int((sizes * (sizes - 1) // 2).sum())
    num_pairs = num_ids * (num_ids - 1) // 2
    max_targets = min(num_targets, limit)
    max_others = limit - max_targets
    kept = []
    for start in range(0, num_ids, _ROWS):
        rows = np.arange(start, min(start + _ROWS, num_ids))
        first, second = np.nonzero(rows[:, None] < np.arange(num_ids)[None])
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
        nothing = np.zeros(0, np.int32)
        return Trials(nothing.astype(bool), nothing, nothing, [])
    labels, enroll, test, order = map(np.concatenate, zip(*kept, strict=True))
    chosen = np.sort(
        np.concatenate(
            [
                _smallest(np.flatnonzero(labels), order, max_targets),
                _smallest(np.flatnonzero(~labels), order, max_others),
            ]
        )
    )
    return Trials(
        labels[chosen],
        enroll[chosen].astype(np.int32),
        test[chosen].astype(np.int32),
        list(ids),
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


def select(trials: Trials, wanted: np.ndarray) -> Trials:
    """Return those trials for which ``wanted``, bool [num_trials], is true."""
    labels, enroll, test, ids = trials
    return Trials(labels[wanted], enroll[wanted], test[wanted], ids)


def keep_same_source(trials: Trials, sources: Sequence[str | None]) -> Trials:
    """Return all targets, and those non-targets whose two sides share a source.

    Arguments
    ---------
    trials : Trials
        The main list.
    sources : Sequence of (str or None)
        Of each of its ids; None is a source as well.
    """
    source = np.unique([str(one) for one in sources], return_inverse=True)[1]
    same = source[trials.enroll] == source[trials.test]
    return select(trials, trials.labels | same)


def read_official(
    path: str | os.PathLike, speaker_of: Mapping[str, str]
) -> tuple[Trials, list[str], int]:
    """Read a corpus' published list and drop what is not there.

    Arguments
    ---------
    path : str or PathLike
        The list, in terms of utt_ids.
    speaker_of : Mapping
        utt_id -> speaker of what may be tested.

    Returns
    -------
    Trials
        Those whose two ids are known and differ, in the order of the file.
    list of str
        The ids that are not, sorted.
    int
        Number of trials dropped.

    Raises
    ------
    UserError
        If the file is not a trial list.
    ValueError
        If a label contradicts the speakers; shows up to ten.
    """
    trials = read_trials(path)
    ids = trials.ids
    there = np.array([name in speaker_of for name in ids])
    speaker = np.unique(
        [speaker_of.get(name, "") for name in ids], return_inverse=True
    )[1]
    known = there[trials.enroll] & there[trials.test]
    kept = select(trials, known & (trials.enroll != trials.test))
    same = speaker[kept.enroll] == speaker[kept.test]
    if len(wrong := np.flatnonzero(same != kept.labels)):
        shown = "; ".join(
            f"{int(kept.labels[i])} {ids[kept.enroll[i]]} {ids[kept.test[i]]}"
            for i in wrong[:10]
        )
        raise ValueError(f"{len(wrong)} trials contradict the speakers: {shown}")
    missing = [name for name, known in zip(ids, there, strict=True) if not known]
    return kept, missing, len(trials.labels) - len(kept.labels)
