"""Recipes that override fit_batch, in the ways that public recipes do."""

from __future__ import annotations

from pathlib import Path

import torch
from speechbrain.nnet import schedulers
from torch import nn

from tests.brain.stock_recipes.parts import (
    TRAIN,
    Pooled,
    adam,
    here,
    make,
    short,
)


def two_steps(base, folder: Path, **options):
    """Calls optimizers_step() twice a batch, with a forward before each."""

    class Twice(short(base)):
        def fit_batch(self, batch):
            for _ in range(2):
                predictions = self.compute_forward(batch, TRAIN)
                loss = self.compute_objectives(predictions, batch, TRAIN)
                loss.backward()
                self.optimizers_step()
            return loss.detach().cpu()

    return make(Twice, {"model": Pooled()}, adam, **options)


def sharpness(base, folder: Path, **options):
    """SAM: climbs to a worse point through ``.data``, steps from the first one."""

    class Sharpness(short(base)):
        def fit_batch(self, batch):
            self.loss_at(batch).backward()
            climbed = []
            for p in self.modules.parameters():
                if p.grad is not None:
                    climbed.append((p, p.data.clone()))
                    p.data.add_(p.grad, alpha=0.01)
            self.optimizer.zero_grad()
            loss = self.loss_at(batch)
            loss.backward()
            for p, before in climbed:
                p.data.copy_(before)
            self.optimizers_step()
            return loss.detach().cpu()

        def loss_at(self, batch):
            outputs = self.compute_forward(batch, TRAIN)
            return self.compute_objectives(outputs, batch, TRAIN)

    return make(Sharpness, {"model": Pooled()}, adam, **options)


def closure(base, folder: Path, **options):
    """L-BFGS: the optimizer asks for the loss again and again within one step."""

    class Closure(short(base)):
        def fit_batch(self, batch):
            def evaluate():
                self.optimizer.zero_grad()
                outputs = self.compute_forward(batch, TRAIN)
                loss = self.compute_objectives(outputs, batch, TRAIN)
                loss.backward()
                return loss

            return self.optimizer.step(evaluate).detach().cpu()

    def opt_class(parameters):
        return torch.optim.LBFGS(parameters, 0.01, max_iter=3, history_size=2)

    return make(Closure, {"model": Pooled()}, opt_class, **options)


def separation(base, folder: Path, **options):
    """The separation recipes' way: another signature, a limit on the loss."""

    class Separation(base):
        def compute_forward(self, mix, targets, stage):
            if stage == TRAIN:
                mix = mix[0] + 0.01 * torch.randn_like(mix[0]), mix[1]
            return self.modules.model(*mix), targets

        def compute_objectives(self, predictions, targets):
            return nn.functional.cross_entropy(predictions, targets, reduction="none")

        def fit_batch(self, batch):
            mixture = here(batch, self.device)["sig"]
            targets = here(batch, self.device)["spk"][0].squeeze(1)
            predictions, targets = self.compute_forward(mixture, targets, TRAIN)
            loss = self.compute_objectives(predictions, targets)
            loss = loss[loss > self.hparams.threshold]
            if loss.nelement() > 0:
                loss = loss.mean()
            if loss.nelement() > 0 and loss < self.hparams.loss_upper_lim:
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 5.0)
                self.optimizer.step()
            else:
                self.nonfinite_count += 1
                loss = torch.tensor(0.0)
            self.optimizer.zero_grad()
            return loss.detach().cpu()

        def evaluate_batch(self, batch, stage):
            mixture = batch["sig"]
            targets = batch["spk"][0].squeeze(1)
            with torch.no_grad():
                predictions, targets = self.compute_forward(mixture, targets, stage)
                loss = self.compute_objectives(predictions, targets)
            return loss.mean().detach()

    hparams = {"threshold": 0.01, "loss_upper_lim": 999999}
    return make(Separation, {"model": Pooled()}, adam, hparams=hparams, **options)


def pretraining(base, folder: Path, **options):
    """The pre-training recipes' way: own scaling, clipping, counting and hooks."""

    class Pretraining(short(base)):
        def fit_batch(self, batch):
            should_step = self.step % self.grad_accumulation_factor == 0
            with self.no_sync(not should_step):
                with self.training_ctx:
                    predictions = self.compute_forward(batch, TRAIN)
                    loss = self.compute_objectives(predictions, batch, TRAIN)
                self.scaler.scale(loss / self.grad_accumulation_factor).backward()
            if should_step:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 5.0)
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
                self.optimizer_step += 1
            self.on_fit_batch_end(batch, predictions, loss, should_step)
            return loss.detach().cpu()

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                self.hparams.annealing(self.optimizer)
            self.objective_loss = loss.detach()

    hparams = {"annealing": schedulers.NoamScheduler(1e-2, 3)}
    return make(Pretraining, {"model": Pooled()}, adam, hparams=hparams, **options)
