"""The open batch before its judge: what is looked at, and what follows from it."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.verdict import RejectedBatch, Verdict, group_norms, judge

if TYPE_CHECKING:
    from speechbrain_ext.brain.guard import Guard

logger = logging.getLogger(__name__)

#: Spikes that are only watched are logged one by one up to here.
_SPIKES_TOLD = 10


def judge_step(guard: Guard, optimizers: dict, *, stepping: bool = True) -> dict:
    """Judge the open batch; unwind to its transaction if it is bad.

    Arguments
    ---------
    guard : Guard
        With the open batch.
    optimizers : dict
        Name -> optimizer; those about to step.
    stepping : bool
        False inside an accumulation window, where none steps.

    Returns
    -------
    dict
        Gradient norms of all groups, to clip with.

    Raises
    ------
    RejectedBatch
        If it is bad, on this rank or on another one.
    """
    norms = group_norms(optimizers)
    if not guard.open:  # a hook of the recipe steps outside any batch
        return norms
    started = time.perf_counter()
    if guard.agreement is not None:
        guard.hear(guard.agreement.last_stage)
    guard.judged = True
    guard.cleared = set(map(id, optimizers.values()))
    loss, seen = _unscaled(guard, norms, stepping)
    spikes = guard.spike_history.of(optimizers)
    policy = guard.policy
    limits = spikes.limits if spikes else (math.inf, math.inf)
    if guard.loss is None and limits[1] < math.inf:
        limits = (-math.inf, limits[1])  # no loss is seen here: the norm alone decides
    verdict = _judge(
        guard, loss, seen, limits=limits, reject_spikes=policy.spike == "reject"
    )
    guard.rounds += stepping
    if verdict.cause == "gradient":
        if _is_backoff(guard, optimizers, stepping):
            guard.backed_off = stepping
            return norms
        if math.isfinite(verdict.grad_norm):
            # Inside a window DDP has not averaged the gradients yet.
            verdict = replace(verdict, cause="other rank")
    if not verdict.accepted:
        raise RejectedBatch(verdict)
    if verdict.spike and not guard.replaying:
        _tell_spike(guard, verdict)
    guard.verdict = verdict
    if spikes and not verdict.spike:
        loss_seen = verdict.loss if guard.loss is not None else None
        norm_seen = verdict.grad_norm if stepping else None
        guard.usual.append((spikes, loss_seen, norm_seen))
    guard.health.guard_seconds += time.perf_counter() - started
    return norms


def _judge(guard: Guard, loss: torch.Tensor, norms: list, **options: Any) -> Verdict:
    """Judge loss, norms and what forward left in buffers; at a glance if it will do."""
    agree = guard.agreement is not None
    if guard.policy.mode == "skip":  # the document's rule knows of no buffers
        return judge(loss, norms, None, agree=agree, **options)
    state = guard.transaction.forward_state
    signs = None if agree else state.glance()  # ranks agree without a second look
    if signs is not None:
        verdict = judge(loss, norms, None, signs=signs, **options)
        if verdict.cause != "buffer":
            return verdict
    verdict = judge(loss, norms, state.probe(), agree=agree, **options)
    if signs is not None and verdict.cause != "buffer":
        state.doubt_glance()
    return verdict


def _unscaled(guard: Guard, norms: dict, stepping: bool) -> tuple[torch.Tensor, list]:
    """Loss and norms as the recipe computed them, whatever the GradScaler's scale.

    A history of scaled values would call a spike whenever the scale moves, and a
    micro-batch, whose gradients are unscaled only when the window steps, one always.
    """
    brain, loss, seen = guard.brain, guard.loss, list(norms.values())
    if loss is None:
        loss = torch.zeros((), device=brain.device)
    scale = brain.scaler._scale if brain.scaler.is_enabled() else None
    if guard.loss_is_scaled:
        if scale is not None:
            loss = loss / scale.to(loss.device)
        if brain.grad_accumulation_factor != 1:
            loss = loss * brain.grad_accumulation_factor
    if scale is not None and not stepping:
        seen = [norm / scale.to(norm.device) for norm in seen]
    return loss, seen


def judge_end(guard: Guard, loss: Any) -> None:
    """Judge what came after the last step: an own loss, buffers moved late.

    Of stock's fit_batch only a hook comes after the step. What that spoils is found
    before the next snapshot, and its batch when those since the last are replayed.

    Raises
    ------
    RejectedBatch
        If it is bad.
    """
    if isinstance(loss, float):
        loss = torch.tensor(loss)
    if not isinstance(loss, torch.Tensor):
        loss = torch.zeros(())
    verdict = _judge(guard, loss.detach().mean().to(guard.brain.device), [])
    if not verdict.accepted:
        raise RejectedBatch(verdict)


def judge_replayed(guard: Guard) -> None:
    """Find the batch whose own step spoils the state; only while batches are replayed.

    Raises
    ------
    RejectedBatch
        If the state is not finite after it, on any rank.
    """
    bad = guard.recovery.snapshot.verify()
    if guard.any_rank(bool(bad)):
        raise RejectedBatch(Verdict("state" if bad else "other rank"))


def _is_backoff(guard: Guard, optimizers: dict, stepping: bool) -> bool:
    """Whether the scaler deals with it: it skips the step and lowers the scale."""
    scaler = guard.brain.scaler
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
    return guard.health.consecutive_backoffs < guard.policy.max_backoffs


def _tell_spike(guard: Guard, verdict: Verdict) -> None:
    guard.health.spikes += 1
    if guard.health.spikes <= _SPIKES_TOLD:
        logger.warning(
            "spike in batch %d of epoch %d: loss %.4g, gradient norm %.4g; learned "
            "from all the same (nan_guard.spike=observe)",
            guard.health.epoch_batches,
            guard.epoch,
            verdict.loss,
            verdict.grad_norm,
        )
