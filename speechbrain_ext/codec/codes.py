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
    Record,
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

#: Part of the energy that a code removes, on average, which its bits are worth: when
#: files are made; and when codes are chosen to learn from, which then are more alike.
BITS_WORTH, LEARNING_WORTH = 0.2, 0.35
#: Codes to learn from, at most; more change little.
MOST_CODES = 2_000_000
_BATCH = 4096
#: ... and of few codes a batch holds no more than this part.
_LARGEST_PART = 8
_LEARNING_RATE, _WEIGHT_DECAY = 8e-3, 0.1


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
    bits_worth : float
        See `BITS_WORTH`; 0: the nearest codes are chosen.

    Example
    -------
    >>> from speechbrain_ext.quantization import ResidualVectorQuantizer
    >>> coder = CodeCoder(ResidualVectorQuantizer(8, 3, 16))
    >>> codes = np.random.default_rng(0).integers(0, 16, (3, 10))
    >>> data, rows = coder.encode(codes)
    >>> len(data), bool((coder.decode(data, 3, 10) == codes).all())
    (15, True)
    """

    def __init__(
        self,
        quantizer: nn.Module,
        model: CodeModel | None = None,
        bits_worth: float = BITS_WORTH,
    ):
        self.net = (model or new_code_model(quantizer)).net()
        self.order = order_of(quantizer)
        self.search = search_of(quantizer, bits_worth)

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
        return self._encode(codes, _padded(latents), most)

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

    def bits(self, codes: np.ndarray, record: Record | None = None) -> np.ndarray:
        """Information of each row in bits, float64 [rows].

        Arguments
        ---------
        codes : np.ndarray
            Integers [rows, frames].
        record : Record or None
            Where to write down what is known of each code.
        """
        codes = np.array(codes, np.int64)
        return self._count(codes, np.zeros((0, 0), np.float32), record)

    def chosen(self, latents: np.ndarray, rows: int) -> np.ndarray:
        """Return codes as `choose` chooses them, int64 [rows, frames]."""
        codes = np.zeros((rows, len(latents)), np.int64)
        self._count(codes, _padded(latents))
        return codes

    def _count(self, codes, latents, record=None) -> np.ndarray:
        trace = np.zeros((len(codes), arithmetic.FIELDS + 1))
        coder, buffer = arithmetic.new_coder(), np.zeros(0, np.uint8)
        self._rows(COUNT, coder, buffer, codes, latents, 0, trace, record)
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


def search_of(quantizer: nn.Module, bits_worth: float) -> Search:
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
        return (bits_worth / turns / 2 * 2.0**octaves).float().numpy()

    first = prices(tables.first_priority)
    first[0] = 0  # the opening code tells where the others go: the nearest
    return Search(
        books.transpose(1, 2).contiguous().numpy(),
        half_norms.numpy(),
        *(starts[groups], sizes[groups]),
        *(prices(tables.priority), first),
    )


def new_code_model(quantizer: nn.Module) -> CodeModel:
    """Return the model of a quantizer's codes before it has learned anything."""
    stages = _stages(quantizer)
    return CodeModel(stages.num_quantizers, stages.codebook_size)


class CodeLearner:
    """Learns how likely codes are, from utterances that are coded.

    Arguments
    ---------
    quantizer : AdaptiveResidualVectorQuantizer or ResidualVectorQuantizer
    seed : int
        Of first weights and batches; the global streams are left alone.
    """

    def __init__(self, quantizer: nn.Module, seed: int):
        self.quantizer = quantizer
        self.start = new_code_model(quantizer)
        stages = _stages(quantizer)
        books = [_book(stages, stage) for stage in range(stages.num_quantizers)]
        energies = np.stack([code_energies(book) for book in books])
        # Relative to what a cell's first code has, on average.
        firsts = order_of(quantizer).before < 0
        energies *= MEAN_ENERGY / max(energies[firsts, :, PARTS].mean(), 1e-30)
        whole = energies.round().clip(0, 2**31 - 1).astype(np.int64)
        self.start.energies.copy_(torch.from_numpy(whole))
        rank = torch.from_numpy(np.stack([rank_codes(book) for book in books]))
        self.start.rank.copy_(rank)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = ContextNet(rank)
        self.centered = False

    def fit(
        self,
        codes: Sequence[np.ndarray],
        *,
        steps: int,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Fit the network to codes of utterances, [rows, frames] each.

        Arguments
        ---------
        codes : sequence of np.ndarray
        steps : int
        progress : callable or None
            Called after each step.
        """
        features, *columns = self._examples(codes)
        if not self.centered:
            few = features[:: max(len(features) // 10_000, 1)]
            self.net.center(few.float() / ONE)
            self.centered = True
        optimizer = torch.optim.AdamW(
            self.net.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, _LEARNING_RATE, total_steps=steps + 1
        )
        size = min(_BATCH, -(-len(features) // _LARGEST_PART))
        for _ in range(steps):
            chosen = torch.randint(len(features), (size,), generator=self.generator)
            with torch.enable_grad():
                bits = self.net(
                    features[chosen].float() / ONE, *(x[chosen].long() for x in columns)
                ).mean()
                optimizer.zero_grad()
                bits.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress()

    def model(self) -> CodeModel:
        """Return what was learned, rounded."""
        found = new_code_model(self.quantizer)
        found.energies.copy_(self.start.energies)
        for name, tensor in self.net.tensors().items():
            getattr(found, name).copy_(tensor)
        return found

    def _examples(self, codes) -> tuple[torch.Tensor, ...]:
        coder = CodeCoder(self.quantizer, self.start)
        record, place = new_record(sum(one.size for one in codes)), 0
        for one in codes:
            part = type(record)(*(x[place : place + one.size] for x in record))
            coder.bits(one, part)
            place += one.size
        return tuple(map(torch.from_numpy, record))


def _stages(quantizer: nn.Module) -> nn.Module:
    """Return the `ResidualVectorQuantizer` that holds the codebooks."""
    return getattr(quantizer, "stages", quantizer)


def _book(stages: nn.Module, stage: int) -> np.ndarray:
    """Code vectors of a stage, float64 [codebook_size, width]."""
    book = stages.bank.book(stage, stages.subspaces.width_of(stage))
    return book.detach().cpu().double().numpy()


def _padded(latents: np.ndarray) -> np.ndarray:
    """Latents as `code_rows` takes them: a copy with three zeros behind each frame."""
    return np.pad(np.asarray(latents, np.float32), ((0, 0), (0, 3)))
