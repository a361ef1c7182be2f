"""What the quantizer returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RVQResult:
    """What `ResidualVectorQuantizer` returns.

    Attributes
    ----------
    quantized : torch.Tensor
        Sum of the code vectors, [batch, time, dim], in the latents' dtype; gradients
        pass straight through to the latents. A frame that was not finite is NaN.
    codes : torch.Tensor
        [batch, num_quantizers, time], int64. The code of a frame that was not finite
        means nothing.
    loss : torch.Tensor
        Weighted commitment loss, scalar, float32, in [0, commitment_limit]; NaN if a
        frame was not finite. Its gradient goes to the latents only.
    metrics : dict[str, torch.Tensor]
        Detached tensors on the latents' device, computed without asking the device.
        Of the n active quantizers: ``usage`` [n] (fraction of the codes used in this
        batch), ``perplexity`` [n] (exp of the entropy of the codes, in nats),
        ``commitment`` [n] (unweighted, unbounded). Scalars: ``saturations`` (how many
        of the n + 1 bounds of the loss were hit), ``invalid_frames``, ``revived``
        (dead codes revived since the quantizer was made).
    """

    quantized: torch.Tensor
    codes: torch.Tensor
    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


def code_statistics(counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Usage and perplexity, [n] each, from code counts, [n, codebook_size].

    Example
    -------
    >>> code_statistics(torch.tensor([[2.0, 2.0, 0.0, 0.0]]))
    {'usage': tensor([0.5000]), 'perplexity': tensor([2.])}
    """
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    entropy = -torch.special.xlogy(share, share).sum(1)
    return {"usage": (counts > 0).float().mean(1), "perplexity": entropy.exp()}
