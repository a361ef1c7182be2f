"""The state is corrupted, and no batch is to blame: repair it, or end the run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from speechbrain_ext.brain.forensics.diagnose import diagnose_state
from speechbrain_ext.brain.memory.streams import RandomStreams
from speechbrain_ext.brain.policy import DivergenceError

if TYPE_CHECKING:
    from speechbrain_ext.brain.guard import Guard

logger = logging.getLogger(__name__)


def heal(guard: Guard, bad: list[str], *, next_batch: bool) -> bool:
    """Replay from the last snapshot if the state is corrupted.

    Arguments
    ---------
    guard : Guard
        All ranks have to ask together.
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
    if guard.replaying or not guard.any_rank(bool(bad)):
        return False
    names = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if bad[5:] else "")
    names = names or "tensors of another rank"
    if guard.any_rank(not guard.recovery.possible):
        raise DivergenceError(
            f"epoch {guard.epoch}: the state itself is corrupted ({names}) and "
            "there is no snapshot to go back to; checkpoints are as they were."
            "\n  Next: the same command resumes from it; keep snapshots with "
            "--nan_guard.snapshot_every=50"
        )
    now = RandomStreams()
    now.take()
    rejected = guard.health.rejected
    guard.replaying = True
    try:
        replayed = guard.recovery.replay(guard.brain.fit_batch, next_batch=next_batch)
    finally:
        guard.replaying = False
    if guard.health.rejected == rejected:  # else the batch found out drew from them
        now.restore()
    again = guard.recovery.snapshot.verify()
    if guard.any_rank(bool(again)):
        raise DivergenceError(
            f"epoch {guard.epoch}: {names}: corrupted again after {replayed} "
            "batches were learned again from a verified snapshot, so the recipe "
            "itself does it; checkpoints are as they were.\n"
            "  Next: half the learning rate, max_grad_norm 1 (./run.sh --preset "
            "ultrasafe)"
        )
    guard.health.replayed += replayed
    logger.warning(
        "state corrupted before batch %d of epoch %d: %s\n  rolled back to the "
        "last verified snapshot and learned %d batches again",
        guard.health.epoch_batches,
        guard.epoch,
        names,
        replayed,
    )
    guard.note(
        diagnose_state(bad, guard.brain.modules),
        [f"rolled back to a snapshot, {replayed} batches learned again"],
    )
    return True


def heal_between(guard: Guard) -> bool:
    """Repair what was corrupted where nothing was learned since the snapshot.

    Returns
    -------
    bool
        Whether anything was.

    Raises
    ------
    DivergenceError
        If something is not finite that no snapshot holds.
    """
    if not guard.recovery.recording:
        return False
    snapshot = guard.recovery.snapshot
    bad = snapshot.verify()
    lost = bad
    if bad and snapshot.taken and guard.recovery.between:
        lost = snapshot.restore_tensors(bad)
    if guard.any_rank(bool(lost)):
        names = ", ".join(lost[:5]) or "tensors of another rank"
        raise DivergenceError(
            f"the state is corrupted between two stages ({names}) and there is no "
            "snapshot to go back to; checkpoints are as they were.\n"
            "  Next: the same command resumes from it; if it is the first run, "
            "look at how these weights are made."
        )
    if bad:
        logger.warning(
            "state corrupted between two stages after epoch %d: %s; put back from "
            "the snapshot",
            guard.epoch,
            ", ".join(bad[:5]),
        )
        guard.note(
            diagnose_state(bad, guard.brain.modules),
            ["put back from a snapshot; nothing was learned since"],
        )
    return bool(bad)


def heal_anywhere(guard: Guard, *, next_batch: bool) -> bool:
    """Verify the live state, and repair it in the way that its snapshot allows.

    Returns
    -------
    bool
        Whether anything had to be repaired.
    """
    if guard.recovery.between:
        return heal_between(guard)
    return heal(guard, guard.recovery.snapshot.verify(), next_batch=next_batch)
