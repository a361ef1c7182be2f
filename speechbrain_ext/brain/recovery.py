"""When the state and not the batch is bad: back to a snapshot, and learn again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.memory.journal import Journal, Prepared
from speechbrain_ext.brain.memory.snapshot import StateSnapshot
from speechbrain_ext.brain.memory.streams import RandomStreams
from speechbrain_ext.brain.policy import NonFinitePolicy

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
    beside : Iterable[tuple[object, str]]
        Objects and names of numbers that are no part of what is learned, but that a
        batch is learned under (safer settings): replayed as they were.
    """

    def __init__(
        self,
        brain: NaNSafeBrain,
        policy: NonFinitePolicy,
        snapshot: StateSnapshot,
        beside: Iterable[tuple[object, str]] = (),
    ):
        self._brain = brain
        self.every = policy.snapshot_every if policy.mode == "transaction" else 0
        self.snapshot = snapshot
        self.journal = Journal(int(policy.journal_megabytes * 1e6))
        self._streams: list[RandomStreams] = []
        self._beside = list(beside)
        self._settings: list[list] = []
        #: batches since the snapshot, recorded or not: alike on all ranks
        self._since = 0
        self._counted = False
        self._told_about_memory = False
        #: False while recorded batches are learned again: they are recorded already
        self.recording = self.every > 0
        self._recorded = False
        #: the batch that `due` was asked about, taken apart for `record`
        self._prepared: Prepared | None = None
        #: whether the snapshot stands between two stages and not before a batch
        self.between = False

    def due(self, batch: Any, *, asked: bool | None = None) -> bool:
        """Whether a snapshot has to be taken before this batch.

        Arguments
        ---------
        batch : Any
            As it will be recorded.
        asked : bool or None
            With several ranks: whether one of them has asked for a snapshot. They take
            it before the same batch, so that one rank's memory alone can't decide.
        """
        self._prepared = None
        if not self.recording:
            return False
        if self.between or not self.snapshot.taken or self._since >= self.every:
            return True
        self._prepared = self.journal.prepare(batch)
        full = not self.journal.has_room(self._prepared) if asked is None else asked
        if full and not self._told_about_memory:
            self._told_about_memory = True
            logger.warning(
                "nan_guard: %d batches do not fit into journal_megabytes; a snapshot "
                "is taken every %d steps instead of every %d (raise journal_megabytes, "
                "or lower snapshot_every)",
                self.every,
                len(self.journal),
                self.every,
            )
        return full

    def nearly_full(self, batch: Any) -> bool:
        """Whether another batch like this one would find no room in the journal."""
        return self.recording and not self.journal.fits(batch)

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
        self._settings.clear()
        self._since = 0

    def record(self, batch: Any, streams: RandomStreams) -> None:
        """Copy a batch, which `due` has just seen, and the streams before it."""
        self._recorded = self._counted = False
        prepared, self._prepared = self._prepared, None
        if not self.recording or self.between or not self.snapshot.taken:
            return
        self._since, self._counted = self._since + 1, True
        if self.journal.record(batch, prepared):
            self._streams.append(streams.held())
            self._settings.append(self._numbers())
            self._recorded = True

    def _numbers(self) -> list:
        return [getattr(owner, name) for owner, name in self._beside]

    def _put_numbers(self, numbers: list) -> None:
        for (owner, name), number in zip(self._beside, numbers, strict=True):
            setattr(owner, name, number)

    def drop_last(self) -> None:
        """Forget the batch recorded last: it was put back."""
        self._since -= self._counted
        self._counted = False
        if self._recorded:
            self.journal.drop_last()
            self._streams.pop()
            self._settings.pop()
            self._recorded = False

    @property
    def possible(self) -> bool:
        """Whether there is a snapshot, and all batches since it are at hand."""
        here = self.snapshot.taken and self.recording and not self.between
        return here and len(self.journal) == self._since

    def go_back(self) -> None:
        """Return to the snapshot; what was learned since is lost."""
        self.snapshot.restore()
        # Taken at the start of a batch that _fit_train had counted already.
        self._brain.step = max(self._brain.step - 1, 0)
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
        now, rejected = self._numbers(), brain.health.rejected
        self.recording = False
        try:
            recorded = zip(self.journal, self._streams, self._settings, strict=True)
            for index, (batch, streams, numbers) in enumerate(recorded):
                brain.step += index > 0
                # Once one is rejected, what it drew must not be felt either.
                if brain.health.rejected == rejected:
                    streams.restore()
                self._put_numbers(numbers)
                loss = learn(batch)
                brain.avg_train_loss = brain.update_average(loss, brain.avg_train_loss)
        finally:
            self.recording = True
            self._put_numbers(now)
        replayed = len(self.journal)
        if next_batch:
            brain.step += replayed > 0
        elif not replayed:
            brain.step = max(brain.step - 1, 0)
        return replayed
