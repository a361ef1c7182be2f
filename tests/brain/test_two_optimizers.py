"""A vocoder recipe whose two optimizers step in turn: all of a batch, or nothing."""

import functools
import random
import tempfile
from pathlib import Path

import numpy
import pytest
import speechbrain
import torch
from speechbrain.nnet.schedulers import NoamScheduler
from speechbrain.utils.data_utils import scalarize
from torch import nn
from torch.utils.data import DataLoader

from speechbrain_ext.brain import DivergenceError, NaNSafeBrain
from tests.brain.same_bits import differences, files_of, state_of
from tests.brain.test_recipes_unchanged import Guarded

TRAIN, VALID = speechbrain.Stage.TRAIN, speechbrain.Stage.VALID
SIZE, FRAMES, SPEAKERS = 16, 5, 4


class Generator(nn.Module):
    """Noise, dropout, BatchNorm: forward moves streams and buffers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FRAMES, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(8, SIZE)

    def forward(self, mel):
        mel = mel + 0.01 * torch.randn_like(mel)
        return self.last(self.drop(self.norm(self.first(mel))))


class Discriminator(nn.Module):
    """Spectral normalization moves a buffer in each forward."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(SIZE, 8))
        self.last = nn.Linear(8, 1)

    def forward(self, wav):
        return self.last(torch.relu(self.first(wav))).squeeze(1)


class Balance(nn.Module):
    """A running mean of a loss term, only watched."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, value):
        self.mean.lerp_(value.detach().mean(), 0.1)


def vocoder(base, folder, *, turn="each"):
    """A HiFi-GAN recipe; ``turn``: which batches train the discriminator."""

    class Vocoder(base):
        def compute_forward(self, batch, stage):
            wav, mel = batch["wav"], batch["mel"]
            fake = self.modules.generator(mel)
            real_score = self.modules.discriminator(wav)
            fake_score = self.modules.discriminator(fake.detach())
            return fake, fake_score, real_score

        def compute_objectives(self, predictions, batch, stage):
            fake, fake_score, real_score = predictions
            d_terms = (1 - real_score).square() + fake_score.square()
            g_terms = (1 - self.modules.discriminator(fake)).square()
            voices = self.modules.speakers(batch["spk"])
            g_terms = g_terms + (fake - batch["wav"]).abs().mean(1)
            g_terms = g_terms + (fake[:, :2] - voices).square().mean(1)
            loss = {
                "D_loss": (batch["d_weight"] * d_terms).mean(),
                "G_loss": (batch["g_weight"] * g_terms).mean(),
            }
            self.last_loss_stats[stage] = scalarize(loss)
            return loss

        def fit_batch(self, batch):
            self.trained = getattr(self, "trained", 0) + 1
            outputs = self.compute_forward(batch, TRAIN)
            if turn == "each" or self.trained % 2 == 0:
                _, fake_score, real_score = outputs
                loss_d = (1 - real_score).square() + fake_score.square()
                loss_d = (batch["d_weight"] * loss_d).mean()
                self.optimizer_d.zero_grad()
                loss_d.backward()
                self.optimizer_d.step()
            self.modules.balance(batch["between"])
            loss_g = self.compute_objectives(outputs, batch, TRAIN)["G_loss"]
            self.optimizer_g.zero_grad()
            loss_g.backward()
            self.optimizer_g.step()
            self.hparams.annealing(self.optimizer_g)
            self.modules.balance(batch["after"])
            self.last_batch = outputs[0].detach()
            return loss_g.detach().cpu()

        def evaluate_batch(self, batch, stage):
            outputs = self.compute_forward(batch, stage)
            loss = self.compute_objectives(outputs, batch, stage)
            return loss["G_loss"].detach().cpu()

        def on_fit_start(self):
            self.last_loss_stats = {}
            return super().on_fit_start()

        def init_optimizers(self):
            self.optimizer_g = torch.optim.AdamW(
                [
                    *self.modules.generator.parameters(),
                    *self.modules.speakers.parameters(),
                ],
                1e-2,
            )
            self.optimizer_d = torch.optim.AdamW(
                self.modules.discriminator.parameters(), 1e-2
            )
            exponential = torch.optim.lr_scheduler.ExponentialLR
            self.scheduler_g = exponential(self.optimizer_g, 0.9)
            self.scheduler_d = exponential(self.optimizer_d, 0.9)
            self.optimizers_dict = {
                "optimizer_g": self.optimizer_g,
                "optimizer_d": self.optimizer_d,
            }
            for name in ("optimizer_g", "optimizer_d", "scheduler_g", "scheduler_d"):
                self.checkpointer.add_recoverable(name, getattr(self, name))

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == VALID:
                self.scheduler_g.step()
                self.scheduler_d.step()
                stats = {"loss": stage_loss, "epoch": epoch}
                self.hparams.train_logger.log_stats(
                    {"Epoch": epoch, "lr": self.optimizer_g.param_groups[-1]["lr"]},
                    train_stats=self.last_loss_stats[TRAIN],
                    valid_stats=self.last_loss_stats[VALID],
                )
                self.checkpointer.save_and_keep_only(
                    meta=stats,
                    min_keys=["loss"],
                    ckpt_predicate=lambda ckpt: ckpt.meta["epoch"] % 2 == 0,
                )

    torch.manual_seed(3)
    random.seed(3)
    numpy.random.seed(3)
    modules = {
        "generator": Generator(),
        "discriminator": Discriminator(),
        "speakers": nn.Embedding(SPEAKERS, 2),
        "balance": Balance(),
    }
    hparams = {
        "annealing": NoamScheduler(1e-2, 4),
        "train_logger": speechbrain.utils.train_logger.FileTrainLogger(
            str(folder / "train_log.txt"), 6
        ),
    }
    checkpointer = speechbrain.utils.checkpoints.Checkpointer(
        folder / "save", {**modules, "annealing": hparams["annealing"]}
    )
    options = {"noprogressbar": True, "device": "cpu"}
    return Vocoder(modules, None, hparams, options, checkpointer)


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.randn, generator=generator)
    return [
        {
            "id": [f"utt{seed}_{index}_{row}" for row in range(4)],
            "wav": rand(4, SIZE),
            "mel": rand(4, FRAMES),
            "spk": torch.randint(SPEAKERS, (4,), generator=generator),
            "d_weight": torch.ones(4),
            "g_weight": torch.ones(4),
            "between": rand(4),
            "after": rand(4),
        }
        for index in range(count)
    ]


def faulty(name, value, seed=99):
    bad = batches(1, seed)[0]
    bad[name][2] = value
    return bad


#: Where the fault shows itself, and the item of the batch that carries it.
FAULTS = {
    "NaN sample, discriminator first": ("wav", torch.nan),
    "NaN features, generator first": ("mel", torch.nan),
    "NaN in the discriminator's loss": ("d_weight", torch.nan),
    "overflow of the discriminator's norm": ("d_weight", 1e25),
    "NaN in the generator's loss, discriminator has stepped": ("g_weight", torch.nan),
    "overflow of the generator's norm": ("g_weight", 1e25),
    "exception between the two steps": ("spk", 99),
    "buffer spoiled between the two steps": ("between", torch.inf),
    "buffer spoiled after both steps": ("after", torch.inf),
}


def left_by(base, data, **options):
    with tempfile.TemporaryDirectory() as folder:
        brain = vocoder(base, Path(folder), **options)
        train = DataLoader(data, batch_size=None)
        valid = DataLoader(batches(2, seed=7), batch_size=None)
        brain.fit(range(1, 3), train, valid)
        return brain, state_of(brain) | files_of(brain, Path(folder))


@functools.cache
def stock(**options):
    return left_by(speechbrain.Brain, batches(6), **options)[1]


@pytest.mark.parametrize("turn", ["each", "every second"])
def test_a_clean_run_has_the_bits_of_stock(turn):
    ours, left = left_by(NaNSafeBrain, batches(6), turn=turn)
    assert ours.health.rejected == 0
    assert differences(stock(turn=turn), left) == []


@pytest.mark.parametrize("place", [0, 6])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_batch_that_is_bad_for_one_optimizer_moves_neither(fault, place):
    data = batches(6)
    data.insert(place, faulty(*FAULTS[fault]))
    ours, left = left_by(Guarded, data)
    assert ours.health.rejected == 2  # two epochs
    assert differences(stock(), left) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_two_bad_batches_in_a_row_move_neither(fault):
    name, value = FAULTS[fault]
    data = batches(6)
    data[3:3] = [faulty(name, value), faulty(name, value, seed=98)]
    ours, left = left_by(Guarded, data)
    assert ours.health.rejected == 4
    assert differences(stock(), left) == []


@pytest.mark.parametrize("place", [0, 1, 2, 6])
@pytest.mark.parametrize(
    "fault",
    [
        "NaN in the generator's loss, discriminator has stepped",
        "exception between the two steps",
        "buffer spoiled after both steps",
    ],
)
def test_batches_may_step_once_or_twice_in_turn(fault, place):
    """The first batch steps one optimizer, the second one both: nothing is learned."""
    data = batches(6)
    data.insert(place, faulty(*FAULTS[fault]))
    ours, left = left_by(Guarded, data, turn="every second")
    assert ours.health.rejected == 2
    assert differences(stock(turn="every second"), left) == []


def test_a_fault_in_every_batch_ends_the_run():
    data = [faulty("g_weight", torch.nan, seed) for seed in range(20)]
    with pytest.raises(DivergenceError):
        left_by(Guarded, data)
