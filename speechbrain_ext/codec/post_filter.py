"""A small network that mends what quantisation did to a spectrum.

It sees what the decoder knows, the integers, the steps and the envelope, and returns a
gain for what was sent, a gain for the noise that was filled in, and what to add. It
starts as the identity. Four layers of three frames: it looks four frames ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from speechbrain_ext.codec.bands import FLOOR
from speechbrain_ext.codec.exact import ONE

#: Frames on each side that an output depends on.
REACH = 4
_INPUTS = 7


class Decoded(NamedTuple):
    """What a decoder knows of a spectrum; all [batch, frames, bins].

    Attributes
    ----------
    rows : torch.Tensor
        Integers that were sent.
    values : torch.Tensor
        What they stand for.
    noise : torch.Tensor
        What was filled in.
    steps, levels : torch.Tensor
        log2 of steps and of the envelope.
    """

    rows: torch.Tensor
    values: torch.Tensor
    noise: torch.Tensor
    steps: torch.Tensor
    levels: torch.Tensor


def decoded_of(rows, values, noise, steps, levels) -> Decoded:
    """Make a batch of one from arrays; ``steps`` and ``levels`` in fixed point."""
    parts = (rows, values, noise, np.divide(steps, ONE), np.divide(levels, ONE))
    return Decoded(*(torch.from_numpy(np.asarray(x, np.float32))[None] for x in parts))


class PostFilter(nn.Module):
    """Residual convolutions over frames and bins.

    Arguments
    ---------
    channels : int
        Of the hidden layers.

    Example
    -------
    >>> some = Decoded(*torch.randn(5, 1, 6, 32))
    >>> made = PostFilter(8)(some)
    >>> bool(torch.equal(made, some.values + some.noise))
    True
    """

    def __init__(self, channels: int = 20):
        super().__init__()
        self.first = nn.Conv2d(_INPUTS, channels, (3, 7), padding=(1, 3))
        self.hidden = nn.ModuleList(
            nn.Conv2d(channels, channels, (3, 5), padding=(1, 2)) for _ in range(3)
        )
        self.last = nn.Conv2d(channels, 3, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, decoded: Decoded) -> torch.Tensor:
        """Return the mended spectrum, [batch, frames, bins]."""
        x = nn.functional.gelu(self.first(self.inputs(decoded)))
        for layer in self.hidden:
            x = x + nn.functional.gelu(layer(x))
        return self.mend(decoded, x)

    @staticmethod
    def inputs(decoded: Decoded) -> torch.Tensor:
        """Return what the first layer sees, [batch, channels, frames, bins].

        Channels lie together in memory, with which convolutions of few channels take
        little more than half the time on a CPU.
        """
        rows, _, _, steps, levels = decoded
        size = torch.log1p(rows.abs())
        place = torch.linspace(0, 1, rows.shape[-1], device=rows.device)
        place = place.expand(rows.shape)
        seen = [
            *(rows.sign() * size, size, (rows != 0).to(size)),
            *((levels - steps).clamp(-8, 8) / 4, levels / 8),
            *(place, torch.cos(torch.pi * place)),
        ]
        return torch.stack(seen, dim=-1).permute(0, 3, 1, 2)

    def mend(self, decoded: Decoded, hidden: torch.Tensor) -> torch.Tensor:
        """Return the spectrum as the last hidden layer wants it."""
        gain, louder, more = self.last(hidden).unbind(1)
        values, noise = decoded.values * (1 + gain), decoded.noise * (1 + louder)
        # Where the envelope says silence, there is nothing to add to.
        size = 2.0**decoded.steps * (decoded.levels > FLOOR)
        return values + noise + more * size
