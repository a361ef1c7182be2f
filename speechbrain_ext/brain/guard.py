"""One batch under guard: open it, hear its verdict, commit it or put it back."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.agreement import Agreement, is_distributed
from speechbrain_ext.brain.batches import utterance_ids
from speechbrain_ext.brain.coverage import coverage
from speechbrain_ext.brain.diagnose import Diagnosis
from speechbrain_ext.brain.healing import heal_anywhere, heal_between
from speechbrain_ext.brain.health import Health
from speechbrain_ext.brain.held_lines import HeldLines, train_loggers
from speechbrain_ext.brain.judging import judge_end, judge_replayed, judge_step
from speechbrain_ext.brain.labels import LabelCheck
from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.quarantine import Quarantine, apply_quarantine
from speechbrain_ext.brain.quarantine_file import quarantine_path
from speechbrain_ext.brain.raised import raise_bug, verdict_of
from speechbrain_ext.brain.recovery import Recovery
from speechbrain_ext.brain.rejection import forget_unscaling, reject
from speechbrain_ext.brain.safer import SaferSettings
from speechbrain_ext.brain.snapshot import StateSnapshot
from speechbrain_ext.brain.spikes import SpikeHistory
from speechbrain_ext.brain.state import state_owners
from speechbrain_ext.brain.step_hooks import StepHooks
from speechbrain_ext.brain.transaction import Transaction
from speechbrain_ext.brain.verdict import RejectedBatch, Verdict
from speechbrain_ext.errors import UserError

if TYPE_CHECKING:
    from speechbrain_ext.brain.nan_safe import NaNSafeBrain

logger = logging.getLogger(__name__)


class Guard:
    """What one Brain needs to judge its batches; kept out of the Brain's own state.

    Arguments
    ---------
    brain : NaNSafeBrain
        The Brain that is guarded.
    policy : NonFinitePolicy
        Its rules.
    """

    def __init__(self, brain: NaNSafeBrain, policy: NonFinitePolicy):
        self.brain, self.policy = brain, policy
        self.health = Health()
        owners = functools.partial(state_owners, brain)
        self.transaction = Transaction(brain.modules, owners)
        self.spike_history = SpikeHistory(policy)
        self.safer = SaferSettings(policy.safer_lr_factor, policy.safer_steps)
        self.recovery = Recovery(
            brain,
            policy,
            StateSnapshot(
                brain.modules, self.optimizers, owners, lambda: [self.spike_history]
            ),
            beside=[(self.safer, "left"), (self.health, "consecutive_backoffs")],
        )
        self.held = HeldLines()
        self.labels = LabelCheck(policy.label_ranges)
        self.quarantine = Quarantine(None)
        self.agreement: Agreement | None = None
        self.hooks = StepHooks(self)
        self.epoch = 0
        #: modules with ``commit_statistics``; None: not looked for yet
        self.learners: list | None = None
        #: what happened, newest last: cause, detail, utterances, actions
        self.incidents: list[dict] = []
        self.last_report = ""
        self.last_diagnosis = None
        self.last_error: BaseException | None = None
        self.replaying = False
        #: whether a batch is tried once more after its state was repaired
        self.retrying = False
        #: whether a batch of this run stepped more than once; None: none stepped yet
        self.steps_twice: bool | None = None
        #: while on_stage_end of training runs
        self.ending = False
        #: whether an epoch of this fit has begun
        self.started = False
        self._reset_batch()

    def _reset_batch(self) -> None:
        self.open = False
        self.judged = False
        self.loss: torch.Tensor | None = None
        self.loss_is_scaled = False
        self.verdict: Verdict | None = None
        #: optimizers (by id) that the last verdict allowed to step, once
        self.cleared: set[int] = set()
        self.stepped: set[int] = set()
        self.shielded = False
        self.rounds = 0
        self.backed_off = False
        #: what the spike guards learn if the batch commits
        self.usual: list[tuple] = []

    # -- a run -------------------------------------------------------------------

    def start(self) -> None:
        """Prepare for a run of ``fit``."""
        policy = self.policy
        self._watch_loggers()
        if policy.quarantine:
            path = quarantine_path(policy, self.dump_folder())
            if self.quarantine is None or self.quarantine.path != path:
                self.quarantine = Quarantine(path, keep=policy.keep_quarantined)
        if is_distributed():
            self.agreement = Agreement(policy.collective_timeout)
            self.agreement.votes_backward = self.fits_as_stock
            self.agreement.join()

    def stop(self) -> None:
        """Leave nothing behind after a run of ``fit``."""
        self.held.release()
        self.started = False
        self.hooks.release()
        if self.agreement is not None:
            self.agreement.leave()
            self.agreement = None

    def _watch_loggers(self) -> None:
        spaces = [vars(self.brain), vars(getattr(self.brain, "hparams", object))]
        self.held.watch(train_loggers(dict(space) for space in spaces))

    def start_epoch(self, epoch: int, train_set: Any) -> None:
        """Begin an epoch of training on the batches of ``train_set``."""
        self.epoch = epoch
        self.health.start_epoch(self.brain.step)
        self.transaction.forward_state.forget_plan()
        self.learners = None
        self._watch_loggers()  # on_fit_start and on_stage_start may have made one
        heal_between(self)
        if self.recovery.recording:
            self.recovery.take(between=True)
        if self.policy.quarantine:
            self.quarantine.sync()
            apply_quarantine(self.brain.train_sampler or train_set, self.quarantine)
        if not self.started:
            self.started = True
            for line in coverage(self.brain).unprotected:
                logger.info("nan_guard does not put back: %s", line)

    def end_epoch(self) -> bool:
        """Verify what was learned before anybody saves or validates it.

        Returns
        -------
        bool
            Whether it had to be learned again.
        """
        health = self.health
        only_raised = health.rejected and health.exceptions == health.rejected
        if only_raised and not health.committed and self.last_error is not None:
            raise_bug(self)
        healed = heal_anywhere(self, next_batch=False)
        if healed:
            self.brain.zero_grad(set_to_none=True)
        if self.recovery.recording:
            self.recovery.take(between=True)
        return healed

    def verify_before_save(self) -> None:
        """Verify what was learned before it is written, and repair it if need be."""
        if not self.open:
            heal_anywhere(self, next_batch=False)

    @property
    def fits_as_stock(self) -> bool:
        """Whether ``fit_batch`` is SpeechBrain's own and not the recipe's."""
        kind = type(self.brain)
        return kind.fit_batch.__wrapped__ is kind.stock_fit_batch

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers of the Brain by name."""
        named = getattr(self.brain, "optimizers_dict", None) or {}
        known = set(map(id, named.values()))
        found = {
            name: value
            for name, value in vars(self.brain).items()
            if isinstance(value, torch.optim.Optimizer) and id(value) not in known
        }
        return {**named, **found} if found else named

    def dump_folder(self) -> Path | None:
        """Return where rejected batches are written, or None."""
        checkpointer = self.brain.checkpointer
        if self.policy.dump_folder is not None:
            return Path(self.policy.dump_folder)
        if checkpointer is None:
            return None
        checkpoints = Path(checkpointer.checkpoints_dir)
        if hasattr(checkpointer, "tempdir"):  # debug mode leaves nothing
            return checkpoints / "debug_nan"
        return checkpoints.parent / "debug_nan"

    # -- one batch ---------------------------------------------------------------

    def transact(self, fit_batch: Callable[[Any], Any], batch: Any) -> Any:
        """Run ``fit_batch(batch)``; commit it, or put everything back."""
        started = time.perf_counter()
        if not self.replaying:
            self.health.epoch_batches += 1
        batch = self._mask(batch)
        if batch is None:  # every utterance of it is in quarantine
            self.uncount()
            return torch.tensor(math.nan)
        self.hooks.attach()
        self._take_snapshot_if_due(batch)
        self.transaction.begin()
        self.recovery.record(batch, self.transaction.random)
        self._reset_batch()
        self.held.open()
        self.open = True
        if self.agreement is not None:
            self.agreement.open()
            self.agreement.wish = self.recovery.nearly_full(batch)
        self.health.guard_seconds += time.perf_counter() - started
        error = None
        try:
            loss = self._fit(fit_batch, batch)
        except RejectedBatch as rejected:
            verdict = rejected.verdict
        except Exception as raised:
            if isinstance(raised, (UserError, NotImplementedError)):
                self._abandon()
                raise
            verdict, error = verdict_of(self, raised, batch), raised
        except BaseException:  # Ctrl-C: what is saved now must not hold half a batch
            self._abandon()
            raise
        else:
            started = time.perf_counter()
            self._commit()
            self.health.guard_seconds += time.perf_counter() - started
            return loss
        finally:
            self.open = False
            self.held.discard()
            self.safer.after_step()  # an optimizer that raised has not called it
        return reject(self, fit_batch, batch, verdict, error)

    def _take_snapshot_if_due(self, batch: Any) -> None:
        agreement = self.agreement
        asked = None if agreement is None else agreement.wished
        if self.recovery.due(batch, asked=asked):
            # Repair between two stages may bind other tensors: look again.
            moved = self.recovery.between
            moved = heal_anywhere(self, next_batch=True) or moved
            self.recovery.take(looked=not moved)
            if agreement is not None:
                agreement.wished = agreement.wish = False

    def _abandon(self) -> None:
        """Put back the batch that the run ends in, as far as it can be."""
        if self.policy.mode == "transaction" and (self.shielded or not self.stepped):
            self.transaction.rollback()
            forget_unscaling(self.brain)
            self.recovery.drop_last()
            self.uncount()

    def uncount(self) -> None:
        """Take back that a batch was a step, where ``_fit_train`` has counted it."""
        self.brain.step = max(self.brain.step - 1, 0)

    def _mask(self, batch):
        if not self.policy.quarantine or not self.quarantine.entries:
            return batch
        if self.replaying:  # recorded as it was learned from
            return batch
        masked = self.quarantine.mask(batch)
        if masked is not batch:
            kept = 0 if masked is None else len(utterance_ids(masked))
            self.health.masked += len(utterance_ids(batch)) - kept
        if masked is None and self.agreement is not None:
            # The other ranks have something to learn from: keep their company. The
            # verdict on this rank's own batch is what all hear.
            return batch
        return masked

    def _fit(self, fit_batch, batch):
        fault = self.labels.fault(batch)
        if fault is None and self.agreement is not None and self.quarantine.entries:
            if not self.replaying and self.quarantine.mask(batch) is None:
                fault = "every utterance of the batch is in quarantine"
        if fault is not None:
            self.vote_against()
            raise RejectedBatch(Verdict("label"))
        passed_over = self._passed_over()
        with self.safer.full_precision(self.brain), self.labels.learning(batch):
            loss = fit_batch(batch)
        if self._passed_over() > passed_over:  # the recipe saw a NaN and did nothing
            loss = torch.tensor(math.nan)
            if self.agreement is None or not self.judged:
                self.loss, self.loss_is_scaled = None, False
        if not self.judged:  # a micro-batch inside an accumulation window
            if self.loss is None and isinstance(loss, torch.Tensor):
                self.loss = loss.detach().to(self.brain.device)
            judge_step(self, self.optimizers(), stepping=False)
        elif self.loss is None or self.replaying:
            judge_end(self, loss if self.loss is None else None)
        if self.replaying:
            judge_replayed(self)
        return loss

    def _passed_over(self) -> int:
        return getattr(self.brain, "nonfinite_count", 0)

    def judge(self, optimizers: dict) -> dict:
        """Judge the open batch before these optimizers step; see `judge_step`."""
        return judge_step(self, optimizers)

    def vote_against(self) -> None:
        """Tell the other ranks that this batch is bad, if there is still time."""
        if self.agreement is not None and self.agreement.can_still_vote:
            self.agreement.vote(self.agreement.last_stage, bad=True)

    def check_loss(self, loss: torch.Tensor) -> None:
        """Keep the loss for the verdict; hear the other ranks before backward."""
        self.loss = loss.detach()
        self.loss_is_scaled = True
        if self.open and self.agreement is not None:
            self.hear("backward")

    def hear(self, stage: str) -> None:
        """Hear the other ranks; unwind if one of them is against this batch."""
        if self.agreement.vote(stage, bad=False):
            raise RejectedBatch(Verdict("other rank"))

    def _commit(self) -> None:
        health = self.health
        for module in self._learners():
            module.commit_statistics()
        if not self.replaying:  # the lines were written when it was learned first
            self.held.commit()
        for spikes, loss, norm in self.usual:
            spikes.commit(loss, norm)
        if self.rounds:
            self.steps_twice = bool(self.steps_twice) or self.rounds > 1
        if self.backed_off:
            health.backoffs += not self.replaying
            health.consecutive_backoffs += 1
        elif self.stepped:
            health.consecutive_backoffs = 0
        if self.stepped and self.safer.count_step() and not self.replaying:
            logger.warning("nan_guard: safer settings end; the recipe's own hold again")
        if not self.replaying:
            health.commit()

    def _learners(self) -> list:
        """Modules with statistics to commit; looked for once an epoch, not a batch."""
        if self.learners is None:
            self.learners = [
                module
                for module in self.brain.modules.modules()
                if hasattr(module, "commit_statistics")
            ]
        return self.learners

    # -- what others ask -------------------------------------------------------------

    def any_rank(self, flag: bool) -> bool:
        """Whether a flag is set on any rank; all ranks have to ask."""
        return self.agreement.any(flag) if self.agreement is not None else flag

    def note(self, diagnosis: Diagnosis, actions: list[str]) -> None:
        """Add to the public record of what happened."""
        self.last_diagnosis = diagnosis
        self.incidents.append(
            {
                "cause": diagnosis.cause,
                "detail": diagnosis.detail,
                "utt_ids": list(diagnosis.utt_ids),
                "epoch": self.epoch,
                "batch": self.health.epoch_batches,
                "actions": actions,
            }
        )
