"""One batch under guard: open it, judge it, commit it or put it back."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.agreement import (
    Agreement,
    RankEndedError,
    is_collective_error,
    is_distributed,
)
from speechbrain_ext.brain.batches import utterance_ids
from speechbrain_ext.brain.coverage import coverage
from speechbrain_ext.brain.diagnose import Diagnosis, diagnose_state
from speechbrain_ext.brain.health import Health
from speechbrain_ext.brain.held_lines import HeldLines, train_loggers
from speechbrain_ext.brain.labels import LabelCheck
from speechbrain_ext.brain.policy import DivergenceError, NonFinitePolicy
from speechbrain_ext.brain.quarantine import Quarantine, apply_quarantine
from speechbrain_ext.brain.quarantine_file import quarantine_path, write_quarantine
from speechbrain_ext.brain.recovery import Recovery
from speechbrain_ext.brain.rejection import reject
from speechbrain_ext.brain.safer import SaferSettings
from speechbrain_ext.brain.snapshot import StateSnapshot
from speechbrain_ext.brain.spikes import SpikeGuard
from speechbrain_ext.brain.state import state_owners
from speechbrain_ext.brain.streams import RandomStreams
from speechbrain_ext.brain.transaction import Transaction
from speechbrain_ext.brain.verdict import RejectedBatch, Verdict, group_norms, judge
from speechbrain_ext.errors import UserError, WorkError

if TYPE_CHECKING:
    from speechbrain_ext.brain.nan_safe import NaNSafeBrain

logger = logging.getLogger(__name__)

#: Spikes that are only watched are logged one by one up to here.
_SPIKES_TOLD = 10


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
        self.recovery = Recovery(
            brain,
            policy,
            StateSnapshot(
                brain.modules, self.optimizers, owners, lambda: [self.spike_history]
            ),
        )
        self.spike_history = SpikeHistory(policy)
        self.safer = SaferSettings(policy.safer_lr_factor, policy.safer_steps)
        self.held = HeldLines()
        self.labels = LabelCheck(policy.label_ranges)
        self.quarantine = Quarantine(None)
        self.agreement: Agreement | None = None
        self.hooks: list[Any] = []
        self.hooked: set[int] = set()
        self.epoch = 0
        #: modules with ``commit_statistics``; None: not looked for yet
        self.learners: list | None = None
        #: what happened, newest last: cause, detail, utterances, actions
        self.incidents: list[dict] = []
        self.last_report = ""
        self.last_diagnosis = None
        self.last_error: BaseException | None = None
        self.replaying = False
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
        brain, policy = self.brain, self.policy
        spaces = [vars(brain), vars(getattr(brain, "hparams", object))]
        self.held.watch(train_loggers(dict(space) for space in spaces))
        if policy.quarantine:
            path = quarantine_path(policy, self.dump_folder())
            self.quarantine = Quarantine(path, keep=policy.keep_quarantined)
        if is_distributed():
            self.agreement = Agreement(policy.collective_timeout)
            self.agreement.votes_backward = self.fits_as_stock
            self.agreement.join()

    def stop(self) -> None:
        """Leave nothing behind after a run of ``fit``."""
        self.held.release()
        self.started = False
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.hooked.clear()
        if self.agreement is not None:
            self.agreement.leave()
            self.agreement = None

    def start_epoch(self, epoch: int, train_set: Any) -> None:
        """Begin an epoch of training on the batches of ``train_set``."""
        self.epoch = epoch
        self.health.start_epoch(self.brain.step)
        self.transaction.forward_state.forget_plan()
        self.learners = None
        self.heal_tensors()
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
        if (
            self.last_error is not None
            and not health.committed
            and health.exceptions == health.rejected
        ):
            raise self.last_error  # every batch raised: a bug of the code
        healed = self.heal(self.recovery.snapshot.verify(), next_batch=False)
        if healed:
            self.brain.zero_grad(set_to_none=True)
        if self.recovery.recording:
            self.recovery.take(between=True)
        return healed

    def verify_before_save(self) -> None:
        """Verify what was learned before it is written in the middle of an epoch."""
        self.heal(self.recovery.snapshot.verify(), next_batch=False)

    @property
    def fits_as_stock(self) -> bool:
        """Whether ``fit_batch`` is SpeechBrain's own and not the recipe's."""
        kind = type(self.brain)
        return kind.fit_batch.__wrapped__ is kind.stock_fit_batch

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers of the Brain by name."""
        brain = self.brain
        if getattr(brain, "optimizers_dict", None) is not None:
            return brain.optimizers_dict
        found = {
            name: value
            for name, value in vars(brain).items()
            if isinstance(value, torch.optim.Optimizer)
        }
        return found

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
            self.brain.step -= 1
            return torch.tensor(math.nan)
        self._hook_optimizers()
        if self.recovery.due(batch):
            if self.recovery.between:
                self.heal_tensors()
                self.recovery.take()
            else:
                bad = self.recovery.snapshot.verify()
                healed = self.heal(bad, next_batch=True)
                self.recovery.take(looked=not healed)
        self.transaction.begin()
        self.recovery.record(batch, self.transaction.random)
        self._reset_batch()
        self.held.open()
        self.open = True
        if self.agreement is not None:
            self.agreement.open()
        self.health.guard_seconds += time.perf_counter() - started
        error = None
        try:
            loss = self._fit(fit_batch, batch)
        except RejectedBatch as rejected:
            verdict = rejected.verdict
        except (UserError, WorkError, NotImplementedError):
            raise
        except Exception as raised:
            verdict, error = self._verdict_of(raised, batch), raised
        else:
            started = time.perf_counter()
            self._commit()
            self.health.guard_seconds += time.perf_counter() - started
            return loss
        finally:
            self.open = False
            self.held.discard()
        return reject(self, fit_batch, batch, verdict, error)

    def _mask(self, batch):
        if not self.policy.quarantine or not self.quarantine.entries:
            return batch
        masked = self.quarantine.mask(batch)
        if masked is not batch and not self.replaying:
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
            if self.quarantine.mask(batch) is None:
                fault = "every utterance of the batch is in quarantine"
        if fault is not None:
            self._vote_against()
            raise RejectedBatch(Verdict("label"))
        with self.labels.learning(batch):
            loss = fit_batch(batch)
        if not self.judged:  # a micro-batch inside an accumulation window
            if self.loss is None and isinstance(loss, torch.Tensor):
                self.loss = loss.detach().to(self.brain.device)
            self.judge(self.optimizers(), stepping=False)
        elif self.loss is None or self.replaying:
            self._judge_the_end(loss)
        return loss

    def _judge_the_end(self, loss: Any) -> None:
        """Judge what came after the last step: an own loss, buffers moved late.

        Of stock's fit_batch only a hook comes after the step. What that spoils is found
        before the next snapshot, and its batch when those since the last are replayed.
        """
        if isinstance(loss, float):
            loss = torch.tensor(loss)
        if self.loss is not None or not isinstance(loss, torch.Tensor):
            loss = torch.zeros(())
        skips = self.policy.mode == "skip"
        verdict = judge(
            loss.detach().mean().to(self.brain.device),
            [],
            None if skips else self.transaction.forward_state.probe(),
            agree=self.agreement is not None,
        )
        if not verdict.accepted:
            raise RejectedBatch(verdict)

    def _vote_against(self) -> None:
        if self.agreement is not None and self.agreement.can_still_vote:
            self.agreement.vote(self.agreement.last_stage, bad=True)

    def check_loss(self, loss: torch.Tensor) -> None:
        """Keep the loss for the verdict; hear the other ranks before backward."""
        self.loss = loss.detach()
        self.loss_is_scaled = True
        if self.open and self.agreement is not None:
            self._hear("backward")

    def _hear(self, stage: str) -> None:
        if self.agreement.vote(stage, bad=False):
            raise RejectedBatch(Verdict("other rank"))

    def judge(self, optimizers: dict, *, stepping: bool = True) -> dict:
        """Judge the open batch; unwind to its transaction if it is bad.

        Arguments
        ---------
        optimizers : dict
            Name -> optimizer; those about to step.
        stepping : bool
            False inside an accumulation window, where none steps.

        Returns
        -------
        dict
            Gradient norms of all groups, to clip with.
        """
        norms = group_norms(optimizers)
        if not self.open:  # a hook of the recipe steps outside any batch
            return norms
        started = time.perf_counter()
        if self.agreement is not None:
            self._hear(self.agreement.last_stage)
        self.judged = True
        self.cleared = set(map(id, optimizers.values()))
        loss = self.loss
        if loss is None:
            loss = torch.zeros((), device=self.brain.device)
        spikes = self.spike_history.of(optimizers)
        skips = self.policy.mode == "skip"
        verdict = judge(
            loss,
            norms.values(),
            # The document's rule knows of no buffers.
            None if skips else self.transaction.forward_state.probe(),
            limits=spikes.limits if spikes else (math.inf, math.inf),
            reject_spikes=self.policy.spike == "reject",
            agree=self.agreement is not None,
        )
        self.rounds += stepping
        if verdict.cause == "gradient" and self._is_backoff(optimizers, stepping):
            self.backed_off = stepping
            return norms
        if not verdict.accepted:
            raise RejectedBatch(verdict)
        if verdict.spike:
            self._tell_spike(verdict)
        self.verdict = verdict
        if spikes and not verdict.spike:
            loss_seen = verdict.loss if self.loss is not None else None
            norm_seen = verdict.grad_norm if stepping else None
            self.usual.append((spikes, loss_seen, norm_seen))
        self.health.guard_seconds += time.perf_counter() - started
        return norms

    def _is_backoff(self, optimizers: dict, stepping: bool) -> bool:
        """Whether the scaler deals with it: it skips the step and lowers the scale."""
        scaler = self.brain.scaler
        if not scaler.is_enabled() or scaler.get_scale() <= 1.0:
            return False
        if not stepping:  # still scaled: judged when the window steps
            return True
        found = 0.0
        for optimizer in optimizers.values():
            state = scaler._per_optimizer_states[id(optimizer)]
            found += sum(float(f) for f in state["found_inf_per_device"].values())
        if not found:  # finite gradients whose norm overflows: not the scale's fault
            return False
        return self.health.consecutive_backoffs < self.policy.max_backoffs

    def _tell_spike(self, verdict: Verdict) -> None:
        self.health.spikes += 1
        if self.health.spikes <= _SPIKES_TOLD:
            logger.warning(
                "spike in batch %d of epoch %d: loss %.4g, gradient norm %.4g; learned "
                "from all the same (nan_guard.spike=observe)",
                self.health.epoch_batches,
                self.epoch,
                verdict.loss,
                verdict.grad_norm,
            )

    def _hook_optimizers(self) -> None:
        """Judge also where a recipe calls ``optimizer.step()`` by itself."""
        for name, optimizer in self.optimizers().items():
            if id(optimizer) in self.hooked:
                continue
            self.hooked.add(id(optimizer))

            def before(optimizer, args, kwargs, name=name):
                if self.open:
                    self._before_step(name, optimizer)

            def after(optimizer, args, kwargs):
                self.safer.after_step()

            self.hooks.append(optimizer.register_step_pre_hook(before))
            self.hooks.append(optimizer.register_step_post_hook(after))
        if self.agreement is not None:
            self._hook_wrapped_modules()

    def _before_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        key = id(optimizer)
        if key not in self.cleared:
            self.judge({name: optimizer})
        self.cleared.discard(key)
        # The first step of a batch needs an undo copy only where another verdict
        # follows in the same batch; until one batch has shown its way: always.
        if not self.stepped and self.steps_twice is not False:
            self.transaction.shield_optimizers(self.optimizers())
            self.shielded = True
        self.stepped.add(key)
        self.safer.before_step(optimizer)

    def _hook_wrapped_modules(self) -> None:
        """Vote before a module speaks to the other ranks; know when it is done."""
        for module in self.brain.modules.modules():
            wrapped = isinstance(module, torch.nn.parallel.DistributedDataParallel)
            if not wrapped or id(module) in self.hooked:
                continue
            self.hooked.add(id(module))

            def before(module, args):
                if self.open and torch.is_grad_enabled():
                    if not self.agreement.voted:
                        self._hear("forward")
                    self.agreement.inside_collectives = True

            def after(module, args, output):
                if self.agreement is not None:
                    self.agreement.inside_collectives = False

            self.hooks.append(module.register_forward_pre_hook(before))
            self.hooks.append(module.register_forward_hook(after))

    def _commit(self) -> None:
        health = self.health
        for module in self._learners():
            module.commit_statistics()
        self.held.commit()
        for spikes, loss, norm in self.usual:
            spikes.commit(loss, norm)
        if self.rounds:
            self.steps_twice = bool(self.steps_twice) or self.rounds > 1
        if self.backed_off:
            health.backoffs += 1
            health.consecutive_backoffs += 1
        elif self.stepped:
            health.consecutive_backoffs = 0
        if self.stepped and self.safer.count_step():
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

    def _verdict_of(self, error: Exception, batch: Any) -> Verdict:
        """Turn an exception of the batch into a verdict, where the run can go on."""
        if self.policy.mode == "skip":
            raise error
        if self.agreement is not None:
            self._agree_on(error, batch)
        text = str(error)
        if "CUDA error" in text or "device-side assert" in text:
            raise WorkError(
                f"the GPU's context is lost: {text.splitlines()[0]}\n  No verdict is "
                "possible any more; the last good checkpoint is kept.\n  Next: the "
                "same command resumes from it; with labels in the batch, give their "
                "range: --nan_guard.label_ranges='{spk_id_encoded: 140}'"
            ) from error
        self.last_error = error
        health = self.health
        if not health.committed and health.exceptions == health.rejected:
            if health.exceptions + 1 >= self.policy.max_first_exceptions:
                raise error  # every batch raised: a bug of the code
        return Verdict("exception")

    def _agree_on(self, error: Exception, batch: Any) -> None:
        agreement = self.agreement
        if is_collective_error(error):
            reason = agreement.reason() or "another rank ended or is late"
            raise RankEndedError(
                f"{reason}\n  This rank can't go on alone; the last good checkpoint is "
                "kept.\n  Next: the same command resumes from it."
            ) from error
        if agreement.can_still_vote:
            self._vote_against()
            return
        reason = f"{type(error).__name__}: {error}"
        agreement.leave_reason(reason)
        if self.policy.quarantine:
            self.quarantine.add(
                utterance_ids(batch),
                reason=f"{reason} inside a forward that holds collectives",
                cause="exception",
                epoch=self.epoch,
                batch=self.health.epoch_batches,
            )
            if self.quarantine.path is not None:  # the main rank may not get to it
                write_quarantine(self.quarantine.path, self.quarantine.entries, {})
        raise RankEndedError(
            f"{reason}\n  raised inside a forward that speaks to the other ranks, "
            "which can't be agreed: all ranks end.\n  The batch is in quarantine; the "
            "last good checkpoint is kept.\n  Next: the same command resumes from it, "
            "without this batch."
        ) from error

    # -- corrupted state -----------------------------------------------------------

    def any_rank(self, flag: bool) -> bool:
        """Whether a flag is set on any rank; all ranks have to ask."""
        return self.agreement.any(flag) if self.agreement is not None else flag

    def heal(self, bad: list[str], *, next_batch: bool) -> bool:
        """Replay from the last snapshot if the state is corrupted.

        Arguments
        ---------
        bad : list[str]
            Names of corrupted tensors on this rank.
        next_batch : bool
            See `Recovery.replay`.

        Returns
        -------
        bool
            Whether anything had to be done.

        Raises
        ------
        DivergenceError
            If there is no snapshot, or learning again corrupts the state again.
        """
        if self.replaying or not self.any_rank(bool(bad)):
            return False
        names = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if bad[5:] else "")
        names = names or "tensors of another rank"
        if self.any_rank(not self.recovery.possible):
            raise DivergenceError(
                f"epoch {self.epoch}: the state itself is corrupted ({names}) and "
                "there is no snapshot to go back to; the last good checkpoint is kept."
                "\n  Next: the same command resumes from it; keep snapshots with "
                "--nan_guard.snapshot_every=50"
            )
        now = RandomStreams()
        now.take()
        self.replaying = True
        try:
            replayed = self.recovery.replay(self.brain.fit_batch, next_batch=next_batch)
        finally:
            self.replaying = False
        now.restore()
        again = self.recovery.snapshot.verify()
        if self.any_rank(bool(again)):
            raise DivergenceError(
                f"epoch {self.epoch}: {names}: corrupted again after {replayed} "
                "batches were learned again from a verified snapshot, so the recipe "
                "itself does it; the last good checkpoint is kept.\n"
                "  Next: try --preset ultrasafe."
            )
        self.health.replayed += replayed
        logger.warning(
            "state corrupted before batch %d of epoch %d: %s\n  rolled back to the "
            "last verified snapshot and learned %d batches again",
            self.health.epoch_batches,
            self.epoch,
            names,
            replayed,
        )
        self.note(
            diagnose_state(bad, self.brain.modules),
            [f"rolled back to a snapshot, {replayed} batches learned again"],
        )
        return True

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

    def heal_tensors(self) -> None:
        """Repair what was corrupted between two stages, where nothing learns.

        Raises
        ------
        DivergenceError
            If something is not finite that no snapshot holds.
        """
        if not self.recovery.recording:
            return
        snapshot = self.recovery.snapshot
        bad = snapshot.verify()
        lost = bad
        if bad and snapshot.taken and self.recovery.between:
            lost = snapshot.restore_tensors(bad)
        if self.any_rank(bool(lost)):
            names = ", ".join(lost[:5]) or "tensors of another rank"
            raise DivergenceError(
                f"the state is corrupted between two stages ({names}) and there is no "
                "snapshot to go back to; the last good checkpoint is kept.\n"
                "  Next: the same command resumes from it; if it is the first run, "
                "look at how these weights are made."
            )
        if bad:
            logger.warning(
                "state corrupted between two stages after epoch %d: %s; put back from "
                "the snapshot",
                self.epoch,
                ", ".join(bad[:5]),
            )
            self.note(
                diagnose_state(bad, self.brain.modules),
                ["put back from a snapshot; nothing was learned since"],
            )


class SpikeHistory:
    """One `SpikeGuard` for each set of optimizers that step together.

    A discriminator's gradient norms say nothing about its generator's.
    """

    def __init__(self, policy: NonFinitePolicy):
        self._policy = policy
        self._guards: dict[str, SpikeGuard] = {}

    def of(self, optimizers: dict) -> SpikeGuard | None:
        """Return the guard for these optimizers; None if spikes are not watched."""
        policy = self._policy
        if policy.spike == "off":
            return None
        key = "+".join(optimizers)
        if key not in self._guards:
            self._guards[key] = SpikeGuard(
                warmup=policy.spike_warmup,
                window=policy.spike_window,
                deviations=policy.spike_deviations,
                factor=policy.spike_factor,
            )
        return self._guards[key]

    def state_dict(self) -> dict:
        """Return all histories as plain data."""
        return {key: guard.state_dict() for key, guard in self._guards.items()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from histories that `state_dict` returned."""
        self._guards.clear()
        for key, history in state.items():
            self.of({key: None}).load_state_dict(history)
