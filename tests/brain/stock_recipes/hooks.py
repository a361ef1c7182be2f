"""Recipes that override hooks of stock Brain, and leave fit_batch as it is."""

from __future__ import annotations

from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.nnet import schedulers
from speechbrain.utils.metric_stats import (
    ClassificationStats,
)
from torch import nn

from tests.brain.stock_recipes.parts import (
    NUM_SPEAKERS,
    TRAIN,
    VALID,
    Frames,
    Pooled,
    adam,
    here,
    make,
    sgd,
    short,
)


def autoencoder(base, folder: Path, **options):
    """The auto-encoder example: no checkpoint, losses kept in attributes."""

    class AutoEncoder(base):
        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            features = self.modules.frames(sig, lens)
            encoded = self.modules.encoder(features.detach())
            return self.modules.decoder(encoded), features.detach(), lens

        def compute_objectives(self, predictions, batch, stage):
            decoded, features, lens = predictions
            return sb.nnet.losses.mse_loss(decoded, features, lens)

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == TRAIN:
                self.train_loss = stage_loss
            if stage == VALID:
                self.history = [*getattr(self, "history", []), stage_loss]

    modules = {
        "frames": Frames(),
        "encoder": nn.Linear(8, 2),
        "decoder": nn.Linear(2, 8),
    }
    return make(AutoEncoder, modules, sgd, **options)


def classification(base, folder: Path, **options):
    """A classifier that keeps its confusions, training ones too."""

    class Classification(short(base)):
        def compute_objectives(self, predictions, batch, stage):
            said = [str(int(row)) for row in predictions.argmax(1)]
            truth = [str(int(row)) for row in batch["spk"][0].squeeze(1)]
            self.confusions.append(batch["id"], said, truth)
            self.labels_seen.update(truth)
            return super().compute_objectives(predictions, batch, stage)

        def on_stage_start(self, stage, epoch=None):
            self.confusions = ClassificationStats()
            self.labels_seen = set()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            self.seen = sorted(self.labels_seen)
            self.accuracy = self.confusions.summarize("accuracy")

    return make(Classification, {"model": Pooled()}, adam, **options)


def noam(base, folder: Path, **options):
    """The transformer recipes' way: anneal after each step, log the rate."""

    class Noam(short(base)):
        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                self.hparams.noam_annealing(self.optimizer)
                self.rates = [*getattr(self, "rates", []), outputs.detach().mean()]

    hparams = {"noam_annealing": schedulers.NoamScheduler(1e-2, 3)}
    return make(Noam, {"model": Pooled()}, adam, hparams=hparams, **options)


def frozen_at_first(base, folder: Path, **options):
    """The wav2vec recipes' way: two optimizers, one of them waits some steps."""

    class Frozen(short(base)):
        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            return self.modules.head(self.modules.wav2vec2(sig, lens).mean(1))

        def init_optimizers(self):
            self.wav2vec_optimizer = adam(self.modules.wav2vec2.parameters())
            self.model_optimizer = sgd(self.modules.head.parameters())
            self.optimizers_dict = {
                "wav2vec_optimizer": self.wav2vec_optimizer,
                "model_optimizer": self.model_optimizer,
            }

        def freeze_optimizers(self, optimizers):
            valid = {"model_optimizer": optimizers["model_optimizer"]}
            if self.optimizer_step >= self.hparams.warmup_steps:
                valid["wav2vec_optimizer"] = optimizers["wav2vec_optimizer"]
            return valid

    modules = {"wav2vec2": Frames(), "head": nn.Linear(8, NUM_SPEAKERS)}
    return make(Frozen, modules, None, hparams={"warmup_steps": 2}, **options)


def own_evaluate_batch(base, folder: Path, **options):
    """Validates in another way than it trains."""

    class Evaluated(short(base)):
        @torch.no_grad()
        def evaluate_batch(self, batch, stage):
            scores = self.compute_forward(batch, stage=stage)
            self.heard = [*getattr(self, "heard", []), *batch["id"]]
            return scores.square().mean().detach().cpu()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            self.losses = [*getattr(self, "losses", []), stage_loss]

    return make(Evaluated, {"model": Pooled()}, adam, **options)


def own_optimizers_step(base, folder: Path, **options):
    """Clips by value, and steps itself."""

    class Stepping(short(base)):
        def optimizers_step(self):
            torch.nn.utils.clip_grad_value_(self.modules.parameters(), 0.5)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer_step += 1

    return make(Stepping, {"model": Pooled()}, adam, **options)


def logs_from_the_loss(base, folder: Path, **options):
    """Writes a line for every batch, from inside compute_objectives."""

    class Logging(short(base)):
        def compute_objectives(self, predictions, batch, stage):
            loss = super().compute_objectives(predictions, batch, stage)
            if stage == TRAIN:
                self.hparams.train_logger.log_stats(
                    {"step": self.optimizer_step},
                    {"spread": float(predictions.detach().std())},
                )
            return loss

    logger = sb.utils.train_logger.FileTrainLogger(str(folder / "step_log.txt"), 6)
    hparams = {"train_logger": logger}
    return make(Logging, {"model": Pooled()}, adam, hparams=hparams, **options)


def tensor_rate(base, folder: Path, **options):
    """A learning rate that is a tensor, multiplied in place after each step."""

    class Rated(short(base)):
        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                self.optimizer.param_groups[0]["lr"].mul_(0.9)

    def opt_class(parameters):
        return torch.optim.Adam(parameters, torch.tensor(1e-2))

    return make(Rated, {"model": Pooled()}, opt_class, **options)


def no_optimizer(base, folder: Path, **options):
    """Only gathers statistics over the data: nothing is optimized."""

    class Gathering(short(base)):
        def compute_objectives(self, predictions, batch, stage):
            loss = super().compute_objectives(predictions, batch, stage)
            self.total = getattr(self, "total", 0.0) + float(loss.detach())
            return loss

    return make(Gathering, {"model": Pooled()}, None, **options)


def hooks_and_counters(base, folder: Path, **options):
    """Keeps a weight average, an epoch's list and numpy noise of its own."""

    class Hooked(short(base)):
        def on_stage_start(self, stage, epoch=None):
            if not hasattr(self, "average"):
                self.average = {
                    k: v.clone() for k, v in self.modules.named_parameters()
                }
            self.sizes = []

        def on_fit_batch_start(self, batch, should_step):
            import random

            import numpy

            self.gain = 1.0 + 0.1 * random.random() + 0.1 * numpy.random.rand()
            self.sizes.append(len(batch["id"]))

        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            return self.modules.model(sig * getattr(self, "gain", 1.0), lens)

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                for name, value in self.modules.named_parameters():
                    self.average[name].lerp_(value.detach(), 0.1)

    return make(Hooked, {"model": Pooled()}, adam, **options)
