"""What all codecs of this package share: their result and their nested bitrates."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    rvq : RVQResult or None
        What the quantizer returned: codes, loss, metrics; None where there is none.
    """

    wav: torch.Tensor
    rvq: RVQResult | None


class NestedRates:
    """Bitrates of a codec whose first n quantizers are a codec of their own.

    A mix-in for modules with ``quantizer`` (``num_quantizers``, ``codebook_size``),
    ``sample_rate`` and ``hop_samples``. Rates are nominal: every code costs
    log2(codebook_size) bits, nothing is entropy-coded.
    """

    def reconstructions(
        self, wav: torch.Tensor, kbps: Sequence[float]
    ) -> dict[float, torch.Tensor]:
        """Encode [batch, time] once, and decode it at each of these rates."""
        codes = self.encode(wav, kbps=max(kbps))
        return {
            rate: self.decode(
                codes[:, : self.kbps_to_quantizers(rate)], length=wav.shape[-1]
            )
            for rate in kbps
        }

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

    def check_kbps(self, kbps: float) -> None:
        """Raise ValueError if there is no such rate; see `kbps_to_quantizers`."""
        self.kbps_to_quantizers(kbps)

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
