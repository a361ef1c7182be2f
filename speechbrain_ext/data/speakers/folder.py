"""One split of a data folder: manifests, pieces of audio, trial lists.

A split folder holds::

    train.json valid.json     utterances of train speakers; in train chunks of them, too
    cohort.json               segments of train speakers, for the backend
    test.json                 all that a trial names: segments and single utterances
    trials/main.txt           every pair of test segments
    trials/hard.txt           its targets, and its non-targets of one source
    trials/short.txt          every pair of single utterances
    parts.json                which utterances each piece was made of
    split.json                settings, speakers of both sides, counts
    segments/ chunks/         the audio of the pieces

The single utterances may be parts of segments as well: no trial compares the two. A
corpus that brings its own trials has those instead, and no list ``short``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechbrain_ext.data.manifest import SPLIT_NAME, Utterance, write_manifest
from speechbrain_ext.data.progress import progress_bar
from speechbrain_ext.data.speakers.people import group_by_speaker
from speechbrain_ext.data.speakers.proof import PARTS_NAME, find_leaks
from speechbrain_ext.data.speakers.segments import (
    Piece,
    plan_chunks,
    plan_segments,
    write_piece,
)
from speechbrain_ext.data.speakers.split import Person, split_valid
from speechbrain_ext.data.speakers.trials import (
    keep_same_source,
    pair_all,
    read_official,
)
from speechbrain_ext.data.split import draw_order
from speechbrain_ext.errors import WorkError
from speechbrain_ext.files import write_json
from speechbrain_ext.scoring.trials import Trials, write_trials


@dataclass(frozen=True)
class SplitSettings:
    """What decides the contents of a split folder.

    Arguments
    ---------
    segment_seconds : float
        Length of a segment.
    segments_per_test_speaker, cohort_per_speaker : int
        At most so many of each test speaker, and of each train speaker.
    short_seconds : float
        Shortest single utterance that is tested.
    short_per_speaker : int
        At most so many of each test speaker.
    chunk_seconds : float
        Shorter utterances of train are joined to chunks of at least this length, which
        stand beside them; 0 makes none. It brought nothing on 66 real speakers.
    valid_part : float
        Part of each train speaker's utterances that is held out.
    max_trials : int
        Largest length of a list.
    """

    segment_seconds: float = 3.0
    segments_per_test_speaker: int = 10
    cohort_per_speaker: int = 20
    short_seconds: float = 0.5
    short_per_speaker: int = 12
    chunk_seconds: float = 0.0
    valid_part: float = 0.05
    max_trials: int = 2_000_000


@dataclass
class WrittenSplit:
    """What was written.

    Arguments
    ---------
    counts : dict
        Manifest -> number of entries.
    trials : dict
        List -> (targets, non-targets).
    remarks : list of str
        Lines for the user.
    """

    counts: dict[str, int] = field(default_factory=dict)
    trials: dict[str, tuple[int, int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def begin_split(split_folder: Path) -> Path:
    """Return an empty folder beside ``split_folder``; mend what a kill left.

    Call it under the lock of the data folder.
    """
    draft, old = _neighbours(split_folder)
    if old.exists() and not split_folder.exists():
        os.replace(old, split_folder)
    for path in (draft, old):
        shutil.rmtree(path, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def place_split(draft: Path, split_folder: Path) -> None:
    """Put a finished folder in the place of an earlier one."""
    _, old = _neighbours(split_folder)
    if split_folder.exists():
        os.replace(split_folder, old)
    os.replace(draft, split_folder)
    shutil.rmtree(old, ignore_errors=True)


def _neighbours(split_folder: Path) -> tuple[Path, Path]:
    name = split_folder.name
    return split_folder.with_name(f".{name}"), split_folder.with_name(f".{name}.old")


def write_split(
    draft: Path,
    people: Sequence[Person],
    sides: Mapping[str, Sequence[str]],
    utterances: Mapping[str, Utterance],
    *,
    seed: int,
    settings: SplitSettings,
    path_of: Callable[[str], Path],
    trial_lists: Mapping[str, str | os.PathLike],
    state: Mapping[str, Any],
) -> WrittenSplit:
    """Write a split folder and prove that its sides are apart.

    Arguments
    ---------
    draft : Path
        An empty folder in the data folder.
    people : Sequence of Person
        All who are on a side.
    sides : Mapping
        ``train`` and ``test`` -> names.
    utterances : Mapping
        utt_id -> all usable ones, as they will lie in the data folder.
    seed : int
        Of the split.
    settings : SplitSettings
        What is made.
    path_of : Callable
        utt_id -> where its audio lies now.
    trial_lists : Mapping
        The corpus' own.
    state : Mapping
        Further settings for ``split.json``.

    Returns
    -------
    WrittenSplit

    Raises
    ------
    WorkError
        If the main list lacks targets or non-targets, or the proof fails.
    """
    written = WrittenSplit()
    spoken = group_by_speaker(utterances.values())
    pieces = _Pieces(draft, path_of, taken=utterances)
    train, valid = split_valid(
        {spk_id: spoken[spk_id] for spk_id in sides["train"]}, seed, settings.valid_part
    )
    cohort = pieces.add_segments(
        group_by_speaker(train), settings.segment_seconds, settings.cohort_per_speaker
    )
    tested = {spk_id: spoken[spk_id] for spk_id in sides["test"]}
    if "main" in trial_lists:
        singles = {one.utt_id: one for mine in tested.values() for one in mine}
        lists = _official_lists(trial_lists, singles, written)
        # Of a list that is filtered, ids may name what no trial needs.
        test = [singles[name] for name in sorted(_names_of(lists.values()))]
    else:
        segments = pieces.add_segments(
            tested, settings.segment_seconds, settings.segments_per_test_speaker
        )
        singles = _draw_singles(tested, seed, settings)
        test = [*segments, *singles]
    manifests = {
        "train": [*train, *pieces.add_chunks(train, settings.chunk_seconds)],
        "valid": valid,
        "cohort": cohort,
        "test": test,
    }
    made = pieces.write()
    for role, names in manifests.items():
        entries = [made.get(one.utt_id, one) for one in names]
        write_manifest(draft / f"{role}.json", entries, data_folder=draft.parent)
        written.counts[role] = len(entries)
        if not entries:
            raise WorkError(
                f"prepare: {role}.json would be empty: the speakers have too few "
                f"recordings for it ({settings.segment_seconds:g} s make a segment); "
                "give more of each"
            )
    if "main" not in trial_lists:
        groups = {person.spk_id: person.group for person in people}
        main = _pair([made[one.utt_id] for one in segments], groups, settings)
        lists = {"main": main, "short": _pair(singles, groups, settings)}
    by_id = {one.utt_id: made.get(one.utt_id, one) for one in test}
    if "hard" not in lists:
        sources = [
            getattr(by_id.get(name), "source", None) for name in lists["main"].ids
        ]
        lists["hard"] = keep_same_source(lists["main"], sources)
    _write_lists(draft / "trials", lists, written)
    write_json(draft / PARTS_NAME, pieces.parts)
    on_side = {spk_id: side for side, names in sides.items() for spk_id in names}
    facts = {
        side: {
            one.spk_id: {
                "sources": [source for source in one.sources if source],
                "utterances": one.num_utterances,
                "seconds": round(one.seconds, 3),
            }
            for one in people
            if on_side.get(one.spk_id) == side
        }
        for side in sides
    }
    write_json(
        draft / SPLIT_NAME,
        {
            **state,
            **asdict(settings),
            "counts": written.counts,
            "trials": {
                name: {"targets": targets, "nontargets": others}
                for name, (targets, others) in written.trials.items()
            },
            "remarks": written.remarks,
            "speakers": facts,
        },
    )
    leaks = find_leaks(draft, utterances)
    if leaks:
        raise WorkError(
            "\n".join(["prepare: train and test are not apart", *leaks])
            + "\nthis is a fault of the program; please report it"
        )
    return written


class _Pieces:
    """The pieces of audio that a split needs, planned first and then written."""

    def __init__(self, draft: Path, path_of, taken: Iterable[str]):
        self.draft = draft
        self.path_of = path_of
        self.taken = {name.casefold() for name in taken}
        self.plan: list[tuple[str, Piece]] = []
        self.parts: dict[str, list[str]] = {}

    def add_segments(self, spoken, seconds: float, limit: int) -> list[Piece]:
        return [
            self._add("segments", piece)
            for mine in spoken.values()
            for piece in plan_segments(mine, seconds, limit)
        ]

    def add_chunks(self, utterances: list[Utterance], seconds: float) -> list[Piece]:
        """Return what short utterances are joined to; what stays alone makes none."""
        if not seconds:
            return []
        return [
            self._add("chunks", piece)
            for mine in group_by_speaker(utterances).values()
            for piece in plan_chunks(mine, seconds)
            if len(piece.parts) > 1
        ]

    def write(self) -> dict[str, Utterance]:
        """Write all; return name -> utterance."""
        made = {}
        with progress_bar() as progress:
            for folder, piece in progress.track(
                self.plan, description="prepare: joined pieces"
            ):
                path = self.draft / folder / f"{piece.utt_id}.wav"
                made[piece.utt_id] = write_piece(piece, path, self.path_of)
        return made

    def _add(self, folder: str, piece: Piece) -> Piece:
        while piece.utt_id.casefold() in self.taken:
            piece = piece._replace(utt_id=piece.utt_id + "_")
        self.taken.add(piece.utt_id.casefold())
        self.plan.append((folder, piece))
        self.parts[piece.utt_id] = [part.utt_id for part in piece.parts]
        return piece


def _draw_singles(tested, seed: int, settings: SplitSettings) -> list[Utterance]:
    """Draw single utterances of each test speaker."""
    drawn = []
    for mine in tested.values():
        long_enough = [one for one in mine if one.duration >= settings.short_seconds]
        long_enough.sort(key=lambda one: draw_order("short", seed, one.utt_id))
        drawn += sorted(
            long_enough[: settings.short_per_speaker], key=lambda one: one.utt_id
        )
    return drawn


def _pair(pieces: Sequence[Utterance], groups, settings: SplitSettings) -> Trials:
    return pair_all(
        [one.utt_id for one in pieces],
        [one.spk_id for one in pieces],
        [groups[one.spk_id] for one in pieces],
        limit=settings.max_trials,
    )


def _official_lists(trial_lists, singles, written: WrittenSplit):
    """Read the corpus' lists; trials of recordings that are not there fall out."""
    speaker_of = {key: one.spk_id for key, one in singles.items()}
    lists = {}
    for name, path in trial_lists.items():
        try:
            lists[name], missing, dropped = read_official(path, speaker_of)
        except ValueError as error:
            raise WorkError(f"prepare: trial list {name}: {path}: {error}") from None
        if dropped:
            total = dropped + len(lists[name].labels)
            written.remarks.append(
                f"prepare: list {name}: {dropped} of {total} trials fall out: "
                f"{len(missing)} recordings are not usable or not there"
                + (f", such as {missing[0]}" if missing else ", one meets itself")
            )
    return lists


def _names_of(lists: Iterable[Trials]) -> set[str]:
    return {
        trials.ids[index]
        for trials in lists
        for index in {*trials.enroll.tolist(), *trials.test.tolist()}
    }


def _write_lists(folder: Path, lists, written: WrittenSplit) -> None:
    """Write the lists that can be scored; only ``main`` must."""
    folder.mkdir()
    for name, trials in lists.items():
        targets = int(trials.labels.sum())
        others = len(trials.labels) - targets
        if targets and others:
            write_trials(folder / f"{name}.txt", trials)
            written.trials[name] = (targets, others)
        elif name == "main":
            raise WorkError(
                f"prepare: the main list has {targets} targets and {others} "
                "non-targets and cannot be scored: give more recordings of each speaker"
            )
        else:
            written.remarks.append(
                f"prepare: no list {name}: it would have {targets} targets and "
                f"{others} non-targets"
            )
    hard, main = written.trials.get("hard"), written.trials["main"]
    if hard == main:
        written.remarks.append(
            "prepare: hard is the same as main: all test speakers have one source"
        )
