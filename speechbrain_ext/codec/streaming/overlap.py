"""Networks over frames, run on a stream: what they return is as if all were there.

A layer that looks at frames on both sides answers so many frames later. Each keeps the
frames that it needs again, so that nothing is computed twice; at the ends of the signal
it finds the same zeros as offline.
"""

from __future__ import annotations

import torch
from torch import nn

from speechbrain_ext.codec.post_filter import Decoded, PostFilter
from speechbrain_ext.models.convnext import ConvNeXtBlock, ConvNeXtStack


class StreamedFilter:
    """A post-filter over frames as they come.

    Arguments
    ---------
    post_filter : PostFilter

    Attributes
    ----------
    reach : int
        Frames that are held back.
    """

    def __init__(self, post_filter: PostFilter):
        self._filter = post_filter
        first = _StreamedConvolution(post_filter.first, shortcut=False)
        rest = [_StreamedConvolution(x, shortcut=True) for x in post_filter.hidden]
        self._layers = [first, *rest]
        self.reach = sum(layer.reach for layer in self._layers)
        self._waiting: Decoded | None = None

    @torch.no_grad()
    def push(self, decoded: Decoded, *, last: bool) -> tuple[Decoded, torch.Tensor]:
        """Take the next frames, and return those that are complete now.

        Arguments
        ---------
        decoded : Decoded
            [1, frames, bins].
        last : bool
            Whether no more frames follow.

        Returns
        -------
        (Decoded, torch.Tensor)
            Frames, and what the filter makes of them, [1, frames, bins].
        """
        hidden = self._filter.inputs(decoded)
        for layer in self._layers:
            hidden = layer.push(hidden, last=last)
        waiting = decoded
        if self._waiting is not None:
            pairs = zip(self._waiting, decoded, strict=True)
            waiting = Decoded(*(torch.cat(pair, dim=1) for pair in pairs))
        ready = hidden.shape[2]
        self._waiting = Decoded(*(part[:, ready:] for part in waiting))
        complete = Decoded(*(part[:, :ready] for part in waiting))
        if not ready:  # a convolution of nothing is an error
            return complete, complete.values
        return complete, self._filter.mend(complete, hidden)


class StreamedStack:
    """A `ConvNeXtStack` over frames as they come.

    Arguments
    ---------
    stack : ConvNeXtStack

    Attributes
    ----------
    reach : int
        Frames that are held back.
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


class _Neighbours:
    """Frames with those around them that a layer looks at."""

    def __init__(self, reach: int, dim: int):
        self.reach, self._dim = reach, dim
        self._kept: torch.Tensor | None = None

    def around(self, frames: torch.Tensor, last: bool) -> torch.Tensor | None:
        """Return what the layer sees; None while it would see too little."""
        shape = list(frames.shape)
        shape[self._dim] = self.reach
        silence = frames.new_zeros(shape)
        kept = silence if self._kept is None else self._kept
        seen = [kept, frames, silence] if last else [kept, frames]
        seen = torch.cat(seen, dim=self._dim)
        count = seen.shape[self._dim]
        keep = min(count, 2 * self.reach)
        self._kept = seen.narrow(self._dim, count - keep, keep)
        return seen if count > 2 * self.reach else None


class _StreamedConvolution:
    """A convolution over frames and bins, and what is made of it."""

    def __init__(self, layer: nn.Conv2d, *, shortcut: bool):
        self._layer, self._shortcut = layer, shortcut
        self.reach = layer.kernel_size[0] // 2
        self._neighbours = _Neighbours(self.reach, dim=2)

    def push(self, x: torch.Tensor, *, last: bool) -> torch.Tensor:
        layer = self._layer
        seen = self._neighbours.around(x, last)
        if seen is None:
            return x.new_zeros(1, layer.out_channels, 0, x.shape[3])
        padding = (0, layer.padding[1])
        made = nn.functional.conv2d(seen, layer.weight, layer.bias, padding=padding)
        made = nn.functional.gelu(made)
        inner = seen[:, :, self.reach : seen.shape[2] - self.reach]
        return inner + made if self._shortcut else made


class _StreamedBlock:
    def __init__(self, block: ConvNeXtBlock):
        self._block = block
        self._neighbours = _Neighbours(block.reach, dim=1)

    def push(self, frames: torch.Tensor, *, last: bool) -> torch.Tensor:
        seen = self._neighbours.around(frames, last)
        return frames[:, :0] if seen is None else self._block.inside(seen)
