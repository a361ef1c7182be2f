"""One batch under guard: open it, hear its verdict, commit it or put it back."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.batches import utterance_ids
from speechbrain_ext.brain.healing import heal_anywhere
from speechbrain_ext.brain.judging import judge_end, judge_replayed, judge_step
from speechbrain_ext.brain.memory.state import is_owner
from speechbrain_ext.brain.raised import verdict_of
from speechbrain_ext.brain.rejection import forget_unscaling, reject
from speechbrain_ext.brain.verdict import RejectedBatch, Verdict
from speechbrain_ext.errors import UserError

if TYPE_CHECKING:
    from speechbrain_ext.brain.guard import Guard

logger = logging.getLogger(__name__)


def transact(guard: Guard, fit_batch: Callable[[Any], Any], batch: Any) -> Any:
    """Run ``fit_batch(batch)``; commit it, or put everything back."""
    started = time.perf_counter()
    if not guard.replaying:
        guard.health.epoch_batches += 1
    batch = mask(guard, batch)
    if batch is None:  # every utterance of it is in quarantine
        guard.uncount()
        return torch.tensor(math.nan)
    guard.hooks.attach()
    _take_snapshot_if_due(guard, batch)
    guard.transaction.begin()
    guard.recovery.record(batch, guard.transaction.random)
    guard.reset_batch()
    guard.held.open()
    guard.open = True
    if guard.agreement is not None:
        guard.agreement.open()
        guard.agreement.wish = guard.recovery.nearly_full(batch)
    guard.health.guard_seconds += time.perf_counter() - started
    error = None
    try:
        loss = _fit(guard, fit_batch, batch)
    except RejectedBatch as rejected:
        verdict = rejected.verdict
    except Exception as raised:
        if isinstance(raised, (UserError, NotImplementedError)):
            _abandon(guard)
            raise
        verdict, error = verdict_of(guard, raised, batch), raised
    except BaseException:  # Ctrl-C: what is saved now must not hold half a batch
        _abandon(guard)
        raise
    else:
        started = time.perf_counter()
        commit(guard)
        guard.health.guard_seconds += time.perf_counter() - started
        return loss
    finally:
        guard.open = False
        guard.held.discard()
        guard.hooks.end_batch()
    return reject(guard, fit_batch, batch, verdict, error)


def _take_snapshot_if_due(guard: Guard, batch: Any) -> None:
    agreement = guard.agreement
    asked = None if agreement is None else agreement.wished
    if guard.recovery.due(batch, asked=asked):
        # Repair between two stages may bind other tensors: look again.
        moved = guard.recovery.between
        moved = heal_anywhere(guard, next_batch=True) or moved
        guard.recovery.take(looked=not moved)
        if agreement is not None:
            agreement.wished = agreement.wish = False


def _abandon(guard: Guard) -> None:
    """Put back the batch that the run ends in, as far as it can be."""
    if guard.policy.mode == "transaction" and (guard.shielded or not guard.stepped):
        guard.transaction.rollback()
        forget_unscaling(guard.brain)
        guard.recovery.drop_last()
        guard.uncount()


def mask(guard: Guard, batch: Any) -> Any:
    """Leave out what is in quarantine; None if nothing is left."""
    if not guard.policy.quarantine or not guard.quarantine.entries:
        return batch
    if guard.replaying:  # recorded as it was learned from
        return batch
    masked = guard.quarantine.mask(batch)
    if masked is not batch:
        kept = 0 if masked is None else len(utterance_ids(masked))
        guard.health.masked += len(utterance_ids(batch)) - kept
    if masked is None and guard.agreement is not None:
        # The other ranks have something to learn from: keep their company. The
        # verdict on this rank's own batch is what all hear.
        return batch
    return masked


def _fit(guard: Guard, fit_batch: Callable[[Any], Any], batch: Any) -> Any:
    if guard.agreement is not None and guard.quarantine.entries:
        if not guard.replaying and guard.quarantine.mask(batch) is None:
            # As an exception, so that the report says this and blames no label.
            raise RuntimeError("every utterance of the batch is in quarantine")
    fault = guard.labels.fault(batch)
    on_trial = guard.labels.doubted if guard.agreement is None else None
    if fault is not None and (on_trial is None or guard.brain.device_type != "cpu"):
        guard.vote_against()
        raise RejectedBatch(Verdict("label"))
    passed_over = _passed_over(guard)
    with guard.safer.full_precision(guard.brain), guard.labels.learning(batch):
        try:
            loss = fit_batch(batch)
        except Exception as error:
            if on_trial is None or isinstance(error, UserError):
                raise
            raise RejectedBatch(Verdict("label")) from error
    if on_trial is not None:
        guard.labels.forget(on_trial)
    if _passed_over(guard) > passed_over:  # the recipe saw a NaN and did nothing
        loss = torch.tensor(math.nan)
        if guard.agreement is None or not guard.judged:
            guard.loss, guard.loss_is_scaled = None, False
    if not guard.judged:  # a micro-batch inside an accumulation window
        if guard.loss is None and isinstance(loss, torch.Tensor):
            guard.loss = loss.detach().to(guard.brain.device)
        judge_step(guard, guard.optimizers(), stepping=False)
    elif guard.loss is None or guard.replaying:
        judge_end(guard, loss if guard.loss is None else None)
    if guard.replaying:
        judge_replayed(guard)
    return loss


def _passed_over(guard: Guard) -> int:
    return getattr(guard.brain, "nonfinite_count", 0)


def commit(guard: Guard) -> None:
    """Let everything that waited for the verdict on the open batch happen."""
    health = guard.health
    for module in guard.statistics_learners():
        module.commit_statistics()
    # In a replay the lines are written already, but for loggers that keep them
    # among the state, which went back.
    again = functools.partial(is_owner, brain=guard.brain)
    guard.held.commit(again if guard.replaying else None)
    for spikes, loss, norm in guard.usual:
        spikes.commit(loss, norm)
    if guard.rounds:
        guard.steps_twice = bool(guard.steps_twice) or guard.rounds > 1
    if guard.backed_off:
        health.backoffs += not guard.replaying
        health.consecutive_backoffs += 1
    elif guard.stepped:
        health.consecutive_backoffs = 0
    if guard.stepped and guard.safer.count_step() and not guard.replaying:
        logger.warning("nan_guard: safer settings end; the recipe's own hold again")
    if not guard.replaying:
        health.commit()
