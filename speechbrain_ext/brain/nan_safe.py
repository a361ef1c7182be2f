"""`NaNSafeBrain`: SpeechBrain's Brain with a transaction around each batch."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import speechbrain
import torch

from speechbrain_ext.brain.batches import utterance_ids
from speechbrain_ext.brain.diagnose import bad_inputs, first_bad_module
from speechbrain_ext.brain.dump import write_dump
from speechbrain_ext.brain.health import Health
from speechbrain_ext.brain.incident import describe
from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.progress import extra_progress
from speechbrain_ext.brain.state import state_owners
from speechbrain_ext.brain.transaction import Transaction
from speechbrain_ext.brain.verdict import (
    RejectedBatch,
    Verdict,
    explain_norm,
    group_norms,
    judge,
    nonfinite_names,
)

logger = logging.getLogger(__name__)


class _Guard:
    """What one Brain needs between batches; kept out of the Brain's own state."""

    def __init__(self, brain: NaNSafeBrain, policy: NonFinitePolicy):
        self.policy = policy
        self.health = Health()
        self.transaction = Transaction(brain.modules, lambda: state_owners(brain))
        self.open = False
        self.judged = False
        self.loss: torch.Tensor | None = None
        self.loss_is_scaled = False
        #: Optimizers (by id) that the last verdict allowed to step, once.
        self.cleared: set[int] = set()
        self.num_steps = 0
        self.hooked: set[int] = set()
        self.hooks: list[Any] = []
        self.last_report = ""


class NaNSafeBrain(speechbrain.Brain):
    """Drop-in for ``speechbrain.Brain``: a batch either commits or leaves no trace.

    Same constructor, hooks and checkpoints as stock. A clean run ends with the same
    bits as under ``speechbrain.Brain``. Where stock would step on a NaN, the batch is
    put back: parameters, gradients, optimizer moments, BatchNorm and codebook
    buffers, statistics in plain attributes, counters and random streams are as if the
    batch had never been delivered. It is dumped to ``debug_nan``, reported with its
    utterances and the first bad layer, and the run goes on until a limit of the
    policy says that the fault is systematic.

    Arguments
    ---------
    modules, opt_class, hparams, run_opts, checkpointer
        As for ``speechbrain.Brain``. ``hparams["nan_guard"]`` may hold a
        `NonFinitePolicy`; without it the defaults hold.

    The verdict is taken before clipping from loss, gradient norm of *all* groups and
    all buffers. It covers ``fit_batch`` as stock has it; an override that steps more
    than once in a batch keeps the steps before the rejected one, and says so.

    Modules with ``commit_statistics()`` (`ResidualVectorQuantizer`) learn from a batch
    only when it commits.

    Example
    -------
    >>> from torch import nn
    >>> class Regression(NaNSafeBrain):
    ...     def compute_forward(self, batch, stage):
    ...         return self.modules.net(batch[0])
    ...     def compute_objectives(self, predictions, batch, stage):
    ...         return nn.functional.mse_loss(predictions, batch[1])
    >>> brain = Regression(
    ...     {"net": nn.Linear(2, 1)}, lambda p: torch.optim.SGD(p, 0.1),
    ...     run_opts={"noprogressbar": True},
    ... )
    >>> good = (torch.ones(4, 2), torch.ones(4, 1))
    >>> bad = (torch.full((4, 2), torch.nan), torch.ones(4, 1))
    >>> brain.fit(range(1), [good, bad, good])
    >>> brain.health.rejected, torch.isfinite(brain.modules.net.weight).all().item()
    (1, True)
    """

    def __init__(
        self,
        modules=None,
        opt_class=None,
        hparams=None,
        run_opts=None,
        checkpointer=None,
    ):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        policy = (hparams or {}).get("nan_guard")
        if policy is None:
            policy = NonFinitePolicy()
        if not isinstance(policy, NonFinitePolicy):
            raise TypeError(
                "NaNSafeBrain: nan_guard must be a NonFinitePolicy, got "
                f"{type(policy).__name__}; in YAML: "
                "nan_guard: !new:speechbrain_ext.brain.NonFinitePolicy"
            )
        self._epoch = 0
        self._guard = _Guard(self, policy)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Recipes override fit_batch freely; the transaction stands around whatever
        # they wrote, and their own super().fit_batch() joins the open one. The method
        # may also come from a mixin that stands before NaNSafeBrain.
        if not getattr(cls.fit_batch, "is_transaction", False):
            cls.fit_batch = _transactional(cls.fit_batch)

    @property
    def health(self) -> Health:
        """Counts of committed and rejected batches of this run."""
        return self._guard.health

    def progress_items(self) -> dict[str, float | str]:
        """Return what the training bar shows beside the loss; override to add.

        Returns
        -------
        dict
            Name -> number or text, read after each batch. The default shows the
            number of rejected batches as soon as there is one.
        """
        rejected = self.health.epoch_rejected
        return {"rejected": rejected} if rejected else {}

    def fit(self, *args, **kwargs):
        """Train, as ``speechbrain.Brain.fit``.

        Raises
        ------
        DivergenceError
            If a limit of the policy is passed; the last good checkpoint is kept.
        """
        staged = [m for m in self.modules.modules() if hasattr(m, "commit_statistics")]
        before = [module.statistics_mode for module in staged]
        for module in staged:
            module.statistics_mode = "step"
        try:
            return super().fit(*args, **kwargs)
        finally:
            for module, mode in zip(staged, before, strict=True):
                module.statistics_mode = mode
            for hook in self._guard.hooks:
                hook.remove()
            self._guard.hooks.clear()
            self._guard.hooked.clear()

    def _fit_train(self, train_set, epoch, enable):
        self._guard.transaction.forward_state.forget_plan()
        self.health.start_epoch(self.step)
        self._epoch = epoch
        with extra_progress(self.progress_items):
            super()._fit_train(train_set, epoch, enable)

    def fit_batch(self, batch):
        """Fit one batch as a transaction.

        Returns
        -------
        torch.Tensor
            The detached loss, a scalar on CPU; NaN if the batch was rejected, which
            then does not count as a step.
        """
        return super().fit_batch(batch)

    def check_loss_isfinite(self, loss):
        """Keep the loss for the verdict (stock counts, and steps all the same)."""
        self._guard.loss = loss.detach()
        self._guard.loss_is_scaled = True

    def optimizers_step(self):
        """Take the verdict, then step as stock does: unscale, clip, step, zero."""
        if self.optimizers_dict is not None:
            optimizers = self.freeze_optimizers(self.optimizers_dict)
        elif self.opt_class is not None:
            optimizers = {"optimizer": self.optimizer}
        else:
            return
        for optimizer in optimizers.values():
            self.scaler.unscale_(optimizer)
        norms = self._judge(optimizers)
        self._clip(optimizers, norms)
        if not self.scaler.is_enabled() and self.skip_nonfinite_grads:
            self.check_gradients()
        for optimizer in optimizers.values():
            self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def _clip(self, optimizers, norms) -> None:
        """Clip with the norms that the verdict already has."""
        if self._guard.policy.clip_scope == "all" and norms:
            parameters = [
                p
                for optimizer in optimizers.values()
                for group in optimizer.param_groups
                for p in group["params"]
            ]
            total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, total)
            return
        for name, optimizer in optimizers.items():
            torch.nn.utils.clip_grads_with_norm_(
                optimizer.param_groups[0]["params"],
                self.max_grad_norm,
                norms[name, 0],
            )

    def _judge(self, optimizers, *, stepping: bool = True) -> dict:
        """Judge the open batch; unwind to its transaction if it is bad."""
        guard = self._guard
        norms = group_norms(optimizers)
        if not guard.open:  # a hook of the recipe steps outside any batch
            return norms
        guard.judged = True
        guard.cleared = set(map(id, optimizers.values()))
        loss = guard.loss
        if loss is None:
            loss = torch.zeros((), device=self.device)
        distributed = torch.distributed.is_available()
        verdict = judge(
            loss,
            norms.values(),
            guard.transaction.forward_state.probe(),
            agree=distributed and torch.distributed.is_initialized(),
        )
        if verdict.cause == "gradient" and self.scaler.is_enabled():
            # The scaler's own business: it skips the step and lowers the scale.
            if self.scaler.get_scale() > 1.0:
                self.health.scaler_backoffs += stepping
                return norms
        if not verdict.accepted:
            raise RejectedBatch(verdict)
        return norms

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if self.optimizers_dict is not None:
            return self.optimizers_dict
        optimizer = getattr(self, "optimizer", None)
        return {} if optimizer is None else {"optimizer": optimizer}

    def _hook_optimizers(self) -> None:
        """Judge also where a recipe calls ``optimizer.step()`` by itself."""
        guard = self._guard
        for name, optimizer in self._optimizers().items():
            if id(optimizer) in guard.hooked:
                continue
            guard.hooked.add(id(optimizer))

            def judge_first(optimizer, args, kwargs, name=name):
                if not guard.open:
                    return
                if id(optimizer) not in guard.cleared:
                    self._judge({name: optimizer})
                guard.cleared.discard(id(optimizer))
                guard.num_steps += 1

            guard.hooks.append(optimizer.register_step_pre_hook(judge_first))

    def _transact(self, fit_batch, batch):
        """Run ``fit_batch(batch)``; commit it, or put everything back."""
        guard = self._guard
        self._hook_optimizers()
        accumulating = self.grad_accumulation_factor > 1
        guard.transaction.begin()
        guard.open, guard.judged = True, False
        guard.loss, guard.loss_is_scaled = None, False
        guard.cleared, guard.num_steps = set(), 0
        steps_before = self.optimizer_step
        self.health.epoch_batches += 1
        try:
            loss = fit_batch(batch)
            if not guard.judged:  # a micro-batch inside an accumulation window
                if guard.loss is None:
                    guard.loss = loss.to(self.device)
                self._judge(self._optimizers(), stepping=False)
        except RejectedBatch as rejected:
            guard.open = False
            self._reject(batch, rejected.verdict)
            return torch.tensor(math.nan)
        finally:
            guard.open = False
        stepped = guard.num_steps or self.optimizer_step > steps_before
        if stepped or not accumulating:
            self._commit_statistics()
        self.health.count(rejected=False)
        return loss

    def _commit_statistics(self) -> None:
        for module in self.modules.modules():
            if hasattr(module, "commit_statistics"):
                module.commit_statistics()

    def _reject(self, batch, verdict: Verdict) -> None:
        """Gather evidence, put everything back, report, and look at the limits."""
        guard, health = self._guard, self.health
        verdict, gradients = explain_norm(verdict, self.modules)
        if guard.loss_is_scaled:
            loss = verdict.loss * self.grad_accumulation_factor
            verdict = replace(verdict, loss=loss / self.scaler.get_scale())
        buffers = nonfinite_names(self.modules.named_buffers())
        before = guard.transaction.random.torch_cpu
        guard.transaction.rollback()
        if self.scaler.is_enabled():
            # That these gradients were unscaled is forgotten by update() alone, which
            # would move the scale too; without it the next batch can't be unscaled.
            self.scaler._per_optimizer_states.clear()
        module = first_bad_module(
            self.modules, lambda: self._forward_for_diagnosis(batch)
        )
        guard.transaction.forward_state.restore()
        guard.transaction.random.restore()
        # _fit_train has counted it already; a rejected batch is not a step.
        self.step -= 1
        report = {
            "precision": self.precision,
            "inputs": bad_inputs(batch),
            "first_bad_module": module,
            "gradients": gradients[:50],
            "buffers": buffers[:50],
        }
        health.count(rejected=True)
        path = self._dump(batch, verdict, report, before)
        guard.last_report = describe(
            verdict,
            report,
            utt_ids=utterance_ids(batch),
            place=f"batch {health.epoch_batches} of epoch {self._epoch}",
            steps_kept=guard.num_steps,
            dump=path,
        )
        logger.warning(guard.last_report)
        health.enforce(guard.policy, guard.last_report)

    def _forward_for_diagnosis(self, batch) -> None:
        with self.training_ctx:
            outputs = self.compute_forward(batch, speechbrain.Stage.TRAIN)
            self.compute_objectives(outputs, batch, speechbrain.Stage.TRAIN)

    def _dump_folder(self) -> Path | None:
        policy = self._guard.policy
        if policy.dump_folder is not None:
            return Path(policy.dump_folder)
        if self.checkpointer is not None:
            checkpoints = Path(self.checkpointer.checkpoints_dir)
            if hasattr(self.checkpointer, "tempdir"):  # debug mode leaves nothing
                return checkpoints / "debug_nan"
            return checkpoints.parent / "debug_nan"
        return None

    def _dump(self, batch, verdict, report, random_before) -> Path | None:
        health, policy = self.health, self._guard.policy
        folder = self._dump_folder()
        if folder is None or health.dumps >= policy.max_dumps:
            return None
        try:
            path = write_dump(
                folder,
                batch,
                verdict,
                batch_index=health.epoch_batches,
                epoch=self._epoch,
                report=report,
                random_before=random_before,
                max_megabytes=policy.max_dump_megabytes,
            )
        except Exception as error:  # a full disk, or an odd batch, must not end the run
            logger.warning("the rejected batch could not be dumped: %s", error)
            return None
        health.dumps += 1
        return path


def _transactional(fit_batch):
    """Wrap one class's ``fit_batch``; nested calls join the open transaction."""

    @functools.wraps(fit_batch)
    def wrapper(self, batch):
        if self._guard.open:
            return fit_batch(self, batch)
        return self._transact(functools.partial(fit_batch, self), batch)

    wrapper.is_transaction = True
    return wrapper


NaNSafeBrain.fit_batch = _transactional(NaNSafeBrain.fit_batch)
