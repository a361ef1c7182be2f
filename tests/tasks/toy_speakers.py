"""A tiny speaker experiment and a split, as the tests of what comes after need them."""

import contextlib
import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from speechbrain_ext.brain.checkpoints.checkpoint import VerifiedCheckpointer
from speechbrain_ext.config import load_recipe
from speechbrain_ext.data.audio import save_audio
from speechbrain_ext.data.manifest import Utterance, write_manifest
from speechbrain_ext.files import sha256_file
from speechbrain_ext.tasks.speaker import embed

DIM = 12
RECIPE = """
seed: 1
output_folder: {folder}
save_folder: !ref <output_folder>/save
sample_rate: 16000
modules:
    encoder: !new:speechbrain_ext.models.speaker.SpeakerEncoder
        features: !new:speechbrain.lobes.features.Fbank
            n_mels: 24
        encoder: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
            input_size: 24
            channels: [8, 8, 8, 8, 16]
            attention_channels: 8
            se_channels: 8
            res2net_scale: 4
            lin_neurons: 12
        embedding_dim: 12
"""


def experiment(folder, seed=0):
    """Write an experiment whose encoder has seen an epoch, as training leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hyperparams.yaml"
    path.write_text(RECIPE.format(folder=folder))
    encoder = load_recipe(path).hparams["modules"]["encoder"]
    generator = torch.Generator().manual_seed(seed)
    for name, value in encoder.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.3, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
    checkpointer = VerifiedCheckpointer(folder / "save", {"encoder": encoder})
    checkpointer.save_and_keep_only(meta={"eer": 0.1, "loss": 1.0, "epoch": 1})
    return folder


def noise(seed, seconds):
    """Bursts of noise, [time] at 16 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    envelope = np.clip(np.sin(2 * np.pi * (2 + seed % 3) * time), 0.02, 1)
    return (0.1 * envelope * rng.standard_normal(len(time))).astype(np.float32)


def add_utterance(folder, utt_id, wav, spk_id="a", write=save_audio):
    path = Path(folder) / "wav" / f"{utt_id}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, wav, 16000)
    return Utterance(utt_id, path, len(wav) / 16000, 16000, spk_id, sha256_file(path))


def split(folder, seconds=(0.5, 0.31, 0.5, 0.8, 0.5)):
    """Write ``test.json`` and ``cohort.json`` with audio of these lengths."""
    for first, role in enumerate(("test", "cohort")):
        write_manifest(
            folder / f"{role}.json",
            [
                add_utterance(folder, f"{role}.{n}", noise(10 * first + n, length))
                for n, length in enumerate(seconds)
            ],
        )
    return folder


@contextlib.contextmanager
def loaded_once(module=embed):
    """Load each experiment's encoder once: a second saved for each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_encoder", functools.cache(module.load_encoder))
        yield
