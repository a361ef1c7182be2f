"""Copies of many tensors in preallocated memory, and what of them was spoiled."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch

from speechbrain_ext.brain.memory.finite import ALONE, SCRATCH, is_float, zero_or_nan

#: Bytes of a cache line.
_LINE = 64
_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def can_be_written(tensor: torch.Tensor) -> bool:
    """Whether a dense copy may be put back in place; if not, nobody else can either."""
    return (
        not isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin)
        and tensor.layout is torch.strided
        and not tensor.is_inference()
        and not tensor.is_quantized
        and all(s or n == 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))
    )


def _can_be_gathered(tensor: torch.Tensor) -> bool:
    """Whether a tensor is an array of elements that may be copied as bytes."""
    plain = type(tensor) in _PLAIN_TYPES and tensor.is_contiguous()
    return plain and not tensor.is_conj() and not tensor.is_neg()


def _on_cpu(kind: tuple) -> bool:
    return kind[1].type == "cpu"


class TensorShadow:
    """Copies of a list of tensors in preallocated memory, one flat block per kind.

    Arguments
    ---------
    tensors : Sequence[torch.Tensor]
        The live tensors, any shapes, dtypes and devices. Those that can't be written
        in place (sparse, expanded, made in inference mode) are not copied.
    masks : bool
        -Inf is an ordinary value of these tensors: attention masks are made of it.

    Many small tensors are gathered by one ``torch.cat``, on a GPU by one a dtype, which
    costs a fifth of as many copies. Nothing here waits for a GPU.
    """

    def __init__(self, tensors: Sequence[torch.Tensor] = (), *, masks: bool = False):
        self.masks = masks
        self._allocate(list(tensors))

    def _allocate(self, tensors: list[torch.Tensor]) -> None:
        self.live = tensors
        self.places = [i for i, t in enumerate(tensors) if can_be_written(t)]
        self.held = [tensors[place] for place in self.places]
        self.layout = [self._kind(t) for t in self.held]
        #: Indices into ``held``: gathered by kind, and those copied one by one.
        self._groups: dict[tuple, list[int]] = {}
        self._odd: list[int] = []
        for index, tensor in enumerate(self.held):
            if _can_be_gathered(tensor):
                key = (tensor.dtype, tensor.device)
                self._groups.setdefault(key, []).append(index)
            else:
                self._odd.append(index)
        # The largest ones first, where a cache line begins: a copy that lies askew to
        # its original may take five times as long.
        for group in self._groups.values():
            group.sort(key=lambda index: -self.held[index].numel())
        self.blocks = {}
        copies = {}
        for key, block in self._blocks().items():
            self.blocks[key] = block
            group = self._groups[key]
            sizes = [self.held[index].numel() for index in group]
            for index, part in zip(group, block.split(sizes), strict=True):
                copies[index] = part.view(self.held[index].shape)
        for index in self._odd:
            copies[index] = torch.empty_like(self.held[index].detach())
        #: Copies of ``held``, in its order.
        self.copies = [copies[index] for index in range(len(self.held))]
        self._exempt: dict | None = None
        self._after: TensorShadow | None = None
        self._zeros: dict = {}
        self._bind()

    def _blocks(self) -> dict[tuple, torch.Tensor]:
        """Allocate a block for each group; on the CPU all in one piece."""
        counts = {
            key: sum(self.held[index].numel() for index in group)
            for key, group in self._groups.items()
        }
        sizes = {key: key[0].itemsize * n for key, n in counts.items() if _on_cpu(key)}
        #: Bytes behind each block, so that the next one begins a cache line.
        self._gaps = {key: -size % _LINE for key, size in sizes.items()}
        rooms = [size + self._gaps[key] for key, size in sizes.items()]
        self._bytes = torch.empty(sum(rooms), dtype=torch.uint8)
        rooms = dict(zip(sizes, self._bytes.split(rooms), strict=True))
        return {
            key: rooms[key][: sizes[key]].view(key[0])
            if key in rooms
            else torch.empty(count, dtype=key[0], device=key[1])
            for key, count in counts.items()
        }

    @staticmethod
    def _kind(tensor: torch.Tensor) -> tuple:
        return (tensor.dtype, tensor.device, tensor.shape, tensor.is_contiguous())

    def _bind(self) -> None:
        """Point at the memory in which the live tensors are now."""
        self._gathers = []
        whole: list[torch.Tensor] = []
        for key, group in self._groups.items():
            parts = [self.held[i].detach().view(-1) for i in group]
            # One empty tensor alone sends torch.cat on a path that takes twice as long.
            parts = [part for part in parts if part.numel()]
            if _on_cpu(key):
                whole += [part.view(torch.uint8) for part in parts]
                if self._gaps[key]:
                    whole.append(torch.zeros(self._gaps[key], dtype=torch.uint8))
            elif parts:
                self._gathers.append((parts, self.blocks[key]))
        if whole:
            self._gathers.append((whole, self._bytes))
        self._gathered = [self.held[i] for g in self._groups.values() for i in g]
        self._pointers = list(map(torch.Tensor.data_ptr, self._gathered))
        #: How to look at the live tensors where they are; None: first look thoroughly.
        self.quick: list[tuple] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(copy.numel() * copy.element_size() for copy in self.copies)

    def matches(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether ``tensors`` are the very objects this shadow was made for."""
        return len(tensors) == len(self.live) and all(
            map(operator.is_, tensors, self.live)
        )

    def follow(self, tensors: Sequence[torch.Tensor]) -> None:
        """Shadow these tensors from now on; in the same memory, if they fit it."""
        if self.matches(tensors):
            return
        tensors = list(tensors)
        places = [i for i, t in enumerate(tensors) if can_be_written(t)]
        held = [tensors[place] for place in places]
        if places != self.places or [self._kind(t) for t in held] != self.layout:
            self._allocate(tensors)
            return
        self.live, self.held = tensors, held
        self._bind()

    def release(self) -> None:
        """Let go of the live tensors; the memory waits for `follow`."""
        self.live, self.held = [], []
        self._gathers, self._gathered, self._pointers = [], [], []
        self._after = self.quick = None

    def take(self) -> None:
        """Copy the live tensors into the shadow."""
        # ``buffer.data = other`` keeps the object and exchanges the memory under it.
        if list(map(torch.Tensor.data_ptr, self._gathered)) != self._pointers:
            if [self._kind(t) for t in self.held] == self.layout:
                self._bind()
            else:
                self._allocate(self.live)
        for parts, block in self._gathers:
            if len(parts) == 1:
                block.copy_(parts[0])
            else:
                torch.cat(parts, out=block)
        if self._odd and self.held:
            with torch.no_grad():
                torch._foreach_copy_(
                    [self.copies[i] for i in self._odd],
                    [self.held[i] for i in self._odd],
                )

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the shadow back into the live tensors."""
        if not self.held:
            return
        for tensor, (dtype, device, shape, _), copy in zip(
            self.held, self.layout, self.copies, strict=True
        ):
            if (tensor.dtype, tensor.device, tensor.shape) != (dtype, device, shape):
                tensor.data = copy.clone()  # resized, or exchanged through ``.data``
        torch._foreach_copy_(self.held, self.copies)

    def spoiled_by(self, now: Sequence) -> list[torch.Tensor]:
        """Look for elements that were finite when first taken and are not any more.

        Arguments
        ---------
        now : Sequence
            What stands in the places of the live tensors now.

        Returns
        -------
        list[torch.Tensor]
            Scalars that are 0, or NaN where there is such an element; no sync.
        """
        if self.quick is not None and self.matches(now):
            if list(map(torch.Tensor.data_ptr, self._gathered)) == self._pointers:
                return self._look_quickly()
        with torch.no_grad():
            return self._look_thoroughly(now)

    def _look_thoroughly(self, now: Sequence) -> list[torch.Tensor]:
        """Look for it whatever the tensors are, and whatever was bad before."""
        floats = {key: block for key, block in self.blocks.items() if is_float(block)}
        if self._exempt is None:
            self._exempt = {k: self._spoiled_already(b) for k, b in floats.items()}
            self._float_places = [
                self.places[i] for key in floats for i in self._groups[key]
            ]
            self._odd_floats = [i for i in self._odd if is_float(self.held[i])]
        scalars = self._spoiled_one_by_one(
            [(self.copies[i], now[self.places[i]]) for i in self._odd_floats]
        )
        if not floats:
            return scalars
        self._prepare_quick_look()
        after = [now[place] for place in self._float_places]
        if self._after is None:
            self._after = TensorShadow([self.live[p] for p in self._float_places])
        if not self._after.matches(after):
            kinds = self._after.layout
            if not all(isinstance(tensor, torch.Tensor) for tensor in after) or (
                [self._kind(t) for t in after] != kinds
            ):
                copies = dict(zip(self.places, self.copies, strict=True))
                return scalars + self._spoiled_one_by_one(
                    [
                        (copies[p], t)
                        for p, t in zip(self._float_places, after, strict=True)
                    ]
                )
            self._after.follow(after)
        self._after.take()
        if list(self._after.blocks) != list(floats) or any(
            self._after.blocks[key].shape != block.shape
            for key, block in floats.items()
        ):  # a tensor became one that can't be written, or changed under ``.data``
            copies = dict(zip(self.places, self.copies, strict=True))
            return scalars + self._spoiled_one_by_one(
                [(copies[p], now[p]) for p in self._float_places]
            )
        for key, exempt in self._exempt.items():
            block = self._after.blocks[key]
            if exempt is None:
                scalars.append(self._zero_or_nan_sum(block))
                continue
            found = zero_or_nan(block, masks=self.masks)
            scalars.append(found.masked_fill_(exempt, 0.0).sum())
        return scalars

    def _prepare_quick_look(self) -> None:
        """Prepare `_look_quickly`: all was finite at first, and lies on the CPU."""
        if self._odd_floats or any(
            exempt is not None or self.blocks[key].is_complex()
            for key, exempt in self._exempt.items()
        ):
            return
        self.quick = []
        for key in self._exempt:
            block = self.blocks[key]
            parts = [self.held[i].detach().view(-1) for i in self._groups[key]]
            # A mask is clamped, which needs a copy anyway.
            small = [p for p in parts if self.masks or p.numel() <= ALONE]
            large = [p for p in parts if not self.masks and p.numel() > ALONE]
            for several in ([small] if small else []) + [[part] for part in large]:
                size = sum(part.numel() for part in several)
                zeros = self._zeros_for(block, size) if size <= SCRATCH else None
                self.quick.append((several, zeros))

    def _look_quickly(self) -> list[torch.Tensor]:
        """Look at the live tensors where they are; only small ones are gathered."""
        scalars = []
        for parts, zeros in self.quick:
            values = torch.cat(parts) if len(parts) > 1 else parts[0]
            if zeros is None:
                scalars.append(self._zero_or_nan_sum(values))
                continue
            if self.masks:
                values = values.clamp(min=0)
            scalars.append(torch.dot(values, zeros))
        return scalars

    def _zero_or_nan_sum(self, values: torch.Tensor) -> torch.Tensor:
        """0, or NaN if an element is not as it may be."""
        if values.is_complex() or values.device.type != "cpu":
            return zero_or_nan(values, masks=self.masks).sum()
        if self.masks:
            values = values.clamp(min=0)
        # One small operation without a copy; x * 0 is NaN where x is not finite.
        if values.numel() <= SCRATCH:
            return torch.dot(values, self._zeros_for(values, values.numel()))
        zeros = self._zeros_for(values, SCRATCH)
        return sum(
            torch.dot(part, zeros[: part.numel()]) for part in values.split(SCRATCH)
        )

    def _zeros_for(self, values: torch.Tensor, size: int) -> torch.Tensor:
        """So many zeros of this dtype; all share the same memory."""
        zeros = self._zeros.get(values.dtype)
        if zeros is None or zeros.numel() < size:
            zeros = self._zeros[values.dtype] = values.new_zeros(size)
        return zeros[:size]

    def _spoiled_already(self, block: torch.Tensor) -> torch.Tensor | None:
        """Mark the elements that are not finite, or return None if all are."""
        found = zero_or_nan(block, masks=self.masks).isnan()
        # Buffers keep their identity, so this is asked once, and it halves the cost
        # of large codebooks; on a GPU the answer would cost a wait.
        if block.device.type == "cpu" and not found.any():
            return None
        return found

    def _spoiled_one_by_one(self, pairs: list[tuple]) -> list[torch.Tensor]:
        """As `spoiled_by`, where a tensor was exchanged for one of another kind."""
        scalars = []
        for before, after in pairs:
            if (
                isinstance(after, torch.Tensor)
                and after.layout is torch.strided
                and is_float(after)
            ):
                spoiled = zero_or_nan(after.detach(), masks=self.masks).sum()
                known = zero_or_nan(before, masks=self.masks).sum().isnan()
                scalars.append(spoiled.masked_fill(known.to(spoiled.device), 0.0))
        return scalars
