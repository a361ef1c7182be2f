"""The two kinds of model that lose most to a NaN, small, on synthetic sound.

A speaker model with BatchNorm in every block, and a codec whose codebook learns by
EMA: both keep statistics that no optimizer step guards. Both are written as Brains of a
given base class, so that stock ``speechbrain.Brain`` and `NaNSafeBrain` run the very
same code.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.nnet.schedulers import NoamScheduler
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from speechbrain_ext.brain.batches import item_tensor
from speechbrain_ext.chaos.injection import Deliveries
from speechbrain_ext.quantization import ResidualVectorQuantizer

SAMPLE_RATE = 16000
NUM_SAMPLES = 3200
NUM_SPEAKERS = 10
BATCH_SIZE = 8
SEED = 1234
#: The guard that is no guard: a class that stands on ``speechbrain.Brain`` itself.
STOCK = "stock"
#: kinds of batch that a loader may hand over
BATCH_KINDS = ("padded", "dict")


class _Parts:
    """Takes a batch apart, whatever its kind."""

    def signal(self, batch: Any) -> torch.Tensor:
        """Waveforms [batch, time]."""
        return item_tensor(batch["wav"]).to(self.device)

    def labels(self, batch: Any) -> torch.Tensor:
        """Speakers [batch, 1]."""
        return item_tensor(batch["spk"]).to(self.device).reshape(-1, 1)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Move the learning rate as SpeechBrain's recipes do."""
        if should_step and hasattr(self.hparams, "scheduler"):
            self.hparams.scheduler(self.optimizer)


class _Speaker(_Parts):
    """Fbank, CMN, ECAPA-TDNN, additive angular margin softmax."""

    def compute_forward(self, batch, stage):
        wav = self.signal(batch)
        if self.hparams.draws:
            # The streams that augmentation draws from.
            wav = wav * (1 + 0.1 * random.random() * np.random.rand())
        features = self.modules.normalize(
            self.modules.features(wav), torch.ones(len(wav), device=wav.device)
        )
        return self.modules.classifier(self.modules.embedding(features))

    def compute_objectives(self, predictions, batch, stage):
        return self.hparams.compute_cost(predictions, self.labels(batch))


class _Codec(_Parts):
    """Convolutions with BatchNorm, residual vector quantizer, deconvolutions."""

    def compute_forward(self, batch, stage):
        wav = self.signal(batch)
        if self.hparams.draws:
            wav = wav * (1 + 0.1 * random.random() * np.random.rand())
        latents = self.modules.encoder(wav[:, None]).transpose(1, 2)
        found = self.modules.quantizer(latents)
        decoded = self.modules.decoder(found.quantized.transpose(1, 2))
        return decoded[:, 0], found.loss

    def compute_objectives(self, predictions, batch, stage):
        decoded, commitment = predictions
        wav = self.signal(batch)[:, : decoded.shape[-1]]
        return (decoded - wav).square().mean() + commitment


def _speaker_modules(dropout: float) -> dict[str, nn.Module]:
    return {
        "features": Fbank(sample_rate=SAMPLE_RATE, n_mels=24),
        "normalize": InputNormalization(norm_type="sentence", std_norm=False),
        "embedding": ECAPA_TDNN(
            24,
            channels=[16, 16, 16, 16, 48],
            attention_channels=16,
            res2net_scale=4,
            se_channels=16,
            lin_neurons=32,
            dropout=dropout,
        ),
        "classifier": Classifier(32, out_neurons=NUM_SPEAKERS),
    }


def _codec_modules(dropout: float) -> dict[str, nn.Module]:
    def down(inputs, outputs):
        return (
            nn.Conv1d(inputs, outputs, 8, 4, 2),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    return {
        "encoder": nn.Sequential(
            *down(1, 8), *down(8, 16), *down(16, 32), nn.Conv1d(32, 16, 1)
        ),
        "quantizer": ResidualVectorQuantizer(
            16, 2, 32, init="normal", quantizer_dropout=0.5 if dropout else 0.0
        ),
        "decoder": nn.Sequential(
            nn.ConvTranspose1d(16, 16, 8, 4, 2),
            nn.ReLU(),
            nn.ConvTranspose1d(16, 8, 8, 4, 2),
            nn.ReLU(),
            nn.ConvTranspose1d(8, 1, 8, 4, 2),
        ),
    }


_BRAINS = {"speaker": (_Speaker, _speaker_modules), "codec": (_Codec, _codec_modules)}
#: Names that `ReferenceModel` knows.
MODELS = tuple(_BRAINS)


@dataclass(frozen=True)
class ReferenceModel:
    """A reference model and its data, as `survival` runs them.

    Arguments
    ---------
    name : str
        One of `MODELS`.
    batch_kind : str
        One of `BATCH_KINDS`.
    dropout : float
        Above 0, dropout is on, and forward draws from Python's and NumPy's streams too.
    scheduler : bool
        Noam learning rates, moved in ``on_fit_batch_end``, kept by a checkpointer.
    batches, num_epochs : int
        Batches in all, and over how many epochs they are spread evenly.

    Raises
    ------
    ValueError
        If the name or kind is unknown.

    Example
    -------
    >>> model = ReferenceModel("speaker", batches=4)
    >>> [len(epoch) for epoch in model.epochs()]
    [2, 2]
    """

    name: str
    batch_kind: str = "padded"
    dropout: float = 0.0
    scheduler: bool = False
    batches: int = 60
    num_epochs: int = 2

    #: guards under which it can be run
    guards = (STOCK, "off", "skip", "transaction")

    def __post_init__(self):
        if self.name not in MODELS:
            raise ValueError(
                f"ReferenceModel: name must be one of {MODELS}, got {self.name!r}"
            )
        if self.batch_kind not in BATCH_KINDS:
            raise ValueError(
                f"ReferenceModel: batch_kind must be one of {BATCH_KINDS}, got "
                f"{self.batch_kind!r}"
            )

    def epochs(self) -> list[list[Any]]:
        """Make the batches of each epoch: chords whose pitch belongs to a speaker."""
        generator = torch.Generator().manual_seed(SEED)
        made = [self._batch(number, generator) for number in range(self.batches)]
        each = self.batches // self.num_epochs
        return [made[e * each : (e + 1) * each] for e in range(self.num_epochs)]

    def _batch(self, number: int, generator: torch.Generator) -> Any:
        speakers = torch.randint(NUM_SPEAKERS, (BATCH_SIZE,), generator=generator)
        time = torch.arange(NUM_SAMPLES) / SAMPLE_RATE
        pitch = (100 + 20 * speakers)[:, None]
        phase = 2 * math.pi * torch.rand(BATCH_SIZE, 1, generator=generator)
        angle = 2 * math.pi * pitch * time + phase
        wav = 0.1 * sum(torch.sin(k * angle) / k for k in (1, 2, 3))
        wav += 0.01 * torch.randn(wav.shape, generator=generator)
        items = {
            "id": [f"batch{number}_row{row}" for row in range(BATCH_SIZE)],
            "wav": wav,
        }
        if self.name == "speaker":
            items["spk"] = speakers[:, None]
        if self.batch_kind == "dict":
            return items
        rows = zip(*items.values(), strict=True)
        return PaddedBatch([dict(zip(items, row, strict=True)) for row in rows])

    def brain(
        self, guard: str, policy: NonFinitePolicy, folder: Path, accumulation: int = 1
    ) -> Any:
        """Build it anew, always with the same first state and random streams.

        Arguments
        ---------
        guard : str
            ``"stock"``: the class stands on ``speechbrain.Brain`` itself. Else it
            stands on `NaNSafeBrain`, and ``policy.mode`` decides.
        policy : NonFinitePolicy
            Of the guard.
        folder : Path
            For what the run writes.
        accumulation : int
            Batches in a step.

        Returns
        -------
        speechbrain.Brain
            Before its ``fit``.
        """
        parts, modules = _BRAINS[self.name]
        base = speechbrain.Brain if guard == STOCK else NaNSafeBrain
        brain_class = type(parts.__name__.strip("_"), (parts, base), {})
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        hparams = {
            "nan_guard": policy,
            "draws": self.dropout > 0,
            "compute_cost": LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30.0)),
        }
        checkpointer = None
        if self.scheduler:
            hparams["scheduler"] = NoamScheduler(1e-3, n_warmup_steps=15)
            checkpointer = Checkpointer(
                folder / "save", {"scheduler": hparams["scheduler"]}
            )
        return brain_class(
            modules(self.dropout),
            lambda parameters: torch.optim.Adam(parameters, 1e-3),
            hparams,
            {
                "device": "cpu",
                "noprogressbar": True,
                "max_grad_norm": 5.0,
                "grad_accumulation_factor": accumulation,
            },
            checkpointer,
        )

    def fit(self, brain: Any, deliveries: Deliveries) -> None:
        """Train on what is delivered."""
        brain.fit(range(1, self.num_epochs + 1), deliveries)
