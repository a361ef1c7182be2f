"""Losses weighed by their gradients at the model's output, not by their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import distributed, nn


class _GivenGradient(torch.autograd.Function):
    """A scalar whose gradient with respect to ``output`` is already known."""

    @staticmethod
    def forward(ctx, output, value, gradient):
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, grad_output):
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None


@dataclass(frozen=True)
class BalancedGradient:
    """What `LossBalancer` found.

    Arguments
    ---------
    gradient : torch.Tensor
        Sum of the rescaled gradients, of the output's shape, float32.
    shares : dict of str to torch.Tensor
        Norm of each rescaled gradient over the sum of these norms, scalars.
    """

    gradient: torch.Tensor
    shares: dict[str, torch.Tensor]

    def as_loss(self, value: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return a loss of this value whose backward sends the gradient to ``output``.

        Arguments
        ---------
        value : torch.Tensor
            Scalar to be shown and judged; no gradient comes from it.
        output : torch.Tensor
            Model output with its graph, of the gradient's shape.
        """
        return _GivenGradient.apply(output, value.detach(), self.gradient)


class LossBalancer(nn.Module):
    """Gives each loss a fixed share of the gradient (Defossez et al., 2022, sec. 3.4).

    With g_i the gradient of loss i with respect to the model's output, w_i its weight
    and <|g_i|> a moving average of the norm, the model gets

        sum_i R w_i / (sum_j w_j) g_i / <|g_i|>

    so that a weight is the loss' share whatever the scale of its values, and a
    discriminator that becomes sharper does not outvote the rest. Of losses that are
    not there in a batch (a discriminator that has not started) the shares go to the
    others.

    The averages are buffers. They are staged in forward and moved by
    `commit_statistics`, after the optimizer step under `NaNSafeBrain`, else at the end
    of a training forward. With several ranks the commit is a collective; EnCodec's own
    code has one within each forward. A norm that is not finite moves no average, and
    makes the gradient NaN.

    Arguments
    ---------
    weights : mapping of str to float
        By name of the loss (>= 0, one above 0).
    total_norm : float
        R, the norm that the sum of the shares has on average (> 0).
    decay : float
        Of the moving average, in [0, 1); corrected for its start as in Adam.
    per_item : bool
        Take the mean norm of the items of a batch, as EnCodec's code does; False: the
        norm over the whole batch.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Example
    -------
    >>> balancer = LossBalancer({"near": 1.0, "far": 3.0})
    >>> wav = torch.ones(1, 4, requires_grad=True)
    >>> found = balancer({"near": wav.sum(), "far": 1e6 * wav.square().sum()}, wav)
    >>> found.shares
    {'near': tensor(0.2500), 'far': tensor(0.7500)}
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        total_norm: float = 1.0,
        decay: float = 0.999,
        per_item: bool = True,
    ) -> None:
        super().__init__()
        if not weights or min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(
                "LossBalancer: weights must be >= 0 and one above 0, got "
                f"{dict(weights)}"
            )
        if not (total_norm > 0 and 0 <= decay < 1):
            raise ValueError(
                "LossBalancer: total_norm must be > 0 and decay in [0, 1), got "
                f"{total_norm} and {decay}"
            )
        self.weights = dict(weights)
        self.total_norm, self.decay, self.per_item = total_norm, decay, per_item
        #: "forward" or "step"; see `ResidualVectorQuantizer`
        self.statistics_mode = "forward"
        # One entry per loss: discounted sums of norms and of ones, what forwards add.
        for name in ("norm_sums", "norm_counts"):
            self.register_buffer(name, torch.zeros(len(weights)))
        for name in ("staged_norms", "staged_counts"):
            self.register_buffer(name, torch.zeros(len(weights)), persistent=False)

    def forward(
        self,
        losses: Mapping[str, torch.Tensor],
        output: torch.Tensor,
        scale: float | torch.Tensor = 1.0,
    ) -> BalancedGradient:
        """Differentiate all losses with respect to the output, and balance them.

        Gradients of parameters are left alone, and the graphs are kept.

        Arguments
        ---------
        losses : mapping of str to torch.Tensor
            Scalars that depend on ``output``; names of ``weights``, not all of them.
        output : torch.Tensor
            What the model made, [batch, ...].
        scale : float or torch.Tensor
            That of the GradScaler, by which the losses are multiplied on the way:
            gradients through half precision underflow without. The result is unscaled.

        Raises
        ------
        ValueError
            If a loss has no weight, or none is given.
        """
        unknown = sorted(losses.keys() - self.weights.keys())
        if unknown or not losses:
            raise ValueError(
                f"LossBalancer: weights are {self.weights}; no weight for {unknown}"
                if unknown
                else "LossBalancer: no loss to balance"
            )
        gradients = {
            name: self._differentiate(loss * scale, output).float() / scale
            for name, loss in losses.items()
        }
        with torch.no_grad():
            return self._balance(gradients)

    @staticmethod
    def _differentiate(loss: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if not loss.requires_grad:
            return torch.zeros_like(output)
        (gradient,) = torch.autograd.grad(
            loss, output, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(output) if gradient is None else gradient

    def _balance(self, gradients: dict[str, torch.Tensor]) -> BalancedGradient:
        names = list(self.weights)
        places = [names.index(name) for name in gradients]
        norms = torch.stack([self._norm(g) for g in gradients.values()])
        sums = self.decay * self.norm_sums[places] + norms
        counts = self.decay * self.norm_counts[places] + 1
        weights = norms.new_tensor([self.weights[name] for name in gradients])
        scales = self.total_norm * weights / weights.sum().clamp(min=1e-12)
        scales = scales / (sums / counts + 1e-12)
        # A norm that overflows would make a scale of 0, and hide what it came from.
        scales = torch.where(torch.isfinite(norms), scales, torch.nan)
        if self.training:
            self._stage(places, norms)
        parts = scales * norms
        shares = parts / parts.sum().clamp(min=1e-12)
        return BalancedGradient(
            sum(s * g for s, g in zip(scales, gradients.values(), strict=True)),
            dict(zip(gradients, shares, strict=True)),
        )

    def _norm(self, gradient: torch.Tensor) -> torch.Tensor:
        if not self.per_item:
            return torch.linalg.vector_norm(gradient)
        return torch.linalg.vector_norm(gradient.flatten(1), dim=1).mean()

    def _stage(self, places: list[int], norms: torch.Tensor) -> None:
        finite = torch.isfinite(norms)
        self.staged_norms[places] += torch.where(finite, norms, 0.0)
        self.staged_counts[places] += finite.float()
        if self.statistics_mode == "forward":
            self.commit_statistics()

    @torch.no_grad()
    def commit_statistics(self) -> None:
        """Move the averages by what training's forwards have staged, on all ranks."""
        staged = torch.stack([self.staged_norms, self.staged_counts])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(staged)
        norms, counts = staged
        mean = norms / counts.clamp(min=1)
        seen = counts > 0
        for total, new in (
            (self.norm_sums, mean),
            (self.norm_counts, torch.ones_like(mean)),
        ):
            total.copy_(torch.where(seen, self.decay * total + new, total))
        self.staged_norms.zero_()
        self.staged_counts.zero_()
