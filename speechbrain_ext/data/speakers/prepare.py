"""From a corpus of many voices to a data folder for speaker verification.

A data folder afterwards holds::

    wav/<utt_id>.wav       16 kHz mono PCM16, silence cut off both ends
    utterances.json        every usable utterance
    rejected.tsv           recordings left out, and why
    speakers.tsv           speakers, what they may be, and why
    prepare.json           the settings, and the command that made all this
    .journal.jsonl         what is done, so that a killed run goes on
    split<seed>/           see `speechbrain_ext.data.speakers.folder`
    split<seed>_inner<n>/  likewise, within the train speakers of split<seed>

Another seed makes another split folder of the same audio. Everything but the journal
is a pure function of the recordings and the settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speechbrain_ext.data.check import Rejected
from speechbrain_ext.data.convert import Trim
from speechbrain_ext.data.corpora import Item, Speaker
from speechbrain_ext.data.manifest import write_manifest
from speechbrain_ext.data.speakers.folder import (
    SplitSettings,
    begin_split,
    place_split,
    write_split,
)
from speechbrain_ext.data.speakers.people import (
    find_people,
    shared_audio,
    write_speakers,
)
from speechbrain_ext.data.speakers.split import Person, split_speakers
from speechbrain_ext.data.staging import stage_audio

_MANIFEST_NAME = "utterances.json"
_SPEAKERS_NAME = "speakers.tsv"


@dataclass(frozen=True)
class SpeakerSettings:
    """What decides the prepared data, beside the recordings.

    Arguments
    ---------
    sample_rate : int
        Of the written audio, Hz.
    split_seed : int
        Redraws train and test speakers.
    inner_split : int or None
        If given, the test speakers of ``split_seed`` are left out, and others drawn by
        this number of its train speakers: so one can tune without ever looking at the
        speakers that will tell the result. The corpus' own trials are not used then.
    num_test, num_train : int or None
        Number of speakers; see `split_speakers`.
    min_test_segments : int
        A speaker who makes fewer test segments is never tested.
    max_rejected : float
        Largest part of the recordings that may be rejected, in [0, 1].
    split : SplitSettings
        What decides the contents of a split folder.
    """

    sample_rate: int = 16000
    split_seed: int = 1
    inner_split: int | None = None
    num_test: int | None = None
    num_train: int | None = None
    min_test_segments: int = 6
    max_rejected: float = 0.2
    split: SplitSettings = SplitSettings()


@dataclass(frozen=True)
class SpeakerSummary:
    """What came out of preparation.

    Arguments
    ---------
    split_folder : Path
        The manifests and trial lists.
    people : list of Person
        All speakers, also those left out.
    speakers : dict
        ``train`` and ``test`` -> names.
    counts : dict
        Manifest -> number of entries.
    trials : dict
        List -> (targets, non-targets).
    rejected : list of Rejected
        Faulty recordings; copies are not among them.
    num_copies : int
        Recordings left out because their audio was there already.
    num_reused : int
        Recordings that were done before and taken over.
    """

    split_folder: Path
    people: list[Person]
    speakers: dict[str, list[str]]
    counts: dict[str, int]
    trials: dict[str, tuple[int, int]]
    rejected: list[Rejected]
    num_copies: int
    num_reused: int


def prepare_speakers(
    items: Iterable[Item],
    folder: str | os.PathLike,
    settings: SpeakerSettings | None = None,
    *,
    known: Mapping[str, Speaker] | None = None,
    trial_lists: Mapping[str, str | os.PathLike] | None = None,
    trim: Trim | None = None,
    link: bool = False,
    corpus: Mapping[str, Any] | None = None,
    command: str = "",
    nj: int = 1,
    log: Callable[[str], None] = print,
) -> SpeakerSummary:
    """Prepare a data folder, or another split of it.

    Arguments
    ---------
    items : Iterable of Item
        The recordings, with speaker and source; see `speechbrain_ext.data.corpora`.
    folder : str or PathLike
        The data folder.
    settings : SpeakerSettings, optional
        Defaults to ``SpeakerSettings()``.
    known : Mapping, optional
        spk_id -> what the corpus knows of that speaker.
    trial_lists : Mapping, optional
        The corpus' own lists, in terms of utt_ids; ``main`` replaces the drawn ones.
    trim : Trim, optional
        Cuts silence off, such as `speechbrain_ext.data.vad.SpeechDetector`.
    link : bool
        Audio that needs no conversion is not copied; not together with ``trim``.
    corpus : Mapping, optional
        What is known of the corpus, as for `speechbrain_ext.data.prepare.prepare`.
    command : str
        The command that prepares this folder, for the messages of later stages.
    nj : int
        Number of jobs at a time.
    log : Callable
        Gets one line of text at a time.

    Returns
    -------
    SpeakerSummary

    Raises
    ------
    UserError
        If there is no recording, ``folder`` holds audio that isn't ours, or more test
        speakers are asked for than there are.
    WorkError
        If too many recordings are rejected, a side would have fewer than two
        speakers, or a list no trial of both kinds. The earlier contents of ``folder``
        are intact.
    """
    settings = settings or SpeakerSettings()
    folder = Path(folder)
    state = {"command": command, "corpus": dict(corpus or {})}
    staged = stage_audio(
        map(_check_speaker, items),
        folder,
        sample_rate=settings.sample_rate,
        max_rejected=settings.max_rejected,
        manifests=[_MANIFEST_NAME, _SPEAKERS_NAME],
        nj=nj,
        trim=trim,
        link=link,
    )
    name = f"split{settings.split_seed}"
    if settings.inner_split is not None:
        name += f"_inner{settings.inner_split}"
    split_folder = folder / name
    with staged as audio:
        draft = begin_split(split_folder)
        utterances = {one.utt_id: audio.utterances[one.utt_id] for one in audio.kept}
        inner = settings.inner_split is not None
        lists = {} if inner else dict(trial_lists or {})
        people = find_people(
            audio.items,
            utterances,
            known or {},
            segment_seconds=settings.split.segment_seconds,
            min_segments=0 if "main" in lists else settings.min_test_segments,
        )
        sides = split_speakers(
            people,
            settings.split_seed,
            num_test=settings.num_test,
            num_train=settings.num_train,
        )
        split_people, seed = people, settings.split_seed
        if inner:
            split_people, seed = _without_test(people, sides), settings.inner_split
            sides = split_speakers(split_people, seed)
        written = write_split(
            draft,
            [one for one in split_people if not one.left_out],
            sides,
            utterances,
            seed=seed,
            settings=settings.split,
            path_of=audio.path_now,
            trial_lists=lists,
            state={**state, **_without(asdict(settings), "split")},
        )
        # From here on nothing can fail but the disk.
        audio.settle()
        write_manifest(folder / _MANIFEST_NAME, utterances.values())
        write_speakers(folder / _SPEAKERS_NAME, people)
        place_split(draft, split_folder)
        audio.finish({**state, **asdict(settings)})
    summary = SpeakerSummary(
        split_folder=split_folder,
        people=people,
        speakers=sides,
        counts=written.counts,
        trials=written.trials,
        rejected=audio.rejected,
        num_copies=len(audio.copies),
        num_reused=audio.num_reused,
    )
    speaker_of = {one.utt_id: one.spk_id for one in audio.good}
    for first, second, count in shared_audio(audio.copies, speaker_of):
        log(
            f"prepare: speakers {first} and {second} have {count} recordings in "
            "common: are they one person?"
        )
    _report(summary, log)
    for line in filter(None, [*written.remarks, audio.describe_losses()]):
        log(line)
    return summary


def _without_test(people: list[Person], sides: Mapping[str, list[str]]) -> list[Person]:
    """Leave out who is not on the train side; the others are free to be tested."""
    train = set(sides["train"])
    return [
        replace(one, fixed=()) if one.spk_id in train else replace(one, left_out=True)
        for one in people
    ]


def _check_speaker(item: Item) -> Item:
    if item.spk_id is None and item.fault is None:
        return replace(item, fault="wrongly labelled: no speaker is known")
    return item


def _without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


def _report(summary: SpeakerSummary, log: Callable[[str], None]) -> None:
    folder = summary.split_folder.parent
    num_left_out = sum(one.left_out for one in summary.people)
    counts = summary.counts
    log(
        f"prepare: {summary.split_folder}: {len(summary.speakers['train'])} train "
        f"speakers ({counts['train']} train, {counts['valid']} valid, "
        f"{counts['cohort']} cohort), {len(summary.speakers['test'])} test speakers "
        f"({counts['test']} test)"
    )
    lists = [
        f"{name} {targets} + {others}"
        for name, (targets, others) in summary.trials.items()
    ]
    log(f"prepare: trials (targets + non-targets): {', '.join(lists)}")
    if num_left_out:
        log(
            f"prepare: {num_left_out} of {len(summary.people)} speakers left out: "
            f"{folder / _SPEAKERS_NAME}"
        )
