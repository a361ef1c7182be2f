"""Is every element of many tensors finite? Asked in few operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: Elements that one pass looks at together.
SCRATCH = 1 << 16
#: Tensors of more elements are not gathered to be looked at.
ALONE = 1 << 12


def is_float(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements can be NaN."""
    return tensor.is_floating_point() or tensor.is_complex()


def zero_or_nan(values: torch.Tensor, *, masks: bool = False) -> torch.Tensor:
    """0 where finite, NaN elsewhere; with ``masks`` also 0 where -Inf."""
    if values.is_complex():
        values = torch.view_as_real(values)
    if masks:
        values = values.clamp(min=0)
    return values * 0.0  # 0 * inf and 0 * nan are nan, and nothing overflows


class FiniteCheck:
    """A look at all elements of the same tensors, again and again, in few operations.

    Arguments
    ---------
    tensors : Sequence[torch.Tensor]
        Dense float tensors of any kind.
    alone : int
        Tensors of more elements than these are not gathered with others.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], *, alone: int = SCRATCH):
        self._tensors = list(tensors)
        self._most = alone
        self._bind()

    def _bind(self) -> None:
        """Point at the memory in which the tensors are now; small ones share a look."""
        self._pointers = list(map(torch.Tensor.data_ptr, self._tensors))
        self._alone: list[torch.Tensor] = []
        self._together: list[list[torch.Tensor]] = []
        open_groups: dict[tuple, tuple[list, int]] = {}
        for tensor in self._tensors:
            tensor = tensor.detach()
            if not tensor.numel():
                continue
            if tensor.numel() > self._most or not tensor.is_contiguous():
                self._alone.append(tensor)
                continue
            key = (tensor.dtype, tensor.device)
            parts, room = open_groups.get(key, ([], 0))
            if tensor.numel() > room:
                parts, room = [], 4 * SCRATCH
                self._together.append(parts)
            parts.append(tensor.view(-1))
            open_groups[key] = (parts, room - tensor.numel())

    def _follow(self) -> None:
        # ``parameter.data = other`` keeps the object and exchanges the memory under it.
        if list(map(torch.Tensor.data_ptr, self._tensors)) != self._pointers:
            self._bind()

    @torch.no_grad()
    def sums(self) -> list[torch.Tensor]:
        """Return scalars that are finite only if all elements are, at half the cost.

        Finite elements may have a sum that is not; then `flags` tells.
        """
        self._follow()
        found = [tensor.sum() for tensor in self._alone]
        return found + [torch.cat(parts).sum() for parts in self._together]

    @torch.no_grad()
    def flags(self) -> list[torch.Tensor]:
        """Return scalars of the tensors' dtypes: NaN if one is not finite, else 0.

        Nothing here waits for a GPU.
        """
        self._follow()
        found = [zero_or_nan(tensor).sum() for tensor in self._alone]
        return found + [zero_or_nan(torch.cat(p)).sum() for p in self._together]


def nonfinite_flag(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Look once at tensors, as `FiniteCheck`."""
    return FiniteCheck(tensors).flags()
