"""Codes of a residual vector quantizer as bytes, as long as they are surprising.

Bottom up: `code_context` (what is known about a code), `code_net` (how likely each
code is), `code_rows` (in which order), and here what is learned, and the whole coder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from speechbrain_ext.codec import arithmetic
from speechbrain_ext.codec.code_context import MEAN_ENERGY, PARTS, code_energies
from speechbrain_ext.codec.code_net import (
    CodeNet,
    ContextNet,
    code_net,
    net_shapes,
    num_turns,
    rank_codes,
)
from speechbrain_ext.codec.code_rows import (
    MOST_BYTES,
    Search,
    code_rows,
    new_record,
    nothing_to_search,
)
from speechbrain_ext.codec.exact import ONE
from speechbrain_ext.codec.symbols import COUNT, DECODE, ENCODE
from speechbrain_ext.quantization import AdaptiveResidualVectorQuantizer
from speechbrain_ext.quantization.allocation import OCTAVES, STEPS_PER_OCTAVE
from speechbrain_ext.quantization.places import Order, fixed_order

#: Part of the energy that a code removes, on average, which its bits are worth.
BITS_WORTH = 0.5
#: Codes to learn from, at most; more change little.
MOST_CODES = 2_000_000
_BATCH = 4096
_LEARNING_RATE = 8e-3


class CodeModel(nn.Module):
    """What was learned about the codes of a quantizer: buffers, no gradient.

    Arguments
    ---------
    stages, codebook_size : int
        Of the quantizer.

    Example
    -------
    >>> model = CodeModel(stages=4, codebook_size=16)
    >>> model.nodes.shape
    torch.Size([4, 16, 16])
    """

    def __init__(self, stages: int, codebook_size: int):
        super().__init__()
        for name, (shape, dtype) in net_shapes(stages, codebook_size).items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self.rank.copy_(torch.arange(codebook_size))

    def net(self) -> CodeNet:
        """Return it as compiled code takes it."""
        return code_net(dict(self.named_buffers()))


class CodeCoder:
    """Turns codes into bytes and back.

    Arguments
    ---------
    quantizer : AdaptiveResidualVectorQuantizer or ResidualVectorQuantizer
    model : CodeModel or None
        None: all codes are equally likely.

    Example
    -------
    >>> from speechbrain_ext.quantization import ResidualVectorQuantizer
    >>> coder = CodeCoder(ResidualVectorQuantizer(8, 3, 16))
    >>> codes = np.random.default_rng(0).integers(0, 16, (3, 10))
    >>> data, rows = coder.encode(codes)
    >>> len(data), bool((coder.decode(data, 3, 10) == codes).all())
    (15, True)
    """

    def __init__(self, quantizer: nn.Module, model: CodeModel | None = None):
        stages = _stages(quantizer)
        if model is None:
            model = CodeModel(stages.num_quantizers, stages.codebook_size)
        self.net = model.net()
        self.order = order_of(quantizer)
        self.search = search_of(quantizer)

    def encode(
        self, codes: np.ndarray, *, most: int | None = None
    ) -> tuple[bytes, int]:
        """Code rows.

        Arguments
        ---------
        codes : np.ndarray
            Integers [rows, frames].
        most : int or None
            Bytes; rows that do not fit are left out, but for the first.

        Returns
        -------
        (bytes, int)
            Payload, and the number of rows in it.
        """
        latents = np.zeros((0, 0), np.float32)
        return self._encode(np.array(codes, np.int64), latents, most)

    def choose(
        self, latents: np.ndarray, rows: int, *, most: int | None = None
    ) -> tuple[bytes, int]:
        """Choose codes for latents and code them.

        Arguments
        ---------
        latents : np.ndarray
            float32 [frames, dim].
        rows : int
            At most so many.
        most : int or None
            As in `encode`.

        Returns
        -------
        (bytes, int)
            As `encode`.
        """
        codes = np.zeros((rows, len(latents)), np.int64)
        padded = np.pad(np.asarray(latents, np.float32), ((0, 0), (0, 3)))
        return self._encode(codes, padded, most)

    def _encode(self, codes, latents, most) -> tuple[bytes, int]:
        rows, frames = codes.shape
        limit = rows * frames * MOST_BYTES if most is None else max(most, 0)
        room = min(limit, rows * frames * MOST_BYTES) + frames * MOST_BYTES + 64
        coder, buffer = arithmetic.new_coder(), np.zeros(room, np.uint8)
        trace = np.zeros((rows, arithmetic.FIELDS + 1))
        found = self._rows(ENCODE, coder, buffer, codes, latents, limit, trace)
        found = max(found, 1)
        # What was written after the last row that fits is written over.
        coder[:] = trace[found - 1, : arithmetic.FIELDS]
        return buffer[: arithmetic.finish(coder, buffer)].tobytes(), found

    def decode(self, data: bytes, rows: int, frames: int) -> np.ndarray | None:
        """Undo `encode`; None if the bytes can't be of it. int64 [rows, frames]."""
        turns = num_turns(self.net.rank.shape[1])
        # No turn is surer than 65514 of 65536: what promises more codes was forged.
        if rows * frames * turns > 2066 * 8 * (len(data) + 64):
            return None
        coder, buffer = arithmetic.new_coder(), np.frombuffer(data, np.uint8).copy()
        arithmetic.start_decoding(coder, buffer)
        codes = np.zeros((rows, frames), np.int64)
        trace = np.zeros((rows, arithmetic.FIELDS + 1))
        latents = np.zeros((0, 0), np.float32)
        found = self._rows(DECODE, coder, buffer, codes, latents, 0, trace)
        return codes if found == rows else None

    def bits(self, codes: np.ndarray) -> np.ndarray:
        """Information of each row in bits, float64 [rows]."""
        codes = np.array(codes, np.int64)
        trace = np.zeros((len(codes), arithmetic.FIELDS + 1))
        nothing = np.zeros(0, np.uint8), np.zeros((0, 0), np.float32)
        coder = arithmetic.new_coder()
        self._rows(COUNT, coder, nothing[0], codes, nothing[1], 0, trace)
        return trace[:, arithmetic.FIELDS]

    def _rows(self, mode, coder, buffer, codes, latents, most, trace, record=None):
        return code_rows(
            *(mode, coder, buffer, self.net, self.order, codes, latents),
            *(self.search, most, trace, record or new_record(0)),
        )


def order_of(quantizer: nn.Module) -> Order:
    """Return the order in which a quantizer's rows refine; see `Order`."""
    if isinstance(quantizer, AdaptiveResidualVectorQuantizer):
        return quantizer.allocation.order()
    return fixed_order(quantizer.stage_groups or (0,) * quantizer.num_quantizers)


def search_of(quantizer: nn.Module) -> Search:
    """Return what codes are chosen from; nothing where their places are fixed."""
    if not isinstance(quantizer, AdaptiveResidualVectorQuantizer):
        return nothing_to_search()
    tables, sizes = quantizer.allocation, np.array(quantizer.group_sizes)
    books = quantizer.stages.bank.codebooks.detach().cpu().float()
    books = nn.functional.pad(books, (0, -books.shape[2] % 4))
    half_norms = books.square().sum(2) / 2
    groups = np.arange(len(books)) // quantizer.depth
    starts = np.cumsum(sizes) - sizes

    def prices(priority: torch.Tensor) -> np.ndarray:
        # What a code removes from such cells, by bit, and half of it: see `_choose`.
        octaves = priority.cpu().double() / STEPS_PER_OCTAVE - OCTAVES / 2
        turns = num_turns(quantizer.codebook_size)
        return (BITS_WORTH / turns / 2 * 2.0**octaves).float().numpy()

    first = prices(tables.first_priority)
    first[0] = 0  # the opening code tells where the others go: the nearest
    return Search(
        books.transpose(1, 2).contiguous().numpy(),
        half_norms.numpy(),
        *(starts[groups], sizes[groups]),
        *(prices(tables.priority), first),
    )


def learn_code_model(
    quantizer: nn.Module,
    codes: Sequence[np.ndarray],
    *,
    steps: int,
    seed: int,
    progress: Callable[[], None] | None = None,
) -> CodeModel:
    """Learn how likely codes are.

    Arguments
    ---------
    quantizer : AdaptiveResidualVectorQuantizer or ResidualVectorQuantizer
    codes : sequence of np.ndarray
        Of utterances, [rows, frames] each.
    steps : int
    seed : int
        Of first weights and batches; the global streams are left alone.
    progress : callable or None
        Called after each step.
    """
    stages = _stages(quantizer)
    count, size = stages.num_quantizers, stages.codebook_size
    books = [_book(stages, stage) for stage in range(count)]
    energies = np.stack([code_energies(book) for book in books])
    order = order_of(quantizer)
    # Relative to what a group's first code has, on average.
    mean = energies[order.before < 0, :, PARTS].mean()
    energies *= MEAN_ENERGY / max(mean, 1e-30)
    model = CodeModel(count, size)
    model.energies.copy_(
        torch.from_numpy(energies.round().clip(0, 2**31 - 1).astype(np.int64))
    )
    model.rank.copy_(torch.from_numpy(np.stack([rank_codes(book) for book in books])))
    coder = CodeCoder(quantizer, model)
    record = new_record(sum(one.size for one in codes))
    place = 0
    for one in codes:
        part = type(record)(*(x[place : place + one.size] for x in record))
        trace = np.zeros((len(one), arithmetic.FIELDS + 1))
        nothing = np.zeros(0, np.uint8), np.zeros((0, 0), np.float32)
        given = np.array(one, np.int64)
        coder._rows(
            *(COUNT, arithmetic.new_coder(), nothing[0], given, nothing[1]),
            *(0, trace, part),
        )
        place += one.size
    kept = {"steps": steps, "seed": seed, "progress": progress}
    for name, tensor in _fit(record, model.rank.long(), **kept).items():
        getattr(model, name).copy_(tensor)
    return model


def _fit(record, rank, *, steps, seed, progress) -> dict[str, torch.Tensor]:
    """Fit `ContextNet`; returns its rounded weights."""
    features = torch.from_numpy(record.features)
    stage, prev, code = map(torch.from_numpy, record[1:])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = ContextNet(rank)
        net.center(features[:: max(len(features) // 10_000, 1)].float() / ONE)
        optimizer = torch.optim.AdamW(net.parameters(), _LEARNING_RATE, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, _LEARNING_RATE, total_steps=steps
        )
        for _ in range(steps):
            chosen = torch.randint(len(stage), (_BATCH,), generator=generator)
            bits = net(
                features[chosen].float() / ONE,
                *(x[chosen].long() for x in (stage, prev, code)),
            )
            optimizer.zero_grad()
            bits.mean().backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress()
    return net.tensors()


def _stages(quantizer: nn.Module) -> nn.Module:
    """The `ResidualVectorQuantizer` that holds the codebooks."""
    return getattr(quantizer, "stages", quantizer)


def _book(stages: nn.Module, stage: int) -> np.ndarray:
    """Code vectors of a stage, float64 [codebook_size, width]."""
    book = stages.bank.book(stage, stages.subspaces.width_of(stage))
    return book.detach().cpu().double().numpy()
