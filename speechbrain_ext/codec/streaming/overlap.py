"""Networks over frames, run on a stream: what they return is as if all were there.

Frames are given with those around them that the network looks at; it therefore answers
so many frames later. At the ends of the signal it sees an end, as it does offline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from speechbrain_ext.codec.post_filter import REACH, Decoded
from speechbrain_ext.models.convnext import ConvNeXtBlock, ConvNeXtStack


class FilteredFrames:
    """A post-filter over frames as they come.

    Each frame is filtered with `REACH` frames on either side, those before it again.

    Arguments
    ---------
    post_filter : Callable[[Decoded], torch.Tensor]
        Returns a spectrum, and looks no further than `REACH` frames.
    """

    def __init__(self, post_filter: Callable[[Decoded], torch.Tensor]):
        self.reach = REACH
        self._filter = post_filter
        self._kept: Decoded | None = None
        self._done = 0  # of the frames kept

    @torch.no_grad()
    def push(self, decoded: Decoded, *, last: bool) -> np.ndarray:
        """Return the filtered spectrum of the frames that are complete now.

        Arguments
        ---------
        decoded : Decoded
            Of the next frames, [1, frames, bins].
        last : bool
            Whether no more frames follow.

        Returns
        -------
        np.ndarray
            [frames, bins].
        """
        kept = decoded
        if self._kept is not None:
            pairs = zip(self._kept, decoded, strict=True)
            kept = Decoded(*(torch.cat(pair, dim=1) for pair in pairs))
        frames = kept.rows.shape[1]
        ready = frames if last else max(frames - self.reach, self._done)
        found = kept.values[0, :0]
        if ready > self._done:
            found = self._filter(kept)[0, self._done : ready]
        start = max(ready - self.reach, 0)
        self._kept = Decoded(*(part[:, start:] for part in kept))
        self._done = ready - start
        return found.numpy()


class StreamedStack:
    """A `ConvNeXtStack` over frames as they come.

    Each block keeps what it has seen, so that no frame is computed twice.

    Arguments
    ---------
    stack : ConvNeXtStack
    """

    def __init__(self, stack: ConvNeXtStack):
        self._stack = stack
        self._blocks = [_StreamedBlock(block) for block in stack.blocks]
        self.reach = sum(block.reach for block in stack.blocks)

    @torch.no_grad()
    def push(self, frames: torch.Tensor, *, last: bool) -> torch.Tensor:
        """Return the stack's answers that are complete now.

        Arguments
        ---------
        frames : torch.Tensor
            [1, time, in_channels].
        last : bool
            Whether no more frames follow.

        Returns
        -------
        torch.Tensor
            [1, time, out_channels].
        """
        hidden = self._stack.enter(frames)
        for block in self._blocks:
            hidden = block.push(hidden, last=last)
        return self._stack.leave(self._stack.norm(hidden))


class _StreamedBlock:
    def __init__(self, block: ConvNeXtBlock):
        self._block = block
        # What the convolution finds before the first frame.
        self._kept = block.scale.new_zeros(1, block.reach, len(block.scale))

    def push(self, frames: torch.Tensor, *, last: bool) -> torch.Tensor:
        reach = self._block.reach
        given: Sequence[torch.Tensor] = [self._kept, frames]
        if last:
            given = [*given, self._kept.new_zeros(1, reach, frames.shape[2])]
        seen = torch.cat(given, dim=1)
        self._kept = seen[:, max(seen.shape[1] - 2 * reach, 0) :]
        if seen.shape[1] <= 2 * reach:
            return frames[:, :0]
        return self._block.inside(seen)
