"""Counts of one run: what the guard saw, and the limits at which it gives up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from speechbrain_ext.brain.policy import DivergenceError, NonFinitePolicy


@dataclass
class Health:
    """Counts of one run; `NaNSafeBrain.health`.

    Attributes
    ----------
    committed, rejected : int
        Batches of the run that were learned from, and that were put back.
    consecutive : int
        Rejects in a row, over the ends of epochs.
    unexplained : int
        ... of which no cause was found in the data.
    exceptions : int
        Rejected batches that raised an exception.
    replayed, rollbacks : int
        Batches learned again after a corrupted state, and returns to a snapshot.
    spikes : int
        Finite but absurd batches, whatever was done about them.
    backoffs, consecutive_backoffs : int
        Back-offs of the GradScaler, and those in a row.
    masked : int
        Rows that were left out of batches because of the quarantine.
    left_out : int
        Validation and test batches that were not finite.
    guard_seconds : float
        Time spent in the guard, diagnosis of bad batches excluded.
    epoch : dict
        The same counts since the epoch began.
    """

    committed: int = 0
    rejected: int = 0
    consecutive: int = 0
    unexplained: int = 0
    exceptions: int = 0
    replayed: int = 0
    rollbacks: int = 0
    spikes: int = 0
    backoffs: int = 0
    consecutive_backoffs: int = 0
    masked: int = 0
    left_out: int = 0
    dumps: int = 0
    guard_seconds: float = 0.0
    epoch_batches: int = 0
    _at_epoch_start: dict = field(default_factory=dict, repr=False)

    _PER_EPOCH = (
        "rejected",
        "replayed",
        "rollbacks",
        "spikes",
        "backoffs",
        "masked",
        "guard_seconds",
    )

    def start_epoch(self, steps: int = 0) -> None:
        """Begin the counts that are shown per epoch, of which ``steps`` are done."""
        self.epoch_batches = steps
        self._at_epoch_start = {name: getattr(self, name) for name in self._PER_EPOCH}

    @property
    def epoch(self) -> dict[str, int | float]:
        """Counts since the epoch began, by name."""
        return {
            name: getattr(self, name) - self._at_epoch_start.get(name, 0)
            for name in self._PER_EPOCH
        }

    @property
    def epoch_rejected(self) -> int:
        """Batches rejected since the epoch began."""
        return self.rejected - self._at_epoch_start.get("rejected", 0)

    def commit(self) -> None:
        """Count a batch that was learned from."""
        self.committed += 1
        self.consecutive = 0
        self.unexplained = 0

    def reject(self, *, explained: bool, exception: bool = False) -> None:
        """Count a batch that was put back.

        Arguments
        ---------
        explained : bool
            Whether the data of the batch are the cause.
        exception : bool
            Whether it raised one.
        """
        self.rejected += 1
        self.consecutive += 1
        self.unexplained += not explained
        self.exceptions += exception

    def state_dict(self) -> dict:
        """Return the counts of the run; those of the epoch start anew on resume."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if not f.name.startswith("_") and f.name != "epoch_batches"
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from counts that `state_dict` returned."""
        known = self.state_dict()
        for name, value in state.items():
            if name in known:
                setattr(self, name, value)

    def limit_passed(self, policy: NonFinitePolicy) -> str | None:
        """Tell which limit of the policy is passed, or None."""
        delivered = self.committed + self.rejected
        if self.consecutive >= policy.max_consecutive_rejects:
            return (
                f"{self.consecutive} batches in a row were rejected "
                f"(limit: max_consecutive_rejects={policy.max_consecutive_rejects})"
            )
        if (
            delivered >= policy.min_batches_for_rate
            and self.rejected > policy.max_reject_rate * delivered
        ):
            return (
                f"{self.rejected} of {delivered} batches were rejected "
                f"(limit: max_reject_rate={policy.max_reject_rate})"
            )
        return None

    def enforce(self, policy: NonFinitePolicy, last: str) -> None:
        """Stop a run whose faults are systematic.

        Raises
        ------
        DivergenceError
            If a limit of ``policy`` is passed; the message holds ``last``, the report
            of the last rejected batch.
        """
        reason = self.limit_passed(policy)
        if reason:
            raise DivergenceError(
                f"training stopped: {reason}.\n"
                "  Checkpoints are as they were: nothing of the rejected batches is in "
                f"them.\n  Last reject: {last}\n"
                "  Next: speechbrain-ext analyze-nan compares the dumps in the folder "
                "named above; mend or remove those files (and their entries in "
                "quarantine.json), and start the same command again; or train more "
                "safely: half the learning rate, max_grad_norm 1, no mixed precision "
                "(./run.sh --preset ultrasafe)."
            )


def module_counts(modules: Iterable[torch.nn.Module]) -> dict[str, float]:
    """Sum what modules count themselves in ``health_counts()``.

    A loss may count how often it had to clamp, a quantizer its dead codes. One
    transfer from the device per number: once an epoch, not per batch.

    Returns
    -------
    dict
        Name -> total over all modules that have the method.
    """
    totals: dict[str, float] = {}
    for module in modules:
        counts = getattr(module, "health_counts", None)
        if callable(counts):
            for name, value in counts().items():
                totals[name] = totals.get(name, 0) + float(value)
    return totals
