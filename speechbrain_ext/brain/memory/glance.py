"""A look at all tensors that forward may move: few operations, and no copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from speechbrain_ext.brain.memory.finite import ALONE, SCRATCH, is_float
from speechbrain_ext.brain.memory.identity import SameObjects
from speechbrain_ext.brain.memory.shadow import TensorShadow


class Glance:
    """Sums over the live tensors of some shadows, which all were finite at first.

    A sum is finite only if all its terms are. Finite terms may have one that is not,
    and -Inf may be allowed: a glance never says that something is wrong, only that
    everything is right.

    Arguments
    ---------
    shadows : TensorShadow
        On a CPU, with `TensorShadow.quick` prepared.

    Example
    -------
    >>> tensor = torch.ones(2)
    >>> shadow = TensorShadow([tensor])
    >>> shadow.take()
    >>> _ = shadow.spoiled_by([tensor])
    >>> glance = Glance(shadow)
    >>> [sign.item() for sign in glance.signs([tensor])]
    [0.0]
    >>> tensor[0] = torch.nan
    >>> [sign.item() for sign in glance.signs([tensor])]
    [nan]
    """

    def __init__(self, *shadows: TensorShadow):
        #: False after an alarm that was none: not asked any more.
        self.trusted = True
        self._known = SameObjects(t for shadow in shadows for t in shadow.live)
        self._fixed: list[torch.Tensor] = []
        self._large: list[torch.Tensor] = []
        small: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in [t for shadow in shadows for t in shadow.held if is_float(t)]:
            if not tensor.numel():  # sends torch.cat on a path twice as long
                self._fixed.append(tensor)
                continue
            # A vector is read through its own object, which knows where it lies now.
            if tensor.ndim != 1 or tensor.requires_grad:
                self._fixed.append(tensor)
                tensor = tensor.detach().view(-1)
            if tensor.numel() > ALONE:
                self._large.append(tensor)
            else:
                small.setdefault(tensor.dtype, []).append(tensor)
        self._small = []
        for dtype, tensors in small.items():
            count = sum(tensor.numel() for tensor in tensors)
            zeros = torch.zeros(count, dtype=dtype) if count <= SCRATCH else None
            self._small.append((tensors, zeros))
        self._pointers = list(map(torch.Tensor.data_ptr, self._fixed))

    def signs(self, now: Sequence) -> list[torch.Tensor] | None:
        """Return scalars that are all finite only if all is well.

        Arguments
        ---------
        now : Sequence
            What stands in the places of the live tensors now.

        Returns
        -------
        list[torch.Tensor] or None
            None if these are other tensors, or lie somewhere else.
        """
        if not self._known.are(now):
            return None
        if list(map(torch.Tensor.data_ptr, self._fixed)) != self._pointers:
            return None
        try:
            signs = [tensor.sum() for tensor in self._large]
            for tensors, zeros in self._small:
                values = torch.cat(tensors)
                # Of few elements a product with zeros costs less: 0 * inf is nan.
                fits = zeros is not None
                signs.append(torch.dot(values, zeros) if fits else values.sum())
        except RuntimeError:  # resized, or exchanged through ``.data``
            return None
        return signs
