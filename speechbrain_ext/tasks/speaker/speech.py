"""What is scored: embeddings, speakers and trial lists that fit each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechbrain_ext.data.manifest import Utterance, read_manifest
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import read_json, write_json
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from speechbrain_ext.scoring.trials import Trials, read_trials


@dataclass(frozen=True)
class Speech:
    """Embeddings of a split, and what they are of.

    Attributes
    ----------
    test, cohort : EmbeddingSet
        Of the unseen speakers, and of training speakers.
    channel_test, channel_cohort : EmbeddingSet
        The channel-only baseline of the same utterances.
    utterances : dict of str to Utterance
        Both manifests together.
    lists : dict of str to Trials
        Trial lists by name, main first.
    """

    test: EmbeddingSet
    cohort: EmbeddingSet
    channel_test: EmbeddingSet
    channel_cohort: EmbeddingSet
    utterances: dict[str, Utterance]
    lists: dict[str, Trials]

    def numbers(self, ids: list[str]) -> np.ndarray:
        """Return the speakers of utterances as numbers, [number of ids]."""
        return np.unique(self.speakers(ids), return_inverse=True)[1]

    def speakers(self, ids: list[str]) -> list[str]:
        """Return the speakers of utterances."""
        return [self.utterances[utt_id].spk_id for utt_id in ids]

    def tested(self) -> set[str]:
        """Return the speakers whom the trials name."""
        return {
            speaker
            for trials in self.lists.values()
            for speaker in self.speakers(trials.ids)
        }


def load_speech(folder: Path, data: Path) -> Speech:
    """Read manifests, trial lists and embeddings, and check that they fit.

    Raises
    ------
    UserError
        If one is missing, names something that the others don't know, or the
        embeddings are of different checkpoints.
    """
    test, cohort = (read_manifest(data / f"{role}.json") for role in ("test", "cohort"))
    nameless = [u.utt_id for u in (*test.values(), *cohort.values()) if not u.spk_id]
    if nameless:
        raise UserError(
            f"score: {len(nameless)} utterances in {data} have no speaker, the first "
            f"is {nameless[0]}; prepare them again: ./run.sh --stage prepare --force"
        )
    paths = sorted((data / "trials").glob("*.txt"), key=lambda p: (p.stem != "main", p))
    if not paths:
        raise UserError(
            f"score: no trial list in {data / 'trials'}; make them: ./run.sh --stage "
            "prepare"
        )
    lists = {path.stem: read_trials(path, test) for path in paths}
    sets = {
        name: EmbeddingSet.load(folder / "embeddings" / f"{name}.npz")
        for name in ("test", "cohort", "test.channel", "cohort.channel")
    }
    if sets["test"].checkpoint != sets["cohort"].checkpoint:
        raise UserError(
            f"score: test and cohort in {folder / 'embeddings'} are of different "
            "checkpoints; embed both again: ./run.sh --stage embed --force"
        )
    for name, manifest in (("test", test), ("cohort", cohort)):
        sets[name].row_numbers(manifest)  # every utterance is embedded
        sets[f"{name}.channel"].row_numbers(manifest)
    strangers = [utt_id for utt_id in sets["cohort"].ids if utt_id not in cohort]
    if strangers:
        raise UserError(
            f"score: cohort.npz holds {len(strangers)} utterances that cohort.json "
            f"does not, the first is {strangers[0]}; embed again: ./run.sh --stage "
            "embed --force"
        )
    speech = Speech(
        sets["test"],
        sets["cohort"],
        sets["test.channel"],
        sets["cohort.channel"],
        cohort | test,
        lists,
    )
    for name, trials in lists.items():
        speakers = speech.numbers(trials.ids)
        wrong = trials.labels != (speakers[trials.enroll] == speakers[trials.test])
        if wrong.any():
            first = int(wrong.argmax())
            pair = trials.ids[trials.enroll[first]], trials.ids[trials.test[first]]
            raise UserError(
                f"score: in the list {name} {np.count_nonzero(wrong):,} labels "
                f"contradict the speakers of test.json; the first is {' '.join(pair)}. "
                "Make both again: ./run.sh --stage prepare --force"
            )
    return speech


def refuse_known_speakers(folder: Path, speech: Speech) -> None:
    """Refuse to score speakers that the encoder or the backend learned from.

    Raises
    ------
    UserError
        Naming them.
    """
    both = sorted(trained_speakers(folder, speech) & speech.tested())
    if both:
        raise UserError(
            f"score: {len(both)} test speakers were trained on: {', '.join(both[:5])}. "
            "Rule: no speaker is on both sides. Next: score the split that the "
            "experiment was trained on, or train on this one: ./run.sh --stage train"
        )


def trained_speakers(folder: Path, speech: Speech) -> set[str]:
    """Return the speakers that the encoder or the backend learned from.

    Some of them may have said too little to be in the cohort.
    """
    known = set(speech.speakers(speech.cohort.ids))
    path = folder / "speakers.json"
    if path.exists():
        named = read_json(path).get("speakers")
        if not isinstance(named, list) or not all(isinstance(n, str) for n in named):
            raise UserError(
                f"score: {path} is broken, and says who was trained on\n  Next: get it "
                "again, or train again: ./run.sh --stage train --force"
            )
        known |= set(named)
    return known


def write_utterances(folder: Path, speech: Speech) -> None:
    """Write who speaks in the scored utterances, so that tables can be recomputed."""
    ids = sorted({utt_id for trials in speech.lists.values() for utt_id in trials.ids})
    write_json(
        folder / "utterances.json",
        {
            "speakers": dict(zip(ids, speech.speakers(ids), strict=True)),
            "sources": {utt_id: speech.utterances[utt_id].source for utt_id in ids},
        },
    )
