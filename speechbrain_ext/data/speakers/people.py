"""Who is in a corpus: from accepted utterances to speakers that can be split."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from speechbrain_ext.data.corpora import Item, Speaker
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.speakers.segments import plan_segments
from speechbrain_ext.data.speakers.split import Person
from speechbrain_ext.files import write_text

#: A speaker with a single recording has nothing that it could be compared with.
_MIN_UTTERANCES = 2


def group_by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Return spk_id -> utterances, both sorted by name."""
    groups = defaultdict(list)
    for utterance in sorted(utterances, key=lambda one: one.utt_id):
        groups[utterance.spk_id].append(utterance)
    return dict(sorted(groups.items()))


def find_people(
    items: Sequence[Item],
    utterances: Mapping[str, Utterance],
    known: Mapping[str, Speaker],
    *,
    segment_seconds: float,
    min_segments: int,
) -> list[Person]:
    """Gather what decides where each speaker goes.

    Arguments
    ---------
    items : Sequence of Item
        All recordings, usable or not.
    utterances : Mapping
        utt_id -> the usable ones, without copies.
    known : Mapping
        spk_id -> what the corpus knows of some of them.
    segment_seconds : float
        Length of a test segment.
    min_segments : int
        A test speaker makes so many; 0 if the corpus brings its own trials.

    Returns
    -------
    list of Person
        Sorted by name; also those without any usable recording.
    """
    role_of = {item.utt_id: item.role for item in items if not item.fault}
    spoken = group_by_speaker(utterances.values())
    listed = {item.spk_id for item in items if item.spk_id is not None}
    people = []
    for spk_id in sorted(listed | spoken.keys()):
        mine = spoken.get(spk_id, [])
        about = known.get(spk_id, Speaker(spk_id))
        segments = len(plan_segments(mine, segment_seconds))
        # Held-out utterances of train speakers are ours to draw.
        roles = {role_of[one.utt_id] for one in mine}
        roles = {"train" if role == "valid" else role for role in roles} - {None}
        left_out, may_test, reasons = False, about.may_test, [about.note]
        if len(mine) < _MIN_UTTERANCES:
            left_out, what = True, f"{len(mine)} usable recordings"
            reasons.append(f"{what}, at least {_MIN_UTTERANCES} are needed")
        elif segments < min_segments:
            left_out, may_test = roles == {"test"}, False
            reasons.append(
                f"{segments} segments of {segment_seconds:g} s, at least "
                f"{min_segments} are needed for the test"
            )
        people.append(
            Person(
                spk_id=spk_id,
                sources=tuple(sorted({one.source for one in mine}, key=str)),
                num_utterances=len(mine),
                seconds=sum(one.duration for one in mine),
                num_segments=segments,
                fixed=tuple(sorted(roles)),
                may_test=may_test,
                left_out=left_out,
                reason="; ".join(filter(None, reasons)),
                group=about.same_side or spk_id,
            )
        )
    return _bind_groups(people)


def _bind_groups(people: list[Person]) -> list[Person]:
    """Keep from the test who stays with somebody that may not be tested."""
    barred = {
        one.group: one.spk_id for one in people if not (one.may_test or one.left_out)
    }
    bound = []
    for one in people:
        if one.may_test and one.group in barred:
            why = f"maybe the same as {barred[one.group]}, who may not be tested"
            reason = "; ".join(filter(None, [one.reason, why]))
            one = replace(one, may_test=False, reason=reason)
        bound.append(one)
    return bound


def shared_audio(
    copies: Mapping[str, str], speaker_of: Mapping[str, str]
) -> list[tuple[str, str, int]]:
    """Return pairs of speakers who have the same recordings, and how many.

    Arguments
    ---------
    copies : Mapping
        utt_id of a copy -> utt_id of the recording that stays.
    speaker_of : Mapping
        utt_id -> speaker.
    """
    pairs = Counter(
        tuple(sorted((speaker_of[copy], speaker_of[kept])))
        for copy, kept in copies.items()
    )
    return [(a, b, count) for (a, b), count in sorted(pairs.items()) if a != b]


def write_speakers(path: str | os.PathLike, people: Iterable[Person]) -> None:
    """Write speakers.tsv: who there is, what they may be, and why."""
    rows = ["spk_id\tsource\tutterances\tseconds\tsegments\trole\tremark"]
    for one in people:
        sources = ", ".join(source for source in one.sources if source) or "-"
        remark = one.reason.replace("\t", " ").replace("\n", " ")
        if one.group and one.group != one.spk_id:
            remark = "; ".join(filter(None, [remark, f"stays with {one.group}"]))
        rows.append(
            f"{one.spk_id}\t{sources}\t{one.num_utterances}\t{one.seconds:.1f}\t"
            f"{one.num_segments}\t{_role_of(one)}\t{remark}"
        )
    write_text(path, "\n".join(rows) + "\n")


def _role_of(person: Person) -> str:
    if person.left_out:
        return "left out"
    if person.fixed:
        return " and ".join(person.fixed)
    return "train or test" if person.may_test else "train"
