"""The straight-through estimator, and the commitment loss bounded with its gradient."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable


class StraightThrough(torch.autograd.Function):
    """One straight-through estimator for all stages, with the commitment gradient.

    Forward returns the quantized frames and the loss as they were computed without a
    graph. Backward hands the gradient at the quantized frames to the latents
    unchanged (van den Oord et al., 2017, sec. 3.2) and adds the gradient of the
    commitment loss, which the stages have summed up on their way. So nothing of the
    size of a stage is kept for backward.
    """

    @staticmethod
    def forward(
        ctx,
        frames: torch.Tensor,
        quantized: torch.Tensor,
        loss: torch.Tensor,
        gradient: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (quantized, loss), attached to frames; gradient is d loss/d frames."""
        ctx.save_for_backward(gradient)
        return quantized, loss

    @staticmethod
    @once_differentiable
    def backward(ctx, quantized_grad: torch.Tensor, loss_grad: torch.Tensor):
        """Pass the straight-through and the commitment gradient to the frames."""
        (gradient,) = ctx.saved_tensors
        return torch.addcmul(quantized_grad, gradient, loss_grad), None, None, None


def bound(value: torch.Tensor, limit: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Clamp a loss, keeping its gradient alive.

    ``value.clamp(0, limit)`` has no gradient above the limit: an encoder that has
    diverged gets no signal to come back. Here the gradient is scaled like the value,
    as if the loss were ``value * (limit / value).detach()``.

    Arguments
    ---------
    value : torch.Tensor
        A non-negative loss, any shape. NaN stays NaN.
    limit : float
        Largest value returned.

    Returns
    -------
    bounded : torch.Tensor
        ``min(value, limit)``.
    scale : torch.Tensor
        What the gradient of ``value`` has to be multiplied by, in (0, 1].

    Example
    -------
    >>> bound(torch.tensor([2.0, 40.0]), 10.0)
    (tensor([ 2., 10.]), tensor([1.0000, 0.2500]))
    """
    return value.clamp(max=limit), limit / value.clamp(min=limit)
