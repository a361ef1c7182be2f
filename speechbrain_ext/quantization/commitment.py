"""Commitment loss, bounded with its gradient, and straight-through estimator."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable


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


class Commitment:
    r"""Commitment loss of all stages, summed up with its gradient on the way.

    Of stage i, with :math:`e_i` what it leaves of the part of the residual it codes:
    :math:`l_i = \|e_i\|^2 / (n\,dim)`. The loss is
    :math:`w \sum_i \min(l_i, limit)`, bounded by the limit again. The codes count as
    constants (van den Oord et al., 2017, eq. 3, third term), and so do the stages
    before: the gradient of :math:`l_i` is :math:`2 e_i / (n\,dim)` in that part. It
    is added up here, so that no stage keeps anything for backward.

    Arguments
    ---------
    frames : torch.Tensor
        What is quantized, [n, dim]; only its shape and device are used.
    weight : float
        Weight w of the sum.
    limit : float
        Largest value of one stage and of the loss.
    """

    def __init__(self, frames: torch.Tensor, weight: float, limit: float) -> None:
        self.weight = weight
        self.limit = limit
        self.share = 1.0 / max(frames.numel(), 1)
        self._gradient = torch.zeros_like(frames)
        self._stages: list[torch.Tensor] = []

    def add(self, subspaces, stage: int, error: torch.Tensor) -> None:
        """Count what a stage has left, [n, width]."""
        loss = torch.linalg.vector_norm(error).square() * self.share
        self._stages.append(loss)
        _, scale = bound(loss, self.limit)
        subspaces.add_(stage, self._gradient, error, scale)

    def finish(
        self,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the stages add up to.

        Returns
        -------
        loss : torch.Tensor
            Scalar, without a graph.
        gradient : torch.Tensor
            Its gradient with respect to the frames, [n, dim].
        stages : torch.Tensor
            Each stage's commitment, unbounded, [num_stages].
        saturations : torch.Tensor
            How many of the num_stages + 1 bounds were hit, int64 scalar.
        """
        stages = torch.stack(self._stages)
        bounded, _ = bound(stages, self.limit)
        total = self.weight * bounded.sum()
        loss, scale = bound(total, self.limit)
        self._gradient.mul_(scale * (2 * self.weight * self.share))
        saturations = (stages > self.limit).sum() + (total > self.limit)
        return loss, self._gradient, stages, saturations


class StraightThrough(torch.autograd.Function):
    """One straight-through estimator for all stages, with the commitment gradient.

    Forward returns the quantized frames and the loss as they were computed without a
    graph. Backward hands the gradient at the quantized frames to the latents
    unchanged (van den Oord et al., 2017, sec. 3.2) and adds the gradient of the loss.
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
