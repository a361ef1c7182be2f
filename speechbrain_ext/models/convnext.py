"""ConvNeXt blocks over time, the only trained network inside the transform codec."""

from __future__ import annotations

import torch
from torch import nn


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer network on each frame.

    Liu et al., 2022, "A ConvNet for the 2020s", section 2, in one dimension as in Vocos
    (Siuzdak, 2023). Frames stay [batch, time, channel] all the way; only the depthwise
    convolution sees them transposed.

    Arguments
    ---------
    width : int
        Channels.
    expansion : float
        Hidden channels of the per-frame network / ``width``.
    kernel_size : int
        Frames seen by the convolution (odd).
    residual_scale : float
        Initial weight of the block beside its shortcut: small keeps deep stacks near
        the identity at the start.

    Example
    -------
    >>> ConvNeXtBlock(8)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        width: int,
        expansion: float = 2.0,
        kernel_size: int = 7,
        residual_scale: float = 0.1,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"ConvNeXtBlock: kernel_size must be odd, got {kernel_size}"
            )
        hidden = int(width * expansion)
        self.depthwise = nn.Conv1d(
            width, width, kernel_size, padding=kernel_size // 2, groups=width
        )
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), residual_scale))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """[batch, time, width] -> [batch, time, width]; time >= 1."""
        return self._mend(frames, self.depthwise(frames.transpose(1, 2)))

    def inside(self, frames: torch.Tensor) -> torch.Tensor:
        """Like `forward`, of the frames that have neighbours on both sides.

        Arguments
        ---------
        frames : torch.Tensor
            [batch, time + 2 * reach, width] with ``reach = kernel_size // 2``.

        Returns
        -------
        torch.Tensor
            [batch, time, width].
        """
        kernel, bias, width = (
            self.depthwise.weight,
            self.depthwise.bias,
            len(self.scale),
        )
        given = frames.transpose(1, 2)
        mixed = nn.functional.conv1d(given, kernel, bias, groups=width)
        reach = self.reach
        return self._mend(frames[:, reach : frames.shape[1] - reach], mixed)

    @property
    def reach(self) -> int:
        """Frames on each side that an output depends on."""
        return self.depthwise.kernel_size[0] // 2

    def _mend(self, frames: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        hidden = self.expand(self.norm(mixed.transpose(1, 2)))
        return frames + self.scale * self.project(nn.functional.gelu(hidden))


class ConvNeXtStack(nn.Module):
    """Linear in, ``num_blocks`` blocks, norm, linear out that starts at exactly zero.

    The zero makes whatever the stack is added to the function at step 0; its gradient
    is not zero, so training departs from there.

    Arguments
    ---------
    in_channels, out_channels : int
        Channels per frame of input and output.
    width, num_blocks, expansion, kernel_size
        See `ConvNeXtBlock`.

    Example
    -------
    >>> stack = ConvNeXtStack(3, 4, width=8, num_blocks=1)
    >>> float(stack(torch.randn(2, 5, 3)).abs().max())
    0.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 256,
        num_blocks: int = 3,
        expansion: float = 2.0,
        kernel_size: int = 7,
    ):
        super().__init__()
        self.enter = nn.Linear(in_channels, width)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, expansion, kernel_size) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, out_channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, frames: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the stack.

        Arguments
        ---------
        frames : torch.Tensor
            [batch, time, in_channels], time >= 1.
        mask : torch.Tensor | None
            [batch, time, 1], 0 where an utterance has ended: its padding then looks
            to every block like the zeros beyond the end of an unpadded utterance.

        Returns
        -------
        torch.Tensor
            [batch, time, out_channels]; all zero in a new stack.
        """
        hidden = self.enter(frames)
        for block in self.blocks:
            hidden = block(hidden if mask is None else hidden * mask)
        return self.leave(self.norm(hidden))
