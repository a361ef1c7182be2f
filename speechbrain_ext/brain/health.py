"""Counts of one run: what the guard saw, and the limits at which it gives up."""

from __future__ import annotations

from dataclasses import dataclass

from speechbrain_ext.brain.policy import DivergenceError, NonFinitePolicy


@dataclass
class Health:
    """Counts of one run; `NaNSafeBrain.health`."""

    committed: int = 0
    rejected: int = 0
    consecutive: int = 0
    epoch_batches: int = 0
    epoch_rejected: int = 0
    scaler_backoffs: int = 0
    dumps: int = 0

    def start_epoch(self, steps: int = 0) -> None:
        """Begin the counts that are shown per epoch, of which ``steps`` are done."""
        self.epoch_batches = steps
        self.epoch_rejected = 0

    def count(self, *, rejected: bool) -> None:
        """Count one delivered batch."""
        if rejected:
            self.rejected += 1
            self.consecutive += 1
            self.epoch_rejected += 1
        else:
            self.committed += 1
            self.consecutive = 0

    def enforce(self, policy: NonFinitePolicy, last: str) -> None:
        """Stop a run whose faults are systematic.

        Raises
        ------
        DivergenceError
            If a limit of ``policy`` is passed; the message holds ``last``, the report
            of the last rejected batch.
        """
        delivered = self.committed + self.rejected
        reason = None
        if self.consecutive >= policy.max_consecutive_rejects:
            reason = (
                f"{self.consecutive} batches in a row were rejected "
                f"(limit: max_consecutive_rejects={policy.max_consecutive_rejects})"
            )
        elif (
            delivered >= policy.min_batches_for_rate
            and self.rejected > policy.max_reject_rate * delivered
        ):
            reason = (
                f"{self.rejected} of {delivered} batches were rejected "
                f"(limit: max_reject_rate={policy.max_reject_rate})"
            )
        if reason:
            raise DivergenceError(
                f"training stopped: {reason}.\n"
                "  The last good checkpoint is kept; nothing of the rejected batches "
                f"is in it.\n  Last reject: {last}\n"
                "  Next: look at the dumps named above, mend or remove those files, "
                "and start the same command again; or try --preset ultrasafe."
            )
