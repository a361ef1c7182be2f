"""What all codecs of this package share: their result and their nested bitrates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from speechbrain_ext.quantization import RVQResult


@dataclass
class CodecResult:
    """Output of a codec's forward.

    Arguments
    ---------
    wav : torch.Tensor
        Reconstruction, as many samples as went in, [batch, time].
    rvq : RVQResult
        What the quantizer returned: codes, loss, metrics.
    """

    wav: torch.Tensor
    rvq: RVQResult


class NestedRates:
    """Bitrates of a codec whose first n quantizers are a codec of their own.

    A mix-in for modules with ``quantizer`` (``num_quantizers``, ``codebook_size``),
    ``sample_rate`` and ``hop_samples``. Rates are nominal: every code costs
    log2(codebook_size) bits, nothing is entropy-coded.
    """

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    @property
    def bitrates(self) -> tuple[float, ...]:
        """Rate in kbps of the first 1, 2, ... quantizers."""
        bits = math.log2(self.quantizer.codebook_size) * self.frame_rate
        return tuple(
            (n + 1) * bits / 1000 for n in range(self.quantizer.num_quantizers)
        )

    def kbps_to_quantizers(self, kbps: float | None) -> int:
        """Most quantizers whose rate is no more than ``kbps``; None is all of them.

        Raises
        ------
        ValueError
            If not even one fits, or the rate is beyond the codec's highest.
        """
        rates = self.bitrates
        if kbps is None:
            return len(rates)
        # A millionth of slack: 0.1 + 0.2 kbps is also 0.3 kbps.
        number = sum(rate <= kbps * (1 + 1e-6) for rate in rates)
        if number == 0 or not kbps <= rates[-1] * (1 + 1e-6):
            raise ValueError(
                f"{type(self).__name__}: kbps must be between {rates[0]:g} and "
                f"{rates[-1]:g}, got {kbps:g}"
            )
        return number
