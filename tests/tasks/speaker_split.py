"""A scored experiment without audio: Gaussian speakers in Gaussian rooms."""

import json

import numpy as np

from speechbrain_ext.data.manifest import Utterance, write_manifest
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from speechbrain_ext.scoring.trials import Trials, write_trials

RECIPE = """\
seed: 7
output_folder: !PLACEHOLDER
modules:
    encoder: !new:torch.nn.Linear
        in_features: 4
        out_features: 3
"""
DIM = 24


def make_split(folder, *, train=12, test=6, each=6, room=0.5, noise=0.9, seed=0):
    """Write ``exp/`` and ``data/split1/``; returns both.

    Even speakers are of source "cells", odd ones of "halls"; an embedding is its
    speaker's direction, plus its source's, plus noise that is large in some dimensions.
    """
    rng = np.random.default_rng(seed)
    exp, data = folder / "exp", folder / "data" / "split1"
    rooms = room * rng.standard_normal((2, DIM))
    spread = noise * np.linspace(0.3, 1.7, DIM)
    (exp / "embeddings").mkdir(parents=True)
    (exp / "hyperparams.yaml").write_text(RECIPE)
    sides = {
        "cohort": [f"train{n:02d}" for n in range(train)],
        "test": [f"test{n:02d}" for n in range(test)],
    }
    for role, names in sides.items():
        utterances, vectors, channels = [], [], []
        for number, name in enumerate(names):
            voice = rng.standard_normal(DIM)
            booth = rng.standard_normal(DIM)
            for index in range(each):
                utt_id = f"{name}.{index}"
                source = ("cells", "halls")[number % 2]
                wav = data / "segments" / f"{utt_id}.wav"
                utterances.append(
                    Utterance(utt_id, wav, 3.0, 16000, name, "0" * 64, source)
                )
                noises = spread * rng.standard_normal(DIM)
                vectors.append(voice + rooms[number % 2] + noises)
                channels.append(-40 + booth + 2 * rng.standard_normal(DIM))
        write_manifest(data / f"{role}.json", utterances)
        ids = [u.utt_id for u in utterances]
        for suffix, rows in (("", vectors), (".channel", channels)):
            EmbeddingSet(
                ids, np.array(rows), np.full(len(ids), 3.0), "ab" * 32, "toy"
            ).save(exp / "embeddings" / f"{role}{suffix}.npz")
    (exp / "speakers.json").write_text(
        json.dumps({"speakers": sides["cohort"], "num_classes": train})
    )
    (data / "split.json").write_text(json.dumps({"split_seed": 3}))
    enroll, other = np.triu_indices(len(ids), k=1)
    speaker = np.arange(len(ids)) // each
    labels = speaker[enroll] == speaker[other]
    main = Trials(labels, enroll.astype(np.int32), other.astype(np.int32), ids)
    same = labels | (speaker[enroll] % 2 == speaker[other] % 2)
    hard = Trials(labels[same], main.enroll[same], main.test[same], ids)
    write_trials(data / "trials" / "main.txt", main)
    if not hard.labels.all():
        write_trials(data / "trials" / "hard.txt", hard)
    return exp, data
