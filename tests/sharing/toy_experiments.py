"""Experiments as training, embedding, scoring and evaluation leave them, but tiny."""

import itertools

import numpy as np
import torch

from speechbrain_ext.brain.checkpoints.checkpoint import VerifiedCheckpointer
from speechbrain_ext.config import load_recipe
from speechbrain_ext.data.manifest import Utterance, write_manifest
from speechbrain_ext.files import sha256_file
from speechbrain_ext.report.results import write_results
from speechbrain_ext.scoring.trials import Trials, write_trials
from speechbrain_ext.tasks.conditions import model_conditions, now, trained_recipe
from speechbrain_ext.tasks.speaker.embed import embed_split
from speechbrain_ext.tasks.speaker.score import score
from speechbrain_ext.tasks.speaker.train import train
from tests.tasks import test_speaker_task
from tests.tasks.voices import RATE, corpus, save_audio, voice

#: Two speeds, so that half of the classes are of nobody; averaged weights.
SPEAKER = {"speeds": [1.0, 0.9], "crops_per_epoch": 32}

TRANSFORM = """\
codec: !new:speechbrain_ext.models.TransformCodec
    quantizer: !new:speechbrain_ext.quantization.AdaptiveResidualVectorQuantizer
        dim: 16
        num_quantizers: 8
        codebook_size: 16
        group_sizes: [8, 8]
        depth: 6
    sample_rate: !ref <sample_rate>
    hop_samples: 320
    width: 16
    decoder_blocks: 1
"""
SEANET = """\
codec: !new:speechbrain_ext.models.SEANetCodec
    quantizer: !new:speechbrain_ext.quantization.ResidualVectorQuantizer
        dim: 8
        num_quantizers: 4
        codebook_size: 16
    sample_rate: !ref <sample_rate>
    channels: 2
    strides: [4, 8]
"""
WAVE = """\
codec: !new:speechbrain_ext.models.WaveCodec
    settings: !new:speechbrain_ext.codec.settings.WaveSettings
        gamma: 0.6
        weights_db: [-6, -10, -1, 4, 8, 5]
    sample_rate: !ref <sample_rate>
    hidden: 8
    context_steps: 30
    post_filter_channels: 4
"""
HEAD = """\
seed: 1
sample_rate: 16000
output_folder: {folder}
save_folder: !ref <output_folder>/save
"""
TAIL = """\
modules:
    codec: !ref <codec>
"""


def speaker_experiment(folder, **settings):
    """Train, embed and score; returns the experiment."""
    data = corpus(folder / "data")
    exp = folder / "exp"
    recipe = test_speaker_task.recipe(data, exp, **SPEAKER, **settings)
    train(recipe)
    speakers = {"cohort": range(4), "test": range(4, 8)}
    for role, numbers in speakers.items():
        utterances = []
        for speaker, number in itertools.product(numbers, range(10, 13)):
            path = data / "wav" / f"{role}.{speaker}.{number}.wav"
            save_audio(path, voice(speaker, number, 1.0), RATE)
            known = f"s{speaker}", sha256_file(path), role
            utterances.append(Utterance(path.stem, path, 1.0, RATE, *known))
        write_manifest(data / f"{role}.json", utterances)
    pairs = np.array(list(itertools.combinations(range(12), 2)), np.int32)
    labels = pairs[:, 0] // 3 == pairs[:, 1] // 3
    ids = [utterance.utt_id for utterance in utterances]
    write_trials(data / "trials" / "main.txt", Trials(labels, *pairs.T, ids))
    embed_split(exp, data, log=lambda line: None)
    score(exp, data, backend="wccn+as_norm", draws=10)
    return exp


def codec_experiment(folder, codec):
    """Write a codec whose checkpoint is as after an epoch, and made-up figures."""
    folder.mkdir(parents=True)
    (folder / "hyperparams.yaml").write_text(
        HEAD.format(folder=folder) + codec + "learning_rate: 0.1\n" + TAIL
    )
    model = load_recipe(folder / "hyperparams.yaml").hparams["codec"]
    torch.manual_seed(0)
    model.initialize([torch.from_numpy(voice(1, 1))], seed=1)
    meta = {"snr": 3.0, "epoch": 2}
    VerifiedCheckpointer(folder / "save", {"codec": model}).save_checkpoint(meta)
    trained = {"epoch": 2, "valid_snr_db": 3.0}
    recipe = trained_recipe(folder, "test")
    figures = {"snr_db": 3.0, "pesq_wb": 2.0}
    conditions = model_conditions(recipe, model, folder, trained)
    write_results(
        folder / "results.json",
        {
            "task": "codec",
            "created": now(),
            "command": "./run.sh",
            "conditions": conditions | {"split_hash": "0" * 64, "device": "cpu"},
            "systems": [
                {
                    "name": "ours",
                    "kbps": getattr(model, "bitrates", [8.0])[-1],
                    "rate_kind": "nominal",
                    "mean": figures,
                    "files": [{"utt_id": "a", **figures}],
                }
            ],
            "health": {"rejected_files": 0, "rejected_batches": 0},
        },
    )
    return folder
