"""One verdict on all ranks, and an end of all ranks where none is possible."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator

import torch
from torch import distributed

from speechbrain_ext.errors import WorkError

logger = logging.getLogger(__name__)

#: Under this key of the process group's store a rank that ends leaves its reason.
_KEY = "speechbrain_ext/why_a_rank_ended"


class RankEndedError(WorkError):
    """Another rank ended, or this one has to: what it did can't be agreed."""


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


class Agreement:
    """Votes of all ranks about one batch, taken on the host.

    A rank that finds its batch bad before it has entered a collective of the model
    says so, and all ranks drop the batch together. Votes go through a gloo group of
    their own, so that nothing waits for a GPU.

    Every rank votes at the same places of a batch, whether it got there or raised:
    before the first forward of a wrapped module (``"forward"``), and after the last
    one, before backward (``"backward"``).

    Arguments
    ---------
    timeout : float
        Seconds after which a rank that waits for a dead one ends (0: as torch has it).
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        #: False for a fit_batch of the recipe's own, which may never say "backward"
        self.votes_backward = True
        self.group = None
        self.voted = 0
        #: whether a vote went against the batch
        self.dropped = False
        #: carried by each vote: this rank asks for a snapshot, and whether any has
        self.wish = self.wished = False
        #: whether a module that speaks to the other ranks is in its forward
        self.inside_collectives = False

    def join(self) -> None:
        """Make the group of votes; all ranks call it at the start of training."""
        if self.group is not None:
            return
        timeout = None
        if self.timeout:
            timeout = datetime.timedelta(seconds=self.timeout)
            # The default group was made by somebody else, with a limit of minutes.
            with contextlib.suppress(Exception):
                distributed.distributed_c10d._set_pg_timeout(timeout)
        self.group = distributed.new_group(backend="gloo", timeout=timeout)

    def leave(self) -> None:
        """Give the group of votes back at the end of training."""
        if self.group is not None and distributed.is_initialized():
            distributed.destroy_process_group(self.group)
        self.group = None

    def open(self) -> None:
        """Begin a batch."""
        self.voted = 0
        self.dropped = self.inside_collectives = False

    @property
    def _stages(self) -> tuple[str, ...]:
        return ("forward", "backward") if self.votes_backward else ("forward",)

    @property
    def last_stage(self) -> str:
        """The last stage of a batch at which all ranks vote."""
        return self._stages[-1]

    def vote(self, stage: str, *, bad: bool) -> bool:
        """Hear whether any rank finds its batch bad; call it once per stage.

        Returns
        -------
        bool
            True if any rank does. Earlier stages that were passed over are voted first,
            with the same voice, and end the batch for all if any rank is against.
        """
        if stage not in self._stages:
            return False
        last = self._stages.index(stage)
        while self.voted <= last:
            self.voted += 1
            if self.any(bad):
                self.dropped = True
                return True
        return False

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank; every rank has to ask.

        Raises
        ------
        RankEndedError
            If another rank ended, or is later than the timeout.
        """
        voice = torch.tensor([float(flag), float(self.wish)])
        try:
            distributed.all_reduce(voice, distributed.ReduceOp.MAX, group=self.group)
        except RuntimeError as error:
            raise ended(self.reason()) from error
        found, wished = voice.tolist()
        self.wished = self.wished or wished > 0
        return found > 0

    @property
    def voted_all(self) -> bool:
        """Whether all ranks went on to backward with this batch."""
        return self.voted >= len(self._stages) and not self.dropped

    @property
    def can_still_vote(self) -> bool:
        """Whether a fault that is found now can be agreed with the other ranks."""
        return self.voted < len(self._stages) and not self.inside_collectives

    def leave_reason(self, reason: str) -> None:
        """Tell the other ranks why this one ends; they find it when they fail."""
        with contextlib.suppress(Exception):
            store = distributed.distributed_c10d._get_default_store()
            store.set(_KEY, f"rank {distributed.get_rank()}: {reason}")

    def reason(self) -> str | None:
        """Return what a rank that ended has left, or None."""
        with contextlib.suppress(Exception):
            store = distributed.distributed_c10d._get_default_store()
            if store.check([_KEY]):
                return store.get(_KEY).decode()
        return None


def ended(reason: str | None) -> RankEndedError:
    """Say that this rank can't go on alone."""
    return RankEndedError(
        f"{reason or 'another rank ended or is late'}\n  This rank can't go on alone; "
        "checkpoints are as they were.\n  Next: the same command resumes from it."
    )


def is_collective_error(error: BaseException) -> bool:
    """Whether an exception says that another rank is gone or late."""
    if isinstance(error, getattr(distributed, "DistError", ())):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        word in text
        for word in (
            "gloo",
            "NCCL",
            "ProcessGroup",
            "Connection closed by peer",
            "pair closure",
        )
    )


@contextlib.contextmanager
def local_only() -> Iterator[None]:
    """Let wrapped modules compute without speaking to other ranks.

    For re-runs that one rank does alone: DDP hands over to the module inside, and
    SyncBatchNorm takes the statistics of its own rank. It is the classes that change
    for the while, since a re-run puts the attributes of modules back.
    """
    if not is_distributed():
        yield
        return
    wrapper = torch.nn.parallel.DistributedDataParallel
    batchnorm = torch.nn.SyncBatchNorm
    before = wrapper.forward, batchnorm.forward
    try:
        wrapper.forward = lambda self, *args, **kwargs: self.module(*args, **kwargs)
        batchnorm.forward = torch.nn.BatchNorm1d.forward
        yield
    finally:
        wrapper.forward, batchnorm.forward = before
