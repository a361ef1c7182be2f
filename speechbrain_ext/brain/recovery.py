"""When the state and not the batch is bad: back to a snapshot, and learn again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.journal import Journal, Prepared
from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.snapshot import StateSnapshot
from speechbrain_ext.brain.streams import RandomStreams

if TYPE_CHECKING:
    from speechbrain_ext.brain.nan_safe import NaNSafeBrain

logger = logging.getLogger(__name__)


class Recovery:
    """Verified snapshots in memory, and own copies of the batches since the last one.

    A snapshot is taken at the start of a batch, before forward. Learning the recorded
    batches again from there, each with the random streams that it had, gives the bits
    of a run in which nothing went wrong.

    Arguments
    ---------
    brain : NaNSafeBrain
        Its counters and averages are part of what goes back.
    policy : NonFinitePolicy
        ``snapshot_every`` (0: nothing is kept) and ``journal_megabytes``.
    snapshot : StateSnapshot
        Of everything that the Brain learns.
    """

    def __init__(
        self, brain: NaNSafeBrain, policy: NonFinitePolicy, snapshot: StateSnapshot
    ):
        self._brain = brain
        self.every = policy.snapshot_every if policy.mode == "transaction" else 0
        self.snapshot = snapshot
        self.journal = Journal(int(policy.journal_megabytes * 1e6))
        self._streams: list[RandomStreams] = []
        self._told_about_memory = False
        #: False while recorded batches are learned again: they are recorded already
        self.recording = self.every > 0
        self._recorded = False
        #: the batch that `due` was asked about, taken apart for `record`
        self._prepared: Prepared | None = None
        #: whether the snapshot stands between two stages and not before a batch
        self.between = False

    def due(self, batch: Any) -> bool:
        """Whether a snapshot has to be taken before this batch."""
        self._prepared = None
        if not self.recording:
            return False
        if self.between or not self.snapshot.taken or len(self.journal) >= self.every:
            return True
        self._prepared = self.journal.prepare(batch)
        if self.journal.has_room(self._prepared):
            return False
        if not self._told_about_memory:
            self._told_about_memory = True
            logger.warning(
                "nan_guard: %d batches do not fit into journal_megabytes; a snapshot "
                "is taken every %d steps instead of every %d (raise journal_megabytes, "
                "or lower snapshot_every)",
                self.every,
                len(self.journal),
                self.every,
            )
        return True

    def take(self, *, between: bool = False, looked: bool = False) -> None:
        """Take a snapshot of the live state, which the caller has verified.

        Arguments
        ---------
        between : bool
            Between two stages: only tensors can be put back from it, since the hooks of
            the recipe move its numbers there.
        looked : bool
            Nothing moved since it was verified.
        """
        self.between = between
        self.snapshot.take(looked=looked)
        self.journal.clear()
        self._streams.clear()

    def record(self, batch: Any, streams: RandomStreams) -> None:
        """Copy a batch, which `due` has just seen, and the streams before its forward."""
        self._recorded = False
        prepared, self._prepared = self._prepared, None
        if (
            self.recording
            and not self.between
            and self.snapshot.taken
            and self.journal.record(batch, prepared)
        ):
            self._streams.append(streams.held())
            self._recorded = True

    def drop_last(self) -> None:
        """Forget the batch recorded last: it was put back."""
        if self._recorded:
            self.journal.drop_last()
            self._streams.pop()
            self._recorded = False

    @property
    def possible(self) -> bool:
        """Whether there is a snapshot, and all batches since it are at hand."""
        return self.snapshot.taken and self.recording and not self.between

    def go_back(self) -> None:
        """Return to the snapshot; what was learned since is lost."""
        self.snapshot.restore()
        # Taken at the start of a batch that _fit_train had counted already.
        self._brain.step -= 1
        self.take(between=True)

    def replay(self, learn: Callable[[Any], torch.Tensor], *, next_batch: bool) -> int:
        """Return to the snapshot and learn the recorded batches again.

        Arguments
        ---------
        learn : Callable[[batch], torch.Tensor]
            One transaction; returns the loss as ``fit_batch`` does.
        next_batch : bool
            Whether another batch is about to be learned, which ``_fit_train`` has
            counted already.

        Returns
        -------
        int
            How many batches were learned again.
        """
        brain = self._brain
        self.snapshot.restore()
        self.recording = False
        try:
            batches = zip(self.journal, self._streams, strict=True)
            for index, (batch, streams) in enumerate(batches):
                brain.step += index > 0
                streams.restore()
                loss = learn(batch)
                brain.avg_train_loss = brain.update_average(loss, brain.avg_train_loss)
        finally:
            self.recording = True
        replayed = len(self.journal)
        if next_batch:
            brain.step += replayed > 0
        elif not replayed:
            brain.step -= 1
        return replayed
