"""What one Brain keeps to judge its batches, from one epoch to the next."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.agreement import Agreement, is_distributed
from speechbrain_ext.brain.delivery import transact
from speechbrain_ext.brain.forensics.diagnose import Diagnosis
from speechbrain_ext.brain.healing import heal_anywhere, heal_between
from speechbrain_ext.brain.health import Health
from speechbrain_ext.brain.held_lines import HeldLines, train_loggers
from speechbrain_ext.brain.judging import judge_step
from speechbrain_ext.brain.labels import LabelCheck
from speechbrain_ext.brain.memory.coverage import coverage
from speechbrain_ext.brain.memory.snapshot import StateSnapshot
from speechbrain_ext.brain.memory.state import state_owners
from speechbrain_ext.brain.memory.transaction import Transaction
from speechbrain_ext.brain.policy import DivergenceError, NonFinitePolicy
from speechbrain_ext.brain.quarantine import Quarantine, apply_quarantine
from speechbrain_ext.brain.quarantine_file import quarantine_path
from speechbrain_ext.brain.raised import raise_bug
from speechbrain_ext.brain.recovery import Recovery
from speechbrain_ext.brain.safer import SaferSettings
from speechbrain_ext.brain.spikes import SpikeHistory
from speechbrain_ext.brain.step_hooks import StepHooks
from speechbrain_ext.brain.verdict import RejectedBatch, Verdict

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
        self.told_about_dumps = False
        #: whether a batch is tried once more after its state was repaired
        self.retrying = False
        #: whether a batch of this run stepped more than once; None: none stepped yet
        self.steps_twice: bool | None = None
        #: while on_stage_end of training runs
        self.ending = False
        #: whether an epoch of this fit has begun
        self.started = False
        self.reset_batch()

    def reset_batch(self) -> None:
        """Forget the batch before."""
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
        folder = self.dump_folder()
        if folder is not None:  # a run that was started again counts on
            written = len(list(folder.glob("nan_batch_*.pt")))
            self.health.dumps = max(self.health.dumps, written)
        if policy.quarantine:
            path = quarantine_path(policy, folder)
            if self.quarantine is None or self.quarantine.path != path:
                self.quarantine = Quarantine(path, keep=policy.keep_quarantined)
                self._tell_quarantine()
        if is_distributed():
            self.agreement = Agreement(policy.collective_timeout)
            self.agreement.votes_backward = self.fits_as_stock
            self.agreement.join()

    def _tell_quarantine(self) -> None:
        """Say at the start what an earlier run has put into quarantine."""
        held = list(self.quarantine.entries)
        if held:
            more = f" and {len(held) - 5} more" if len(held) > 5 else ""
            logger.warning(
                "%d utterances of earlier runs are in quarantine and left out: %s%s "
                "(%s; once they are mended, remove their entries there)",
                len(held),
                ", ".join(held[:5]),
                more,
                self.quarantine.path,
            )

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
            Whether it had to be repaired, or learned again.
        """
        health = self.health
        only_raised = health.rejected and health.exceptions == health.rejected
        if only_raised and not health.committed and self.last_error is not None:
            raise_bug(self)
        delivered = health.epoch_batches and not self.brain.step
        if delivered and health.epoch["masked"] and not health.epoch_rejected:
            raise DivergenceError(
                f"epoch {self.epoch}: nothing was learned: every utterance that was "
                f"delivered is in quarantine ({len(self.quarantine.entries)} in all).\n"
                f"  Next: look at {self.quarantine.path}; once the files are mended, "
                "remove their entries there, or set keep_quarantined: True"
            )
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
        space = vars(self.brain)
        kinds = map(
            type, space.values()
        )  # isinstance asks twice where the answer is no
        fits = map(issubclass, kinds, itertools.repeat(torch.optim.Optimizer))
        found = {
            name: value
            for name, value in itertools.compress(space.items(), fits)
            if id(value) not in known
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
        return transact(self, fit_batch, batch)

    def uncount(self) -> None:
        """Take back that a batch was a step, where ``_fit_train`` has counted it."""
        self.brain.step = max(self.brain.step - 1, 0)

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

    def statistics_learners(self) -> list:
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
