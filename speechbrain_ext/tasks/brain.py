"""What the Brains of all tasks do around their batches."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from speechbrain import Stage
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.seed import seed_everything

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.config import Recipe
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.report.doctor import examine, render

#: Numbers in the progress bar are read from the device at most this often.
_PROGRESS_SECONDS = 0.5


class TaskBrain(NaNSafeBrain):
    """A Brain with a schedule, sums over the epoch, and a line for each epoch.

    Arguments
    ---------
    modules, opt_class, run_opts, checkpointer
        As for ``speechbrain.Brain``.
    hparams : dict
        Beside what every Brain reads: ``seed``, ``output_folder``, ``schedule``
        (`WarmupCosine`), ``epoch_counter``, ``test_interval`` (epochs between two
        validations) and ``train_loggers`` (list of SpeechBrain loggers).

    A task gives ``compute_forward`` and ``compute_objectives`` (which calls
    `remember`), ``on_stage_start`` and ``on_stage_end``.
    """

    #: terms that the progress bar shows
    shown_terms: tuple[str, ...] = ("loss",)

    def __init__(self, modules, opt_class, hparams, run_opts=None, checkpointer=None):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        self.term_sums: dict[str, torch.Tensor] = {}
        # Not self.step: an epoch that is resumed starts with its steps, but no sums,
        # and not every batch has every term.
        self.term_counts: dict[str, int] = {}
        #: gradient norms before clipping, of the steps that were taken
        self.norm_sum: torch.Tensor | float = 0.0
        self.norm_count = 0
        self._shown: tuple[float, dict] = (0.0, {})
        self.train_stats: dict[str, float] = {}
        self.num_epochs = 0
        #: whether the first weights come from data and not from noise
        self.starts_trained = False
        #: what went on before the first epoch; counted with it
        self.seconds_before = 0.0

    # -- one batch ---------------------------------------------------------------

    def remember(self, values: dict[str, torch.Tensor]) -> None:
        """Add to the epoch's sums; rebinding, so that a rejected batch is undone."""
        for name, value in values.items():
            value = value.detach().float()
            self.term_sums[name] = self.term_sums.get(name, 0.0) + value
            self.term_counts[name] = self.term_counts.get(name, 0) + 1

    def _clip(self, optimizers, norms):
        if norms:
            total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
            self.norm_sum, self.norm_count = self.norm_sum + total, self.norm_count + 1
        super()._clip(optimizers, norms)

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rate of the coming step."""
        if should_step:
            for optimizer in self.optimizers_dict.values():
                self.hparams.schedule.apply(optimizer)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Count a step that was taken."""
        if should_step:
            self.hparams.schedule.advance()

    # -- a run -------------------------------------------------------------------

    def fit(self, epoch_counter, train_set, valid_set=None, **kwargs):
        """Train as ``Brain.fit`` does.

        With ``starts_trained`` the first weights are validated as epoch 0, and may win.
        """
        self.train_sampler = train_set.sampler
        self.first_valid_set = valid_set
        self.num_epochs = epoch_counter.limit
        steps = len(train_set) // self.grad_accumulation_factor
        self.hparams.schedule.total_steps = steps * self.num_epochs
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    def on_fit_start(self):
        """Prepare as stock does; validate first weights that are already good."""
        super().on_fit_start()
        if self.starts_trained and self.hparams.epoch_counter.current == 0:
            super()._fit_valid(self.first_valid_set, 0, enable=False)

    def estimate_seconds(self, batch) -> float:
        """Time forward and backward on one batch without learning from it."""
        transaction = self._guard.transaction
        transaction.begin()
        self.modules.train()
        try:
            times = []
            for _ in range(2):  # the first one warms up
                start = time.perf_counter()
                outputs = self.compute_forward(batch, Stage.TRAIN)
                self.compute_objectives(outputs, batch, Stage.TRAIN).backward()
                if self.device_type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        finally:
            transaction.rollback()
            for parameter in self.modules.parameters():
                parameter.grad = None
        return times[-1]

    def model(self) -> torch.nn.Module:
        """Return the module that stands for the whole in messages."""
        return next(iter(self.modules.values()))

    def write_beside(self, folder: Path) -> None:
        """Write what a task wants in the experiment folder before it trains."""

    def finish(self, valid_set, train_set: Mapping[str, Utterance]) -> None:
        """Do what is left to do once all epochs are over; may be called again."""

    def announce(self, loader) -> None:
        """Say what will be trained and about how long it takes.

        Arguments
        ---------
        loader : CropLoader
            Of training; its first batch is timed, and not learned from.
        """
        # Not by iterating the loader: that would forbid it to resume within an epoch.
        crops = itertools.islice(loader.sampler, loader.batch_size)
        batch = loader.collate_fn([loader.dataset[crop] for crop in crops])
        model, epochs = self.model(), self.hparams.epoch_counter.limit
        seconds = self.estimate_seconds(batch) * len(loader) * epochs
        # All ranks timed it, since a module may speak to the others; one tells.
        if if_main_process():
            parameters = sum(p.numel() for p in model.parameters())
            print(
                f"{type(model).__name__}: {parameters:,} parameters, "
                f"{epochs} epochs of {len(loader)} steps on {self.device}: "
                f"about {seconds / 60:.0f} min",
                file=sys.stderr,
            )

    def progress_items(self):
        """Terms of the loss, learning rate and rejects, read twice a second."""
        last, shown = self._shown
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS and self.term_sums:
            shown = {
                name: f"{float(self.term_sums[name]) / self.term_counts[name]:.3f}"
                for name in self.shown_terms
                if name in self.term_sums
            }
            shown["lr"] = f"{self.optimizer.param_groups[0]['lr']:.1e}"
            self._shown = (now, shown)
        return {**shown, **super().progress_items()}

    def _is_validated(self, epoch) -> bool:
        return epoch % self.hparams.test_interval == 0 or epoch == self.num_epochs

    def _fit_valid(self, valid_set, epoch, enable):
        if self._is_validated(epoch):
            super()._fit_valid(valid_set, epoch, enable)
        if epoch == 1 and if_main_process():
            print(render(examine(self.hparams.output_folder)), file=sys.stderr)

    # -- an epoch ----------------------------------------------------------------

    def start_sums(self, epoch: int) -> None:
        """Begin a training epoch: its random stream, its sums."""
        # Dropout and whatever else draws then does not depend on whether the run was
        # interrupted between two epochs.
        seed = generator_for(self.hparams.seed, epoch, "dropout").integers(2**31)
        seed_everything(int(seed), verbose=False)
        self.term_sums, self.term_counts = {}, {}
        self.norm_sum, self.norm_count = 0.0, 0
        self._shown = (0.0, {})
        self.stage_started = time.monotonic()

    def end_sums(self, epoch: int) -> None:
        """End a training epoch: means into ``train_stats``; logged if not validated."""
        self.train_stats = {
            name: float(total) / self.term_counts[name]
            for name, total in self.term_sums.items()
        }
        if self.norm_count:
            self.train_stats["grad_norm"] = float(self.norm_sum) / self.norm_count
        self.train_stats |= self.health_items()
        seconds = time.monotonic() - self.stage_started + self.seconds_before
        self.train_stats["seconds"], self.seconds_before = seconds, 0.0
        if not self._is_validated(epoch):
            self.log_epoch(epoch, None)

    def log_items(self) -> dict[str, float]:
        """Return what stands first in the line of an epoch; a task may add to it."""
        return {"lr": self.optimizer.param_groups[0]["lr"]}

    def log_epoch(self, epoch, valid_stats) -> None:
        """Write the line of an epoch into all logs."""
        meta = {"epoch": epoch, **self.log_items()}
        for train_logger in self.hparams.train_loggers:
            train_logger.log_stats(meta, self.train_stats or None, valid_stats)


def brain_of(kind: type[TaskBrain], recipe: Recipe, modules: dict) -> TaskBrain:
    """Build the Brain of a recipe; its dumps will say where its settings are from."""
    hparams = recipe.hparams
    hparams["train_loggers"] = [hparams["train_logger"]]
    run_opts = dict(recipe.run_opts)
    if run_opts.get("ckpt_interval_steps") and "ckpt_interval_minutes" not in run_opts:
        # SpeechBrain takes one of the two only; who asks for steps means them.
        run_opts["ckpt_interval_minutes"] = 0
    brain = kind(
        modules=modules,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.origin = {
        "recipe": recipe.path.name,
        "config_hash": recipe.config_hash,
        "presets": list(recipe.presets),
    }
    return brain
