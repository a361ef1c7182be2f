"""Frames collected in training until there are enough of them for k-means."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from speechbrain_ext.quantization.ranks import is_distributed


class FrameReservoir(nn.Module):
    """The first finite frames of training, staged and committed like statistics.

    It is open until `close`, when its buffer is replaced by an empty one; the shape
    of that buffer tells the two states apart without asking the device. A checkpoint
    has the flag ``closed`` for it.

    Arguments
    ---------
    capacity : int
        Frames to collect, over all ranks together; 0 makes a closed reservoir.
    dim : int
        Dimensions of a frame.

    Example
    -------
    >>> reservoir = FrameReservoir(capacity=3, dim=2)
    >>> frames = torch.tensor([[1.0, 1.0], [float("nan"), 0.0], [2.0, 2.0]])
    >>> reservoir.add(frames, torch.tensor([True, False, True]))
    >>> reservoir.commit()
    >>> reservoir.gather()
    tensor([[1., 1.],
            [2., 2.]])
    """

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        # One row more than the capacity: where the rows go that are not kept.
        rows = capacity + 1 if capacity else 0
        self.register_buffer("frames", torch.zeros(rows, dim))
        self.register_buffer("committed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("closed", torch.tensor(capacity == 0))
        self.register_buffer(
            "staged", torch.zeros((), dtype=torch.int64), persistent=False
        )
        # An upper bound known without asking the device; it only saves questions, so
        # it need not be exact after a rollback.
        self._offered = 0

    @property
    def is_open(self) -> bool:
        """Whether frames are still being collected."""
        return self.frames.shape[0] > 0

    @property
    def capacity(self) -> int:
        """Frames that can be kept."""
        return max(self.frames.shape[0] - 1, 0)

    def add(self, frames: torch.Tensor, valid: torch.Tensor) -> None:
        """Stage the valid frames, [n, dim] with valid [n] bool, as far as they fit."""
        place = self.staged + valid.cumsum(0) - 1
        place = torch.where(valid & (place < self.capacity), place, self.capacity)
        self.frames.index_copy_(0, place, frames)
        self.frames[self.capacity].zero_()
        self.staged.copy_((self.staged + valid.sum()).clamp(max=self.capacity))
        self._offered += frames.shape[0]

    def discard(self) -> None:
        """Forget what was staged since the last commit."""
        rows = torch.arange(self.frames.shape[0], device=self.frames.device)
        self.frames.mul_((rows < self.committed)[:, None])
        self.staged.copy_(self.committed)

    def commit(self) -> None:
        """Keep what was staged."""
        self.committed.copy_(self.staged)

    def is_full(self) -> bool:
        """Whether all ranks together hold enough; the same answer on every rank.

        Asks the device (one number) once enough frames have been offered; with
        torch.distributed it is a collective.
        """
        if is_distributed():
            total = self.committed.clone()
            dist.all_reduce(total)
            return int(total) >= self.capacity
        return self._offered >= self.capacity and int(self.committed) >= self.capacity

    def gather(self) -> torch.Tensor:
        """Return the committed frames of all ranks, in order of rank, [n, dim]."""
        if not is_distributed():
            return self.frames[: int(self.committed)].clone()
        world = dist.get_world_size()
        counts = [torch.empty_like(self.committed) for _ in range(world)]
        frames = [torch.empty_like(self.frames) for _ in range(world)]
        dist.all_gather(counts, self.committed)
        dist.all_gather(frames, self.frames)
        return torch.cat([f[: int(n)] for f, n in zip(frames, counts, strict=True)])

    def close(self) -> None:
        """Stop collecting and free the memory."""
        self._resize(0)

    def _resize(self, rows: int) -> None:
        self.frames = self.frames.new_zeros(rows, self.frames.shape[1])
        self.committed.zero_()
        self.staged.zero_()
        self.closed.fill_(rows == 0)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # The flag decides, since the frames of the two sides need not be of one size
        # (and are left out by whoever loads only what fits).
        closed = state_dict.get(prefix + "closed")
        frames = state_dict.get(prefix + "frames")
        if closed is not None and bool(closed):
            self._resize(0)
        elif frames is not None and frames.shape[1:] == self.frames.shape[1:]:
            self._resize(frames.shape[0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not self.is_open:
            self._resize(0)
        elif frames is None:
            self.committed.zero_()
        self.staged.copy_(self.committed)
        self._offered = self.capacity  # unknown: ask from now on
