"""Losses on the waveform itself, and a bound that no value passes but gradients do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from speechbrain_ext.losses.framing import as_rows


def bounded(loss: torch.Tensor, limit: float) -> torch.Tensor:
    """Bound a loss from above and keep the direction of its gradient.

    ``clamp(loss, max=limit)`` has a zero gradient above the limit, so a model that has
    diverged stays there. This returns ``limit`` with the gradient of
    ``loss * limit / loss``, the ratio held constant: smaller the further out, never
    zero. NaN gives NaN, and so does Inf: neither is hidden.

    Arguments
    ---------
    loss : torch.Tensor
        Any shape; each element is bounded on its own.
    limit : float
        Largest value (> 0).

    Returns
    -------
    torch.Tensor
        Same shape, at most ``limit`` up to rounding.

    Example
    -------
    >>> loss = torch.tensor([2.0, 40.0], requires_grad=True)
    >>> bounded(loss, 10.0).sum().backward()
    >>> loss.grad
    tensor([1.0000, 0.2500])
    """
    if not limit > 0:
        raise ValueError(f"bounded: limit is {limit}; it must be above 0")
    with torch.no_grad():
        scale = torch.where(loss > limit, limit / loss, torch.ones_like(loss))
    return loss * scale


class WaveformL1Loss(nn.Module):
    """Mean absolute difference of two waveforms, float32 inside autocast.

    Example
    -------
    >>> WaveformL1Loss()(torch.zeros(1, 4), torch.full((1, 4), 0.5))
    tensor(0.5000)
    """

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare [batch, time] or [batch, channel, time]; returns a scalar."""
        prediction, target = as_rows(type(self).__name__, prediction, target)
        with torch.autocast(prediction.device.type, enabled=False):
            return (prediction - target).abs().mean()


class SNRLoss(nn.Module):
    """Negative signal-to-noise ratio in bels, mean over the utterances.

        log10((mean e^2 + f^2) / (mean s^2 + f^2)),   e = prediction - target

    Both powers are floored, so a silent target, or a perfect prediction, has a finite
    value and gradient. One bel is 10 dB.

    Arguments
    ---------
    floor : float
        Root-mean-square amplitude f added to both powers, linear full scale (> 0). The
        default is -80 dB below full scale.
    scale_invariant : bool
        Compare with the target scaled to fit (SI-SDR, Le Roux et al., 2019,
        https://arxiv.org/abs/1811.02508, without removing the mean).

    Example
    -------
    >>> wav = torch.sin(torch.arange(16000) / 20).unsqueeze(0)
    >>> round(SNRLoss()(0.9 * wav, wav).item(), 3)
    -2.0
    """

    def __init__(self, *, floor: float = 1e-4, scale_invariant: bool = False) -> None:
        super().__init__()
        if not floor > 0:
            raise ValueError(f"SNRLoss: floor is {floor}; it must be above 0")
        self.floor = floor
        self.scale_invariant = scale_invariant

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare [batch, time] or [batch, channel, time]; returns a scalar in bels."""
        prediction, target = as_rows(type(self).__name__, prediction, target)
        power = self.floor**2
        with torch.autocast(prediction.device.type, enabled=False):
            if self.scale_invariant:
                energy = target.square().mean(-1, keepdim=True) + power
                gain = (prediction * target).mean(-1, keepdim=True) / energy
                target = gain * target
            noise = (prediction - target).square().mean(-1) + power
            signal = target.square().mean(-1) + power
            # A difference of logarithms: the quotient could overflow where they don't.
            return (noise.log10() - signal.log10()).mean()


@dataclass(frozen=True)
class ReconstructionResult:
    """What `ReconstructionLoss` found.

    Arguments
    ---------
    total : torch.Tensor
        Weighted sum of the bounded terms, scalar.
    terms : dict of str to torch.Tensor
        Each term before weight and bound, detached, scalar.
    bounded : dict of str to torch.Tensor
        Each term after its bound, before its weight, with its gradient: for who
        weighs them otherwise (`LossBalancer`).
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    bounded: dict[str, torch.Tensor]


class ReconstructionLoss(nn.Module):
    """Weighted sum of named losses, each bounded by `bounded` so that none runs away.

    Arguments
    ---------
    terms : mapping of str to nn.Module
        Losses called with ``(prediction, target)`` that return a scalar.
    weights : mapping of str to float
        One weight per term, applied after the bound.
    limit : float
        Largest value of each term before its weight.

    Raises
    ------
    ValueError
        If terms and weights don't have the same names.

    Example
    -------
    >>> loss = ReconstructionLoss({"l1": WaveformL1Loss()}, {"l1": 10.0}, limit=1.0)
    >>> loss(torch.full((1, 8), 4.0), torch.zeros(1, 8)).total
    tensor(10.)
    >>> int(loss.saturations)
    1
    """

    def __init__(
        self,
        terms: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        limit: float = 10.0,
    ) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise ValueError(
                f"ReconstructionLoss: terms {sorted(terms)} and weights "
                f"{sorted(weights)} must have the same names, at least one"
            )
        if not limit > 0:
            raise ValueError(f"ReconstructionLoss: limit is {limit}; above 0 is needed")
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.limit = limit
        #: how often a term stood above the limit in training; a health figure, no state
        self.register_buffer("saturations", torch.zeros((), dtype=torch.int64), False)

    def health_counts(self) -> dict[str, int]:
        """Return how many terms hit their limit since `saturations` was zeroed."""
        return {"saturations": int(self.saturations)}

    def forward(
        self, prediction: torch.Tensor, target: torch.Tensor
    ) -> ReconstructionResult:
        """Compare two batches of waveforms.

        Arguments
        ---------
        prediction, target : torch.Tensor
            [batch, time] or [batch, channel, time], the same shape.

        Returns
        -------
        ReconstructionResult
            A NaN in any term is a NaN in the total.
        """
        values = {name: term(prediction, target) for name, term in self.terms.items()}
        losses = {name: bounded(value, self.limit) for name, value in values.items()}
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        terms = {name: value.detach() for name, value in values.items()}
        if self.training:
            # Without .item(): counting must not make the device wait.
            self.saturations += sum(value > self.limit for value in terms.values())
        return ReconstructionResult(total, terms, losses)
