"""What quantizers with nested bitrates share: how many stages one call uses."""

from __future__ import annotations

import torch


class NestedStages:
    """A mix-in for modules with ``num_quantizers`` and quantizer dropout."""

    def _num_active(self, requested: int | None) -> int:
        """How many quantizers this forward uses."""
        if requested is not None:
            return self._check_count(requested)
        if not self.training or not self.quantizer_dropout:
            return self.num_quantizers
        # From torch's CPU generator, read through numpy: no device is asked.
        drop, choice = torch.rand(2).numpy()
        if drop >= self.quantizer_dropout:
            return self.num_quantizers
        return self.dropout_choices[int(choice * len(self.dropout_choices))]

    def _check_count(self, num_quantizers: int) -> int:
        if not 1 <= num_quantizers <= self.num_quantizers:
            raise ValueError(
                f"{type(self).__name__}: num_quantizers must be between 1 and "
                f"{self.num_quantizers}, got {num_quantizers}"
            )
        return num_quantizers

    def _check_codes(self, codes: torch.Tensor) -> None:
        """Refuse codes that `decode` can't have been given by `encode`."""
        who = f"{type(self).__name__}.decode"
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_quantizers:
            raise ValueError(
                f"{who}: codes must be [batch, n, time] with n from 1 to "
                f"{self.num_quantizers}, got {list(codes.shape)}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < (
            self.codebook_size
        ):
            raise ValueError(
                f"{who}: codes must lie in [0, {self.codebook_size - 1}], got "
                f"{int(codes.min())} to {int(codes.max())}; they come from another "
                "codec"
            )
