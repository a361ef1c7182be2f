"""`NaNSafeBrain`: SpeechBrain's Brain with a transaction around each batch."""

from __future__ import annotations

import contextlib
import functools
import math

import speechbrain
import torch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_ext.brain.checkpoints.checkpoint import guard_checkpointer
from speechbrain_ext.brain.evaluation import Evaluation
from speechbrain_ext.brain.guard import Guard
from speechbrain_ext.brain.healing import heal_between
from speechbrain_ext.brain.health import Health, module_counts
from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.progress import extra_progress
from speechbrain_ext.brain.record import GuardRecord

#: What DDP keeps on a module for as long as it must not reduce gradients.
_SYNC = "require_backward_grad_sync"


class NaNSafeBrain(speechbrain.Brain):
    """Drop-in for ``speechbrain.Brain``: a batch either commits or leaves no trace.

    Same constructor, hooks and checkpoints as stock. A clean run ends with the same
    bits as under ``speechbrain.Brain``. Where stock would step on a NaN, the batch is
    put back: parameters, gradients, optimizer moments, BatchNorm and codebook
    buffers, statistics in plain attributes, counters and random streams are as if the
    batch had never been delivered. It is dumped to ``debug_nan``, reported with its
    utterances, the first bad layer and what to do about it, and the run goes on until
    a limit of the policy says that the fault is systematic. Where the state was
    corrupted and not the batch, the run goes back to a verified snapshot in memory
    and learns the batches since again.

    Arguments
    ---------
    modules, opt_class, hparams, run_opts, checkpointer
        As for ``speechbrain.Brain``. ``hparams["nan_guard"]`` may hold a
        `NonFinitePolicy`; without it the defaults hold. A stock checkpointer is given
        the guarantees of `VerifiedCheckpointer`.

    The verdict is taken before clipping from loss, gradient norm of *all* groups and
    all buffers, and stands around ``fit_batch`` whoever overrides it: a batch that
    steps several optimizers in turn is undone as a whole. `health` has the counts,
    `incidents` what happened, ``coverage(brain)`` what can't be put back.

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
    >>> brain.incidents[0]["cause"]
    'input non-finite'
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
        self._policy = policy
        #: where the settings are from, for dumps: recipe, config_hash, presets
        self.origin: dict = {}
        self._guard = Guard(self, policy)
        self._evaluation = Evaluation(self)
        if isinstance(self.checkpointer, Checkpointer) and self.is_guarded:
            guard_checkpointer(self.checkpointer)
            self.checkpointer.add_recoverable(
                "nan_guard", GuardRecord(self._guard), optional_load=True
            )

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Recipes override these freely; the guard stands around whatever they wrote,
        # and their own super() calls join what is open. A method may also come from a
        # mixin that stands before NaNSafeBrain.
        for name, guarded in _GUARDED.items():
            method = getattr(cls, name)
            if not getattr(method, "is_guarded", False):
                setattr(cls, name, guarded(method))

    # -- what a user reads -------------------------------------------------------

    @property
    def is_guarded(self) -> bool:
        """False with ``nan_guard.mode`` off: this is stock SpeechBrain then."""
        return self._policy.mode != "off"

    @property
    def is_evaluating(self) -> bool:
        """Whether a validation or test stage is going on."""
        return self._evaluation.running

    @property
    def health(self) -> Health:
        """Counts of committed and rejected batches of this run."""
        return self._guard.health

    @property
    def incidents(self) -> list[dict]:
        """What happened, newest last: cause, detail, utt_ids, epoch, batch, actions."""
        return self._guard.incidents

    def health_items(self) -> dict[str, float]:
        """Return the epoch's health for a log: the guard's counts and the modules'.

        Returns
        -------
        dict
            ``rejected``, ``replayed``, ``spikes``, ``backoffs``, ``masked``,
            ``guard_seconds``, and what modules count in ``health_counts()`` (clamp
            saturations, dead codes).
        """
        return {**self.health.epoch, **module_counts(self.modules.modules())}

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

    # -- a run -------------------------------------------------------------------

    def fit(self, *args, **kwargs):
        """Train, as ``speechbrain.Brain.fit``.

        Raises
        ------
        DivergenceError
            If a limit of the policy is passed; the last good checkpoint is kept.
        """
        if not self.is_guarded:
            return super().fit(*args, **kwargs)
        staged = [m for m in self.modules.modules() if hasattr(m, "commit_statistics")]
        before = [module.statistics_mode for module in staged]
        for module in staged:
            module.statistics_mode = "step"
        try:
            self._guard.start()
            return super().fit(*args, **kwargs)
        finally:
            for module, mode in zip(staged, before, strict=True):
                module.statistics_mode = mode
            self._guard.stop()

    def _fit_train(self, train_set, epoch, enable):
        agree = getattr(self.checkpointer, "agree_on_recovery", None)
        if self.is_guarded and agree is not None and not self._guard.started:
            agree()  # all ranks have to go on from the same checkpoint
        with extra_progress(self.progress_items):
            if self.is_guarded:
                self._guard.start_epoch(epoch, train_set)
            super()._fit_train(train_set, epoch, enable)

    def _save_intra_epoch_ckpt(self):
        if self.is_guarded:
            self._guard.verify_before_save()
        super()._save_intra_epoch_ckpt()

    def fit_batch(self, batch):
        """Fit one batch as a transaction.

        Returns
        -------
        torch.Tensor
            The detached loss, a scalar on CPU; NaN if the batch was rejected, which
            then does not count as a step.
        """
        return super().fit_batch(batch)

    @contextlib.contextmanager
    def no_sync(self, use=True):
        """As ``speechbrain.Brain.no_sync``; a batch that is unwound ends it as well."""
        modules = [m for m in self.modules.values() if hasattr(m, _SYNC)] if use else []
        before = [getattr(module, _SYNC) for module in modules]
        for module in modules:
            setattr(module, _SYNC, False)
        try:
            yield
        finally:
            for module, sync in zip(modules, before, strict=True):
                setattr(module, _SYNC, sync)

    def check_loss_isfinite(self, loss):
        """Keep the loss for the verdict (stock counts, and steps all the same)."""
        if not self.is_guarded:
            return super().check_loss_isfinite(loss)
        return self._guard.check_loss(loss)

    def optimizers_step(self):
        """Take the verdict, then step as stock does: unscale, clip, step, zero."""
        if not self.is_guarded:
            super().optimizers_step()
            return
        if self.optimizers_dict is not None:
            optimizers = self.freeze_optimizers(self.optimizers_dict)
        elif self.opt_class is not None:
            optimizers = {"optimizer": self.optimizer}
        else:
            return
        for optimizer in optimizers.values():
            self.scaler.unscale_(optimizer)
        norms = self._guard.judge(optimizers)
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
        if self._policy.clip_scope == "all" and norms:
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

    # -- validation and test -----------------------------------------------------

    def _fit_valid(self, valid_set, epoch, enable):
        if self.is_guarded:
            heal_between(self._guard)
        with self._evaluation:
            super()._fit_valid(valid_set, epoch, enable)

    def evaluate(self, *args, **kwargs):
        """Evaluate, as ``speechbrain.Brain.evaluate``.

        Returns
        -------
        float
            Mean loss of the batches whose loss is finite; NaN if there is none. Those
            left out are named in the log and counted in ``health.left_out``.
        """
        with self._evaluation as stage:
            mean = super().evaluate(*args, **kwargs)
            return math.nan if self.is_guarded and stage.empty else mean

    def update_average(self, loss, avg_loss):
        """Update a running mean with one loss; see ``speechbrain.Brain``.

        In validation and test a non-finite loss is left out of the mean, and a mean of
        nothing is NaN, never 0.
        """
        if self.is_guarded and self.is_evaluating:
            return self._evaluation.update_average(loss, avg_loss)
        return super().update_average(loss, avg_loss)


def _transactional(fit_batch):
    """Wrap one class's ``fit_batch``; nested calls join the open transaction."""

    @functools.wraps(fit_batch)
    def wrapper(self, batch):
        guard = self._guard
        if guard.open or not self.is_guarded:
            return fit_batch(self, batch)
        return guard.transact(functools.partial(fit_batch, self), batch)

    wrapper.is_guarded = True
    return wrapper


def _watched(evaluate_batch):
    """Wrap one class's ``evaluate_batch``: what is not finite is named, left out."""

    @functools.wraps(evaluate_batch)
    def wrapper(self, batch, stage):
        evaluation = self._evaluation
        if evaluation.open or not self.is_guarded:
            return evaluate_batch(self, batch, stage)
        return evaluation.watch(
            functools.partial(evaluate_batch, self, stage=stage), batch, stage
        )

    wrapper.is_guarded = True
    return wrapper


def _verified(on_stage_end):
    """Wrap one class's ``on_stage_end``: only a verified state ends an epoch."""

    @functools.wraps(on_stage_end)
    def wrapper(self, stage, stage_loss, epoch=None):
        guard = self._guard
        if stage == speechbrain.Stage.TRAIN and self.is_guarded and not guard.ending:
            guard.ending = True
            try:
                if guard.end_epoch():
                    stage_loss = self.avg_train_loss
                if not self.step:
                    stage_loss = math.nan  # a mean of nothing, which stock calls 0.0
                return on_stage_end(self, stage, stage_loss, epoch)
            finally:
                guard.ending = False
        if stage != speechbrain.Stage.TRAIN and self.is_guarded and not guard.ending:
            guard.ending = True
            try:
                if self._evaluation.empty:
                    stage_loss = math.nan  # stock calls a mean of nothing 0.0
                if stage == speechbrain.Stage.VALID:
                    heal_between(guard)
                return on_stage_end(self, stage, stage_loss, epoch)
            except Exception as error:
                if not self._evaluation.nothing_left:
                    raise
                return self._evaluation.tell_empty(stage, epoch, error)
            finally:
                guard.ending = False
        return on_stage_end(self, stage, stage_loss, epoch)

    wrapper.is_guarded = True
    return wrapper


#: methods of the Brain that a recipe may override, and what stands around them
_GUARDED = {
    "fit_batch": _transactional,
    "evaluate_batch": _watched,
    "on_stage_end": _verified,
}
NaNSafeBrain.stock_fit_batch = NaNSafeBrain.fit_batch
for _name, _guarded in _GUARDED.items():
    setattr(NaNSafeBrain, _name, _guarded(getattr(NaNSafeBrain, _name)))
