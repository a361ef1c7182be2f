"""Distance of two signals inside of the discriminators that hear them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class FeatureMatchingLoss(nn.Module):
    """Relative L1 distance of discriminator features (Defossez et al., 2022, eq. 2).

        1/(K L) sum_k sum_l mean |D_kl(real) - D_kl(fake)| / mean |D_kl(real)|

    Each of the L layers of K discriminators counts alike, whatever the size of its
    numbers: without the division the layer with the largest ones is all that counts,
    and it grows with the discriminator. No gradient reaches the real features.

    Arguments
    ---------
    floor : float
        Smallest mean magnitude that is divided by (> 0): features of digital silence
        may be zero.

    Example
    -------
    >>> real = [[torch.tensor([1.0, -3.0]), torch.tensor([10.0])]]
    >>> fake = [[torch.tensor([2.0, -3.0]), torch.tensor([5.0])]]
    >>> FeatureMatchingLoss()(fake, real)
    tensor(0.3750)
    """

    def __init__(self, floor: float = 1e-5) -> None:
        super().__init__()
        if not floor > 0:
            raise ValueError(
                f"FeatureMatchingLoss: floor is {floor}; above 0 is needed"
            )
        self.floor = floor

    def forward(
        self,
        fake: Sequence[Sequence[torch.Tensor]],
        real: Sequence[Sequence[torch.Tensor]],
    ) -> torch.Tensor:
        """Compare the features of a generated signal with those of the real one.

        Arguments
        ---------
        fake, real : sequence of sequence of torch.Tensor
            One list of layers per discriminator; the same shapes.

        Returns
        -------
        torch.Tensor
            Scalar, float32.

        Raises
        ------
        ValueError
            If there is nothing to compare, or the shapes differ.
        """
        shapes = [
            [[list(layer.shape) for layer in layers] for layers in side]
            for side in (fake, real)
        ]
        if shapes[0] != shapes[1] or not any(shapes[0]):
            raise ValueError(
                "FeatureMatchingLoss: fake and real need the same layers, at least "
                f"one; got {shapes[0]} and {shapes[1]}"
            )
        distances = []
        for layers, wanted in zip(fake, real, strict=True):
            for one, other in zip(layers, wanted, strict=True):
                other = other.detach().float()
                scale = other.abs().mean().clamp(min=self.floor)
                distances.append((one.float() - other).abs().mean() / scale)
        return torch.stack(distances).mean()
