"""What to do about non-finite batches: the ``nan_guard:`` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from speechbrain_ext.errors import WorkError


class DivergenceError(WorkError):
    """Too many batches were rejected: the fault is systematic, not one bad file."""


@dataclass
class NonFinitePolicy:
    """Limits and places for the guard of `NaNSafeBrain`.

    Arguments
    ---------
    max_consecutive_rejects : int
        The run stops with exit code 1 when this many batches in a row were rejected
        (>= 1). The count is not reset by the end of an epoch.
    max_reject_rate : float
        ... or when more than this share of all batches of the run was rejected, once
        ``min_batches_for_rate`` have been delivered; in (0, 1].
    min_batches_for_rate : int
        Batches delivered before the rate is looked at.
    clip_scope : str
        ``"first"`` clips the first parameter group of each optimizer, as stock
        SpeechBrain does; ``"all"`` clips the joint norm of all groups of all
        optimizers. The verdict always looks at all groups.
    dump_folder : str or None
        Where rejected batches are written; None: beside the checkpoints in
        ``debug_nan``, or nowhere if the Brain has no checkpointer.
    max_dumps : int
        Batches written per run; later rejects are only logged (0: none).
    max_dump_megabytes : float
        Size limit of one dump; a larger batch is written without its tensors.

    Raises
    ------
    ValueError
        If a limit is out of its range; the message names it.

    Example
    -------
    >>> NonFinitePolicy(max_consecutive_rejects=3).clip_scope
    'first'
    """

    max_consecutive_rejects: int = 10
    max_reject_rate: float = 0.25
    min_batches_for_rate: int = 40
    clip_scope: str = "first"
    dump_folder: str | None = None
    max_dumps: int = 20
    max_dump_megabytes: float = 256.0

    def __post_init__(self):
        rules = {
            "max_consecutive_rejects": (self.max_consecutive_rejects >= 1, ">= 1"),
            "max_reject_rate": (0 < self.max_reject_rate <= 1, "in (0, 1]"),
            "min_batches_for_rate": (self.min_batches_for_rate >= 1, ">= 1"),
            "clip_scope": (self.clip_scope in ("first", "all"), "'first' or 'all'"),
            "max_dumps": (self.max_dumps >= 0, ">= 0"),
            "max_dump_megabytes": (self.max_dump_megabytes > 0, "> 0"),
        }
        broken = [
            f"{name} must be {rule}, got {getattr(self, name)!r}"
            for name, (holds, rule) in rules.items()
            if not holds
        ]
        if broken:
            raise ValueError("NonFinitePolicy: " + "; ".join(broken))


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
