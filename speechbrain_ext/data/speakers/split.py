"""Which speakers are learned and which are tested: nobody is on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.split import draw_order
from speechbrain_ext.errors import UserError, WorkError

#: The two sides. Held-out utterances of train speakers (valid) are on the train side.
SIDES = ("train", "test")

#: Fewest speakers of a side: one alone has no non-targets.
MIN_SPEAKERS = 2

# Default size of the test side: a third, but of a large corpus no more than this, or
# than a tenth.
_USUAL_TEST_SPEAKERS = 22

_MAX_REASONS = 10

# From so many utterances on, a speaker gives one to valid.
_USUAL_LEAST, _SMALLEST_LEAST = 10, 3

# From so many utterances on, a speaker gives two to valid where nobody else would.
_LEAST_FOR_PAIR = 6


@dataclass(frozen=True)
class Person:
    """One speaker, with everything that decides where it goes.

    Arguments
    ---------
    spk_id : str
        Its name.
    sources : tuple of (str or None)
        Where its recordings come from, sorted.
    num_utterances : int
        Usable recordings.
    seconds : float
        Their length together.
    num_segments : int
        Test segments that they make.
    fixed : tuple of str
        Sides on which the corpus' published split has it; mostly empty.
    may_test : bool
        False keeps it in train.
    left_out : bool
        True leaves it out of both sides.
    reason : str
        Why not, or why.
    group : str
        Those of one group may be one person and stay together; its own name for most.
    """

    spk_id: str
    sources: tuple[str | None, ...] = ()
    num_utterances: int = 0
    seconds: float = 0.0
    num_segments: int = 0
    fixed: tuple[str, ...] = ()
    may_test: bool = True
    left_out: bool = False
    reason: str = ""
    group: str = ""


def split_speakers(
    speakers: Sequence[Person],
    seed: int,
    *,
    num_test: int | None = None,
    num_train: int | None = None,
) -> dict[str, list[str]]:
    """Draw the test speakers; all others are train speakers.

    Groups of speakers are ordered by a hash of (seed, name), so that one more
    speaker moves few others. Where the corpus names test speakers, only they are.

    Arguments
    ---------
    speakers : Sequence of Person
        All that there are.
    seed : int
        Redraws the split.
    num_test : int, optional
        Number of test speakers; by default a third, of many speakers 22 or a tenth.
    num_train : int, optional
        At most so many train speakers, drawn likewise; by default all.

    Returns
    -------
    dict
        ``train`` and ``test`` -> sorted names.

    Raises
    ------
    UserError
        If ``num_test`` asks for more than may be tested, or the corpus puts a group
        on both sides.
    WorkError
        If a side would have fewer than two speakers.
    """
    usable = [speaker for speaker in speakers if not speaker.left_out]
    groups = defaultdict(list)
    for speaker in usable:
        groups[speaker.group or speaker.spk_id].append(speaker)
    waiting = sorted(groups, key=lambda name: draw_order("speakers", seed, name))
    fixed = {name: _fixed_side(name, groups[name]) for name in waiting}
    if "test" in fixed.values():
        open_groups = [name for name in waiting if fixed[name] == "test"]
    else:
        open_groups = [
            name
            for name in waiting
            if fixed[name] is None and all(one.may_test for one in groups[name])
        ]
    num_open = sum(len(groups[name]) for name in open_groups)
    if num_test is None and "test" in fixed.values():
        target = num_open
    elif num_test is None:
        target = min(_default_num_test(len(usable)), num_open)
    else:
        target = num_test
    taken: list[str] = []
    for name in open_groups:
        if len(taken) + len(groups[name]) <= target:
            taken += [one.spk_id for one in groups[name]]
    chosen = set(taken)
    rest = [
        one.spk_id
        for name in waiting
        if fixed[name] != "test"
        for one in groups[name]
        if one.spk_id not in chosen
    ]
    sides = {"train": sorted(rest[:num_train]), "test": sorted(taken)}
    _check_sizes(sides, usable, num_open, num_test)
    return sides


def _default_num_test(num_speakers: int) -> int:
    most = max(_USUAL_TEST_SPEAKERS, num_speakers // 10)
    return max(min(num_speakers // 3, most), MIN_SPEAKERS)


def _fixed_side(name: str, group: Sequence[Person]) -> str | None:
    sides = {side for speaker in group for side in speaker.fixed}
    if len(sides) > 1:
        members = ", ".join(speaker.spk_id for speaker in group)
        raise UserError(
            f"prepare: the corpus puts one person on both sides: {name} ({members}) "
            "has recordings for train and for test"
        )
    return sides.pop() if sides else None


def _check_sizes(sides, usable, num_open: int, num_test: int | None) -> None:
    reasons = [f"  {one.spk_id}: {one.reason}" for one in usable if one.reason]
    if len(reasons) > _MAX_REASONS:
        reasons[_MAX_REASONS:] = [f"  ... and {len(reasons) - _MAX_REASONS} more"]
    if num_test is not None and len(sides["test"]) < num_test:
        head = (
            f"prepare: --num_test {num_test}: only {num_open} "
            f"{'speaker' if num_open == 1 else 'speakers'} may be tested; "
            "ask for fewer or give more recordings"
        )
        raise UserError("\n".join([head, *reasons]))
    if min(map(len, sides.values())) < MIN_SPEAKERS:
        head = (
            f"prepare: {len(sides['train'])} train and {len(sides['test'])} test "
            f"speakers; each side needs {MIN_SPEAKERS} at least: give recordings of "
            "more people, in one folder each, or another --num_test"
        )
        raise WorkError("\n".join([head, *reasons]))


def split_valid(
    by_speaker: Mapping[str, Sequence[Utterance]], seed: int, part: float = 0.05
) -> tuple[list[Utterance], list[Utterance]]:
    """Hold out utterances of train speakers.

    Arguments
    ---------
    by_speaker : Mapping
        spk_id -> its utterances.
    seed : int
        Redraws them.
    part : float
        Part of each speaker's utterances; one at least of a speaker with ten, or
        with three if nobody has ten. Where no two utterances of one speaker, or no
        two speakers, would be held out, so that no equal error rate could be
        measured: two of each speaker with six.

    Returns
    -------
    list of Utterance
        To be learned.
    list of Utterance
        Held out; may be empty.
    """
    # Somebody must be heard in valid, even where all have said little.
    most = max(map(len, by_speaker.values()), default=0)
    least = _USUAL_LEAST if most >= _USUAL_LEAST else _SMALLEST_LEAST
    counts = {
        spk_id: max(round(part * len(spoken)), 1 if len(spoken) >= least else 0)
        for spk_id, spoken in by_speaker.items()
    }
    heard = [count for count in counts.values() if count]
    if max(heard, default=0) < 2 or len(heard) < 2:
        for spk_id, spoken in by_speaker.items():
            if len(spoken) >= _LEAST_FOR_PAIR:
                counts[spk_id] = max(counts[spk_id], 2)
    train, valid = [], []
    for spk_id, utterances in by_speaker.items():
        drawn = sorted(
            utterances, key=lambda one: draw_order("valid", seed, one.utt_id)
        )
        valid += drawn[: counts[spk_id]]
        train += drawn[counts[spk_id] :]
    return train, valid
