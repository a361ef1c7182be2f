"""RVQ whose codes go where the signal needs them, decided by the codes before.

A fixed-rate RVQ spends as much on a pause as on a vowel. Here every frame still has
``num_quantizers`` code slots, but what a slot refines, i.e. which group of which frame
of the utterance, follows from the codes in the slots before it. The decoder knows those
too, so nothing is sent beside the codes ("backward adaptation", as old as ADPCM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from speechbrain_ext.quantization.commitment import bound
from speechbrain_ext.quantization.result import RVQResult
from speechbrain_ext.quantization.rvq import ResidualVectorQuantizer

#: Steps of the integer priorities per factor of two in energy. Integers, because
#: encoder and decoder must order alike on whatever machine each of them runs.
_STEPS_PER_OCTAVE = 16
_OCTAVES = 64
#: Priority of a cell that has no stage left, and of one beyond the utterance's end.
_EXHAUSTED, _OUTSIDE = 0, -1


@dataclass
class _Plan:
    """What each slot refines; all [batch, num_quantizers, time], int64.

    ``frame`` and ``stage`` of a slot that refines nothing are ``time`` and 0.
    """

    frame: torch.Tensor
    stage: torch.Tensor
    codes: torch.Tensor


class AdaptiveResidualVectorQuantizer(nn.Module):
    r"""Grouped RVQ that orders its codes by the error each is expected to remove.

    A *cell* is one group of dimensions in one frame; each group has ``depth`` stages
    of its own. Row r of the codes takes the ``time`` cells with the highest priority,
    in order of time, and refines each by one stage. The priority of a cell is the
    energy that its next stage removed from the training frames that had the same
    code in the stage before (for the first stage of a group: in the first stage of
    group 0, which is always row 0). Rows are nested: the first n are a codec.

    This is the greedy form of reverse water-filling (Cover & Thomas, 2006, sec.
    10.3.3) over time and frequency, with a table of 2^8 classes per stage as model of
    the signal. Its price: a code belongs to no fixed frame (only to one utterance, in
    order of time within its row), so whole utterances are coded, and one wrong code
    spoils what follows. Where codes must be frames (tokens of a language model,
    streaming) use `ResidualVectorQuantizer` with the same groups.

    Arguments
    ---------
    dim : int
        Dimensions of a latent frame.
    num_quantizers : int
        Rows of codes, i.e. codes per frame on average.
    codebook_size : int
        Codes per stage.
    group_sizes : Sequence[int]
        Widths of the groups, most important first; they add up to ``dim``.
    depth : int
        Stages per group.
    noise_shaping : float
        0: least squared error. Above: cells that start with more energy may keep more
        error, its logarithm in proportion; 1 would give all cells the same SNR. Moves
        bits from the loud to the soft: less SNR, a more even quality. In [0, 1).
    commitment_weight, commitment_limit : float
        Weight and bound of the loss: mean squared distance of latents and quantized.
    quantizer_dropout, dropout_choices
        As in `ResidualVectorQuantizer`.
    **options
        Further options of the `ResidualVectorQuantizer` that holds the codebooks.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> rvq = AdaptiveResidualVectorQuantizer(8, 4, 16, group_sizes=[4, 4], depth=3)
    >>> loud_then_soft = torch.randn(2, 400, 8)
    >>> loud_then_soft[:, 200:] *= 0.01
    >>> rvq.initialize(loud_then_soft)
    >>> codes = rvq.eval().encode(loud_then_soft, num_quantizers=3)
    >>> codes.shape
    torch.Size([2, 3, 400])
    >>> torch.equal(rvq.decode(codes), rvq(loud_then_soft, 3).quantized)
    True
    """

    def __init__(
        self,
        dim: int,
        num_quantizers: int,
        codebook_size: int,
        *,
        group_sizes: Sequence[int],
        depth: int = 8,
        noise_shaping: float = 0.0,
        commitment_weight: float = 0.25,
        commitment_limit: float = 10.0,
        quantizer_dropout: float = 0.0,
        dropout_choices: Sequence[int] | None = None,
        **options,
    ) -> None:
        super().__init__()
        num_groups = len(group_sizes)
        if not 1 <= num_quantizers <= num_groups * depth:
            raise ValueError(
                "AdaptiveResidualVectorQuantizer: num_quantizers must be between 1 and "
                f"groups x depth = {num_groups * depth}, got {num_quantizers}"
            )
        if not 0 <= noise_shaping < 1:
            raise ValueError(
                "AdaptiveResidualVectorQuantizer: noise_shaping must be in [0, 1), got "
                f"{noise_shaping}"
            )
        self.dim = dim
        self.noise_shaping = noise_shaping
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.depth = depth
        self.num_groups = num_groups
        self.group_sizes = tuple(group_sizes)
        self.commitment_weight = commitment_weight
        self.commitment_limit = commitment_limit
        self.quantizer_dropout = quantizer_dropout
        self.dropout_choices = tuple(dropout_choices or range(1, num_quantizers + 1))
        self.stages = ResidualVectorQuantizer(
            dim,
            num_groups * depth,
            codebook_size,
            group_sizes=group_sizes,
            stage_groups=[group for group in range(num_groups) for _ in range(depth)],
            **options,
        )
        # priority[stage, code]: of stage + 1 of the same cell. Before `initialize`:
        # all groups in turn, whatever the code, which is an ordinary grouped RVQ.
        turn = torch.arange(depth, 0, -1).repeat(num_groups) + 1
        table = (turn - 1)[:, None].repeat(1, codebook_size)
        first = torch.full((num_groups, codebook_size), depth + 1)
        first[0] += 1  # group 0 of all frames is row 0
        self.register_buffer("priority", table)
        self.register_buffer("first_priority", first)
        # energy[group, opening code]: of a cell before anything is coded, as priority.
        self.register_buffer("energy", torch.zeros_like(first))
        # Mean square per dimension that is left: where nothing was sent, by group and
        # opening code; after a stage, by the code of that stage.
        self.register_buffer("unsent_error", torch.zeros(num_groups, codebook_size))
        self.register_buffer("stage_error", torch.zeros(*table.shape))
        self._forbid_below_last_stage()

    @property
    def statistics_mode(self) -> str:
        """When statistics are committed, see `ResidualVectorQuantizer`."""
        return self.stages.statistics_mode

    @statistics_mode.setter
    def statistics_mode(self, mode: str) -> None:
        self.stages.statistics_mode = mode

    def commit_statistics(self) -> None:
        """See `ResidualVectorQuantizer`."""
        self.stages.commit_statistics()

    def discard_statistics(self) -> None:
        """See `ResidualVectorQuantizer`."""
        self.stages.discard_statistics()

    def kbps(self, num_quantizers: int, frame_rate: float) -> float:
        """Nominal rate of the first rows, see `ResidualVectorQuantizer`."""
        return self.stages.kbps(num_quantizers, frame_rate)

    def forward(
        self,
        latents: torch.Tensor,
        num_quantizers: int | None = None,
        num_frames: torch.Tensor | None = None,
    ) -> RVQResult:
        """Quantize; in training also stage statistics.

        Arguments
        ---------
        latents : torch.Tensor
            [batch, time, dim].
        num_quantizers : int | None
            Rows used; None: all, or what quantizer dropout draws.
        num_frames : torch.Tensor | None
            Frames of each item, [batch]; frames beyond get no code and zero vectors.

        Returns
        -------
        RVQResult
            ``codes`` are slots, see the class; slots of padding hold 0. Metrics of
            the stages (group after group), and ``expected_error`` as in
            `decode_with_error`.
        """
        rows = self._num_rows(num_quantizers)
        with torch.autocast(latents.device.type, enabled=False):
            frames = latents.float()
            inner = self.stages(frames)
            plan = self._plan(inner.codes, rows, num_frames, slots=None)
            quantized, left = self._reconstruct(plan, latents.shape[1])
            loss = self.commitment_weight * (frames - quantized).square().mean()
            _, scale = bound(loss.detach(), self.commitment_limit)
            # Straight through, exact in value; NaN where a frame is not finite.
            quantized = quantized + (frames - frames.detach())
        metrics = inner.metrics | {"expected_error": left}
        return RVQResult(
            quantized.to(latents.dtype), plan.codes, loss * scale, metrics
        )

    @torch.no_grad()
    def encode(
        self,
        latents: torch.Tensor,
        num_quantizers: int | None = None,
        num_frames: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Codes of latents, [batch, num_quantizers, time]; arguments of `forward`."""
        rows = self._check_rows(num_quantizers or self.num_quantizers)
        return self._plan(
            self.stages.encode(latents), rows, num_frames, slots=None
        ).codes

    @torch.no_grad()
    def decode(
        self, codes: torch.Tensor, num_frames: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum of the code vectors, [batch, time, dim]; see `decode_with_error`."""
        return self.decode_with_error(codes, num_frames)[0]

    @torch.no_grad()
    def decode_with_error(
        self, codes: torch.Tensor, num_frames: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the code vectors, and how far off it is likely to be.

        Arguments
        ---------
        codes : torch.Tensor
            [batch, n, time], the first n rows of what `encode` returned.
        num_frames : torch.Tensor | None
            As given to `encode`.

        Returns
        -------
        quantized : torch.Tensor
            [batch, time, dim], float32.
        error : torch.Tensor
            Mean square error per dimension that training frames with these codes had,
            [batch, time, num_groups]. All zero before `initialize`.

        Raises
        ------
        ValueError
            If the shape does not fit or a code is out of range.
        """
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_quantizers:
            raise ValueError(
                "AdaptiveResidualVectorQuantizer.decode: codes must be [batch, n, time]"
                f" with n from 1 to {self.num_quantizers}, got {list(codes.shape)}"
            )
        if codes.numel() and not (
            0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size
        ):
            raise ValueError(
                "AdaptiveResidualVectorQuantizer.decode: codes must lie in [0, "
                f"{self.codebook_size - 1}]; they come from another codec"
            )
        plan = self._plan(None, codes.shape[1], num_frames, slots=codes.long())
        return self._reconstruct(plan, codes.shape[2])

    @torch.no_grad()
    def initialize(
        self, frames: torch.Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Codebooks by k-means, then the priorities from the same frames.

        Arguments
        ---------
        frames : torch.Tensor
            [..., dim]; rows that are not finite are left out.
        generator : torch.Generator | None
            For k-means, on the CPU.
        """
        frames = frames.detach().reshape(-1, frames.shape[-1]).float()
        self.stages.initialize(frames, generator)
        frames = frames[frames.square().sum(1).isfinite()]
        frames = frames.to(self.priority.device)
        codes = self.stages.encode(frames[None])[0]
        opening = codes[0]
        start = 0
        for group, size in enumerate(self.group_sizes):
            rest = frames[:, start : start + size].clone()
            start += size
            table = self._mean_by_code(rest.square().sum(1), opening)
            self.energy[group] = self._as_priority(table)
            self.unsent_error[group] = table / size
            for level in range(self.depth):
                stage = group * self.depth + level
                before = rest.square().sum(1)
                book = self.stages.bank.book(stage, size)
                rest = rest - book.index_select(0, codes[stage])
                left = rest.square().sum(1)
                removed = before - left
                table = self._mean_by_code(left, codes[stage])
                self.stage_error[stage] = table / size
                if level:
                    table = self._mean_by_code(removed, codes[stage - 1])
                    self.priority[stage - 1] = self._as_priority(table)
                elif group:
                    table = self._mean_by_code(removed, opening)
                    self.first_priority[group] = self._as_priority(table)
        self.first_priority[0] = _STEPS_PER_OCTAVE * _OCTAVES  # always row 0
        self._forbid_below_last_stage()

    def _mean_by_code(self, removed: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Mean energy removed per class, drawn to the overall mean where rare."""
        counts = torch.bincount(codes, minlength=self.codebook_size).to(removed)
        sums = torch.zeros_like(counts).index_add_(0, codes, removed)
        return (sums + 4 * removed.mean()) / (counts + 4)

    def _as_priority(self, energy: torch.Tensor) -> torch.Tensor:
        """Logarithm of an energy in integer steps, >= 1."""
        steps = energy.double().clamp(min=2.0**-40).log2() + _OCTAVES / 2
        return (steps * _STEPS_PER_OCTAVE).round().long().clamp(1, 2**10 - 1)

    def _forbid_below_last_stage(self) -> None:
        self.priority.view(self.num_groups, self.depth, -1)[:, -1] = _EXHAUSTED

    @torch.no_grad()
    def _plan(
        self,
        codes: torch.Tensor | None,
        rows: int,
        num_frames: torch.Tensor | None,
        slots: torch.Tensor | None,
    ) -> _Plan:
        """Walk through the rows, as encoder or as decoder.

        Arguments
        ---------
        codes : torch.Tensor | None
            Encoder: codes of all stages of all cells, [batch, stages, time].
        rows : int
            How many rows.
        num_frames : torch.Tensor | None
            Frames of each item.
        slots : torch.Tensor | None
            Decoder: the codes received, [batch, rows, time].
        """
        given = codes if slots is None else slots
        batch, _, time = given.shape
        groups, device = self.num_groups, given.device
        cells = time * groups
        position = torch.arange(time, device=device)
        allowance = torch.zeros(batch, cells + time, dtype=torch.int64, device=device)
        # One more cell per slot, for slots that refine nothing.
        level = torch.zeros(batch, cells + time, dtype=torch.int64, device=device)
        priority = self.first_priority[:, 0].repeat(time).repeat(batch, 1)
        if num_frames is not None:
            outside = position >= num_frames.to(device)[:, None]
            outside = outside.repeat_interleave(groups, dim=1)
            priority = priority.masked_fill(outside, _OUTSIDE)
        priority = torch.cat([priority, priority.new_full((batch, time), -2)], 1)
        tie_break = torch.arange(cells + time, device=device).flip(0)
        chosen_frame, chosen_stage, chosen_code = [], [], []
        for row in range(rows):
            # Unique integer keys: equal priorities are served in order of time.
            keys = priority * (cells + time) + tie_break
            top = keys.topk(time, dim=1).indices
            useful = priority.gather(1, top) > _EXHAUSTED
            cell = torch.where(useful, top, cells + position).sort(dim=1).values
            useful = cell < cells
            frame = torch.where(useful, cell // groups, time)
            group = torch.where(useful, cell % groups, 0)
            deep = level.gather(1, cell)
            stage = torch.where(useful, group * self.depth + deep, 0)
            if slots is None:
                flat = stage * time + frame.clamp(max=time - 1)
                code = codes.flatten(1).gather(1, flat)
                code = torch.where(useful, code, 0)
            else:
                code = slots[:, row]
            following = self.priority[stage, code]
            following = self._shape(following, allowance.gather(1, cell))
            following = torch.where(useful, following, -2)
            priority = priority.scatter(1, cell, following)
            level = level.scatter(1, cell, deep + 1)
            if row == 0:
                priority, allowance = self._open_groups(
                    priority, allowance, frame, code, time
                )
            chosen_frame.append(frame)
            chosen_stage.append(stage)
            chosen_code.append(code)
        return _Plan(
            torch.stack(chosen_frame, 1),
            torch.stack(chosen_stage, 1),
            torch.stack(chosen_code, 1),
        )

    def _shape(self, priority: torch.Tensor, allowance: torch.Tensor) -> torch.Tensor:
        """Priority less the allowance, still above an exhausted cell's."""
        shaped = (priority - allowance).clamp(min=_EXHAUSTED + 1)
        return torch.where(priority > _EXHAUSTED, shaped, priority)

    def _open_groups(
        self,
        priority: torch.Tensor,
        allowance: torch.Tensor,
        frame: torch.Tensor,
        code: torch.Tensor,
        time: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """After row 0, learn from each frame's first code about all its groups."""
        batch, cells = priority.shape[0], time * self.num_groups
        known = (frame < time)[..., None]  # row 0 is group 0 of every frame, in order
        energy = (self.energy.t()[code] * self.noise_shaping).round().long()
        energy = torch.where(known, energy, 0)
        allowance = torch.cat([energy.flatten(1), allowance[:, cells:]], 1)
        inside = priority[:, :cells].view(batch, time, self.num_groups)
        opened = self._shape(self.first_priority.t()[code], energy)
        opened = torch.where(known, opened, inside)[..., 1:]
        first = self._shape(inside[..., :1], energy[..., :1])
        opened = torch.cat([first, opened], dim=2).flatten(1)
        return torch.cat([opened, priority[:, cells:]], 1), allowance

    def _reconstruct(
        self, plan: _Plan, time: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add up the vectors that were sent and look up what they leave over.

        Returns
        -------
        quantized : torch.Tensor
            [batch, time, dim].
        error : torch.Tensor
            Expected mean square error per dimension, [batch, time, num_groups].
        """
        batch = plan.codes.shape[0]
        stages = self.num_groups * self.depth
        flat = (plan.stage * (time + 1) + plan.frame).flatten(1)
        # -1: never sent. Slots that refine nothing write to the column beyond time.
        codes = flat.new_full((batch, stages * (time + 1)), -1)
        codes = codes.scatter(1, flat, plan.codes.flatten(1))
        codes = codes.view(batch, stages, time + 1)[..., :time]
        opening = codes[:, 0].clamp(min=0)
        parts, errors = [], []
        for group, width in enumerate(self.group_sizes):
            total = self.stage_error.new_zeros(batch * time, width)
            error = self.unsent_error[group][opening]
            for stage in range(group * self.depth, (group + 1) * self.depth):
                sent = codes[:, stage] >= 0
                found = codes[:, stage].clamp(min=0)
                book = self.stages.bank.book(stage, width)
                vectors = book.index_select(0, found.flatten())
                total.addcmul_(vectors, sent.to(total).reshape(-1, 1))
                error = torch.where(sent, self.stage_error[stage][found], error)
            parts.append(total.view(batch, time, width))
            errors.append(error)
        return torch.cat(parts, dim=2), torch.stack(errors, dim=2)

    def _num_rows(self, requested: int | None) -> int:
        if requested is not None:
            return self._check_rows(requested)
        if not self.training or not self.quantizer_dropout:
            return self.num_quantizers
        drop, choice = torch.rand(2).numpy()
        if drop >= self.quantizer_dropout:
            return self.num_quantizers
        return self.dropout_choices[int(choice * len(self.dropout_choices))]

    def _check_rows(self, rows: int) -> int:
        if not 1 <= rows <= self.num_quantizers:
            raise ValueError(
                "AdaptiveResidualVectorQuantizer: num_quantizers must be between 1 and "
                f"{self.num_quantizers}, got {rows}"
            )
        return rows
