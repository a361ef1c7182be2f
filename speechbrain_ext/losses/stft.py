"""Multi-resolution STFT loss: float32 in any surroundings, closed-form gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd.function import once_differentiable

from speechbrain_ext.losses.framing import (
    WindowedLoss,
    as_rows,
    margins,
    pad_mirrored,
    unpad_mirrored,
)


def log_magnitude(spec: torch.Tensor, *, floor: float = 1e-5) -> torch.Tensor:
    """Natural-log magnitude of a complex STFT; finite in value and gradient.

    Bins with ``|X| < floor`` return ``log(floor)`` and a zero gradient; elsewhere
    the gradient norm is at most ``1 / floor``.

    Arguments
    ---------
    spec : torch.Tensor
        Complex STFT, [batch, freq, time].
    floor : float
        Smallest magnitude kept apart from silence, linear full scale (> 0).

    Returns
    -------
    torch.Tensor
        Log magnitude in nepers, real, [batch, freq, time].

    Raises
    ------
    TypeError
        If ``spec`` is not complex.

    Example
    -------
    >>> log_magnitude(torch.zeros(1, 3, 2, dtype=torch.complex64)).shape
    torch.Size([1, 3, 2])
    """
    if not spec.is_complex():
        raise TypeError(f"log_magnitude: spec must be complex, got {spec.dtype}")
    power = spec.real.square() + spec.imag.square()
    # Clamp before the log, not after: log(0) has an infinite gradient even when masked.
    return 0.5 * power.clamp(min=floor**2).log()


def _floored_magnitude(spec: torch.Tensor, floor: float) -> torch.Tensor:
    """|X|, at least ``floor``; on a CPU four times as fast as ``abs``."""
    # The floor comes after the root, so that floored bins compare equal to it: the
    # gradient is made by hand, and a root of zero does no harm here.
    power = spec.real.square().addcmul_(spec.imag, spec.imag)
    return power.sqrt_().clamp_(min=floor)


class _MagnitudeDistance(torch.autograd.Function):
    """Mean distance over all grids, and its gradient, in one pass.

    With a = |X|, b = |Y| (both floored), N bins and weights s, l, m, a grid adds
        s ||a - b|| / ||b||  +  l mean |log(b / a)|  +  m mean |a - b|.
    Since da/dX = X / a above the floor and 0 on it,
        dL/dX = X/a * [ s (a - b) / (||a - b|| ||b||) + sign(a - b) (l/a + m) / N ].
    The gradient is made during the forward pass, when X, a and b are at hand: nothing
    but one waveform is kept for backward.
    """

    @staticmethod
    def forward(ctx, prediction, target, loss, windows):
        samples, needs_grad = prediction.size(-1), ctx.needs_input_grad[0]
        before, after = margins(type(loss).__name__, loss.resolutions, samples)
        prediction = pad_mirrored(prediction, before, after)
        target = pad_mirrored(target, before, after)
        grad = torch.zeros_like(prediction) if needs_grad else None
        total = prediction.new_zeros(())
        for grid, window in zip(loss.resolutions, windows, strict=True):
            start = before - grid.before
            spec = grid.spectrum(target[:, start:], samples, window)
            wanted = _floored_magnitude(spec, loss.floor)
            spec = grid.spectrum(prediction[:, start:], samples, window)
            value, spec_grad = loss.distance(spec, wanted, needs_grad)
            total += value
            if needs_grad:
                grid.add_adjoint(spec_grad, window, grad[:, start:])
        count = len(loss.resolutions)
        if needs_grad:
            ctx.save_for_backward(unpad_mirrored(grad, before, after).div_(count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        (grad,) = ctx.saved_tensors
        return grad_output * grad, None, None, None


class MultiResolutionSTFTLoss(WindowedLoss):
    """Spectral convergence and log-magnitude distance over several STFT grids.

    Yamamoto et al., 2020, sec. 2.2 (https://arxiv.org/abs/1910.11480). Value and
    gradient are those of ``auraloss.freq.MultiResolutionSTFTLoss``, departing from it
    only where that one breaks: inside autocast everything stays float32, and the
    spectral convergence of a silent target is divided by ``silence`` instead of by
    almost nothing. A NaN or Inf in either waveform makes the loss non-finite. No
    gradient reaches the target, and the gradient can't be differentiated again.

    The signal is mirrored at its ends, so it must be longer than half of the longest
    window (600 samples with the defaults); shorter ones are an error.

    Arguments
    ---------
    fft_sizes, hop_sizes, win_lengths : sequence of int
        One entry per grid, in samples.
    convergence_weight, log_weight, linear_weight : float
        Weights of the spectral convergence, of the mean distance of the natural-log
        magnitudes, and of the mean distance of the magnitudes.
    floor : float
        Smallest magnitude of a bin (> 0); below it the gradient of the bin is zero.
    silence : float
        Smallest root-mean-square magnitude that a target counts with in the spectral
        convergence.

    Example
    -------
    >>> loss = MultiResolutionSTFTLoss()
    >>> wav = torch.sin(torch.arange(8000) / 20).expand(2, 1, -1)
    >>> loss(wav, wav).item()
    0.0
    """

    def __init__(
        self,
        fft_sizes: Sequence[int] = (1024, 2048, 512),
        hop_sizes: Sequence[int] = (120, 240, 50),
        win_lengths: Sequence[int] = (600, 1200, 240),
        *,
        convergence_weight: float = 1.0,
        log_weight: float = 1.0,
        linear_weight: float = 0.0,
        floor: float = 1e-4,
        silence: float = 1e-3,
    ) -> None:
        super().__init__(fft_sizes, hop_sizes, win_lengths)
        if not (floor > 0 and silence > 0):
            raise ValueError(
                f"MultiResolutionSTFTLoss: floor is {floor}, silence is {silence}; "
                "both must be above 0"
            )
        self.convergence_weight = convergence_weight
        self.log_weight = log_weight
        self.linear_weight = linear_weight
        self.floor = floor
        self.silence = silence

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare two batches of waveforms.

        Arguments
        ---------
        prediction, target : torch.Tensor
            [batch, time] or [batch, channel, time], the same shape.

        Returns
        -------
        torch.Tensor
            Scalar, float32 (float64 for float64 waveforms).

        Raises
        ------
        ValueError
            If the shapes differ or the signal is too short.
        """
        prediction, target = as_rows(type(self).__name__, prediction, target)
        with torch.autocast(prediction.device.type, enabled=False):
            return _MagnitudeDistance.apply(
                prediction, target, self, self.constants("window", prediction)
            )

    def distance(
        self, spec: torch.Tensor, wanted: torch.Tensor, needs_grad: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Distance of one grid, and its gradient with respect to the spectrum.

        Arguments
        ---------
        spec : torch.Tensor
            Complex spectrum of the prediction, [rows, frames, bins]; overwritten by
            the gradient.
        wanted : torch.Tensor
            Floored magnitude of the target, [rows, frames, bins]; overwritten.
        needs_grad : bool
            Whether to compute the gradient.

        Returns
        -------
        tuple of torch.Tensor
            Scalar value, and the gradient [rows, frames, bins] or None.
        """
        count = wanted.numel()
        magnitude = _floored_magnitude(spec, self.floor)
        difference = magnitude - wanted
        gap = torch.linalg.vector_norm(difference)
        scale = torch.linalg.vector_norm(wanted).clamp(min=self.silence * count**0.5)
        value = self.convergence_weight * gap / scale
        if self.linear_weight:
            value = value + self.linear_weight * difference.abs().mean()
        # One logarithm per bin: |log a - log b| = |log(b / a)|.
        log_distance = wanted.div_(magnitude).log_().abs_().mean()
        value = value + self.log_weight * log_distance
        if not needs_grad:
            return value, None
        # 1 / a where the floor is not reached, else 0; wanted is only memory from here.
        inverse = torch.gt(magnitude, self.floor, out=wanted).div_(magnitude)
        factor = torch.sign(difference, out=magnitude).div_(count)
        factor.mul_(inverse * self.log_weight + self.linear_weight)
        # Where both are equal the gap is 0 and so is every difference: 0, not 0 / 0.
        per_gap = self.convergence_weight / (scale * gap.clamp(min=1e-20))
        factor.add_(difference.mul_(per_gap)).mul_(inverse)
        return value, spec.mul_(factor)
