"""Proof that nobody is learned and tested, and that nothing is heard twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from speechbrain_ext.data.manifest import Utterance, read_manifest
from speechbrain_ext.scoring.trials import read_trials

#: Beside the manifests: which utterances each piece of audio was made of.
PARTS_NAME = "parts.json"

_TRAIN_SIDE = ("train", "valid", "cohort")


def find_leaks(
    split_folder: str | os.PathLike, utterances: Mapping[str, Utterance] | None = None
) -> list[str]:
    """Look for speakers and audio that a split has on both sides.

    Arguments
    ---------
    split_folder : str or PathLike
        ``split<seed>`` of a data folder.
    utterances : Mapping, optional
        utt_id -> what the pieces were made of; by default the data folder's
        ``utterances.json``.

    Returns
    -------
    list of str
        One line for each kind of leak, with up to five names; empty if there is none:

        - a speaker of the train side (train, valid, cohort) in test;
        - an utterance, or an audio content by its hash, on both sides, also inside of
          joined pieces;
        - an utterance in train and in valid;
        - a trial whose two sides share an utterance, or that names what isn't in test.
    """
    folder = Path(split_folder)
    if utterances is None:
        utterances = read_manifest(folder.parent / "utterances.json")
    parts = json.loads((folder / PARTS_NAME).read_text(encoding="utf-8"))
    manifests = {
        role: read_manifest(folder / f"{role}.json")
        for role in (*_TRAIN_SIDE, "test")
        if (folder / f"{role}.json").exists()
    }

    def parts_of(*roles: str) -> set[str]:
        keys = (key for role in roles for key in manifests.get(role, ()))
        return {part for key in keys for part in parts.get(key, [key])}

    def facts(*roles: str) -> tuple[set[str], set[str], set[str]]:
        pieces = [one for role in roles for one in manifests.get(role, {}).values()]
        made_of = [utterances[name] for name in parts_of(*roles)]
        return (
            {one.spk_id for one in (*pieces, *made_of)},
            {one.utt_id for one in made_of},
            {one.sha256 for one in (*pieces, *made_of)},
        )

    whats = ("speakers", "utterances", "audio contents")
    leaks = [
        (f"{what} on both sides", one & other)
        for what, one, other in zip(
            whats, facts(*_TRAIN_SIDE), facts("test"), strict=True
        )
    ]
    both = parts_of("train") & parts_of("valid")
    leaks.append(("utterances in train and valid", both))
    made_of = {key: set(parts.get(key, [key])) for key in manifests["test"]}
    for path in sorted((folder / "trials").glob("*.txt")):
        trials = read_trials(path)
        ids = trials.ids
        strangers = set(ids) - made_of.keys()
        same = {
            f"{ids[enroll]} {ids[test]}"
            for enroll, test in zip(
                trials.enroll.tolist(), trials.test.tolist(), strict=True
            )
            if not made_of.get(ids[enroll], set()).isdisjoint(
                made_of.get(ids[test], ())
            )
        }
        leaks.append((f"keys of {path.name} that test.json lacks", strangers))
        leaks.append((f"trials of {path.name} that share an utterance", same))
    return [
        f"{len(found)} {what}: {', '.join(sorted(found)[:5])}"
        for what, found in leaks
        if found
    ]
