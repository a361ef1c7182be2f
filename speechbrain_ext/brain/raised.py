"""A batch raised: a verdict on it, a bug of the code, or the end of all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speechbrain_ext.brain.agreement import (
    RankEndedError,
    ended,
    is_collective_error,
)
from speechbrain_ext.brain.batches import utterance_ids
from speechbrain_ext.brain.quarantine_file import write_quarantine
from speechbrain_ext.brain.verdict import Verdict
from speechbrain_ext.errors import WorkError

if TYPE_CHECKING:
    from speechbrain_ext.brain.guard import Guard


def verdict_of(guard: Guard, error: Exception, batch: Any) -> Verdict:
    """Turn an exception of the batch into a verdict, where the run can go on.

    Raises
    ------
    RankEndedError
        If the other ranks can't be told in time, or one of them is gone.
    WorkError
        If the GPU's context is lost.
    Exception
        The error itself, if every batch raised so far, and in mode ``"skip"``.
    """
    if guard.policy.mode == "skip":
        raise error
    if guard.agreement is not None:
        _agree_on(guard, error, batch)
    text = str(error)
    if "CUDA error" in text or "device-side assert" in text:
        raise WorkError(
            f"the GPU's context is lost: {text.splitlines()[0]}\n  No verdict is "
            "possible any more; checkpoints are as they were.\n  Next: the "
            "same command resumes from it; with labels in the batch, give their "
            "range: --nan_guard.label_ranges='{spk_id_encoded: 140}'"
        ) from error
    guard.last_error = error
    health = guard.health
    if not health.committed and health.exceptions == health.rejected:
        if health.exceptions + 1 >= guard.policy.max_first_exceptions:
            raise_bug(guard)
    return Verdict("exception")


def raise_bug(guard: Guard) -> None:
    """Raise what every batch raised; tell the other ranks, which may not have it."""
    error = guard.last_error
    if guard.agreement is not None:
        guard.agreement.leave_reason(f"{type(error).__name__}: {error}")
    raise error


def _agree_on(guard: Guard, error: Exception, batch: Any) -> None:
    agreement = guard.agreement
    if is_collective_error(error):
        raise ended(agreement.reason()) from error
    if agreement.can_still_vote:
        guard.vote_against()
        return
    reason = f"{type(error).__name__}: {error}"
    agreement.leave_reason(reason)
    if guard.policy.quarantine:
        guard.quarantine.add(
            utterance_ids(batch),
            reason=f"{reason} inside a forward that holds collectives",
            cause="exception",
            epoch=guard.epoch,
            batch=guard.health.epoch_batches,
        )
        if guard.quarantine.path is not None:  # the main rank may not get to it
            write_quarantine(guard.quarantine.path, guard.quarantine.entries, {})
    raise RankEndedError(
        f"{reason}\n  raised inside a forward that speaks to the other ranks, "
        "which can't be agreed: all ranks end.\n  The batch is in quarantine; the "
        "checkpoints are as they were.\n  Next: the same command resumes from it, "
        "without this batch."
    ) from error
