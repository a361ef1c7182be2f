"""Which cell of an utterance the next code refines, known to encoder and decoder alike.

A cell is one group of dimensions in one frame. Nothing here touches a vector:
priorities are integers looked up by codes, so both sides order alike on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from speechbrain_ext.quantization.places import Order

#: Steps of a priority per factor of two in energy.
STEPS_PER_OCTAVE = 16
#: Octaves of energy that priorities tell apart, half of them below 1.
OCTAVES = 64
#: Of a cell that has no stage left; of one beyond the utterance's end; of the dummy
#: cells, one per slot, that a slot with nothing to refine is given.
EXHAUSTED, OUTSIDE, DUMMY = 0, -1, -2


@dataclass(frozen=True)
class Plan:
    """What each slot refines; all [batch, rows, time], int64.

    Arguments
    ---------
    frame, stage : torch.Tensor
        Frame and stage (of all groups' stages, group after group); a slot that refines
        nothing has frame ``time`` and stage 0.
    codes : torch.Tensor
        The codes in the slots.
    """

    frame: torch.Tensor
    stage: torch.Tensor
    codes: torch.Tensor


class Allocation(nn.Module):
    """Orders the cells by the energy their next stage is expected to remove.

    Greedy reverse water-filling (Cover & Thomas, 2006, sec. 10.3.3) with a table as
    model of the signal: what a stage removed from the training frames which had the
    same code in the stage before it. The first stage of a group has none before it; it
    goes by the frame's opening code, that of group 0, which always is row 0.

    Arguments
    ---------
    num_groups, depth, codebook_size : int
        Groups, stages per group and codes per stage.
    noise_shaping : float
        See `AdaptiveResidualVectorQuantizer`.

    Example
    -------
    >>> allocation = Allocation(num_groups=2, depth=1, codebook_size=4)
    >>> plan = allocation.plan(torch.zeros(1, 2, 3, dtype=torch.int64), rows=2)
    >>> plan.stage[0]
    tensor([[0, 0, 0],
            [1, 1, 1]])
    """

    def __init__(
        self,
        num_groups: int,
        depth: int,
        codebook_size: int,
        noise_shaping: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.depth = depth
        self.codebook_size = codebook_size
        self.noise_shaping = noise_shaping
        # Before `learn`: all groups in turn, whatever the codes.
        turn = torch.arange(depth - 1, -1, -1).repeat(num_groups)
        first = torch.full((num_groups, codebook_size), depth + 1)
        first[0] += 1
        #: of the stage after, [stages, code]
        self.register_buffer("priority", turn[:, None].repeat(1, codebook_size))
        #: of a group's first stage, [group, opening code]
        self.register_buffer("first_priority", first)
        #: of a cell before anything is coded, as a priority, [group, opening code]
        self.register_buffer("energy", torch.zeros_like(first))
        #: energy left in a cell, by its last code; by the opening code if it has none
        self.register_buffer("left", torch.zeros(num_groups * depth, codebook_size))
        self.register_buffer("left_unsent", torch.zeros(num_groups, codebook_size))

    @torch.no_grad()
    def learn(self, codes: torch.Tensor, energies: Sequence[torch.Tensor]) -> None:
        """Make the tables from coded training frames.

        Arguments
        ---------
        codes : torch.Tensor
            Of all stages, [stages, frames].
        energies : sequence of torch.Tensor
            One per group: energy of each frame's cell before its first stage and after
            each, [depth + 1, frames].
        """
        opening = codes[0]
        for group, energy in enumerate(energies):
            removed = energy[:-1] - energy[1:]
            first = group * self.depth
            self.energy[group] = self._table(energy[0], opening)
            self.first_priority[group] = self._table(removed[0], opening)
            self.left_unsent[group] = self._mean(energy[0], opening)
            for level in range(self.depth):
                stage = first + level
                self.left[stage] = self._mean(energy[level + 1], codes[stage])
            for level in range(1, self.depth):
                stage = first + level - 1
                self.priority[stage] = self._table(removed[level], codes[stage])
        self.first_priority[0] = STEPS_PER_OCTAVE * OCTAVES  # row 0, come what may

    def _mean(self, energy: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Mean energy of the frames that had each code."""
        counts = torch.bincount(codes, minlength=self.codebook_size).to(energy)
        sums = torch.zeros_like(counts).index_add_(0, codes, energy)
        # Four frames of the overall mean: a rare code is no evidence.
        return (sums + 4 * energy.mean()) / (counts + 4)

    def _table(self, energy: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Priority of each code: logarithm of the mean energy, in integer steps."""
        mean = self._mean(energy, codes)
        octaves = mean.double().clamp(min=2.0 ** (-OCTAVES / 2)).log2() + OCTAVES / 2
        steps = (octaves * STEPS_PER_OCTAVE).round().long()
        return steps.clamp(EXHAUSTED + 1, STEPS_PER_OCTAVE * OCTAVES - 1)

    @torch.no_grad()
    def plan(
        self,
        codes: torch.Tensor,
        rows: int,
        num_frames: torch.Tensor | None = None,
        *,
        received: bool = False,
    ) -> Plan:
        """Walk through the rows, as the encoder or as the decoder does.

        Arguments
        ---------
        codes : torch.Tensor
            Encoder: codes of all stages of all frames, [batch, stages, time]. Decoder:
            the slots' codes, [batch, rows, time].
        rows : int
            Number of rows.
        num_frames : torch.Tensor | None
            Frames of each item, [batch]; None: all.
        received : bool
            Whether ``codes`` are the decoder's.

        Returns
        -------
        Plan
            The same for both.
        """
        if codes.device.type == "cpu":
            return self._walk(codes, rows, num_frames, received)
        return self._sort(codes, rows, num_frames, received)

    def order(self) -> Order:
        """Return the tables as compiled code takes them."""
        # Its compiler takes half a second to import: only when it is needed.
        from speechbrain_ext.quantization.places import Order

        stages = np.arange(self.num_groups * self.depth)
        shaping = (self.energy * self.noise_shaping).round().long()
        tables = (self.priority, self.first_priority, shaping)
        before = np.where(stages % self.depth, stages - 1, -1)
        return Order(
            *(True, stages // self.depth, before),
            *(table.cpu().numpy() for table in tables),
        )

    def _walk(self, codes, rows, num_frames, received) -> Plan:
        """Item by item, compiled."""
        from speechbrain_ext.quantization.places import walk

        batch, _, time = codes.shape
        if num_frames is None:
            num_frames = torch.full((batch,), time)
        order, given = self.order(), codes.contiguous().numpy()
        frame = np.full((batch, rows, time), time)
        stage = np.zeros_like(frame)
        if received:
            found = given[:, :rows].astype(np.int64)
        else:
            found = np.zeros_like(frame)
        for item, count in enumerate(num_frames.tolist()):
            parts = (x[item, :, :count] for x in (frame, stage, found))
            walk(order, given[item], received, *parts)
        return Plan(*map(torch.from_numpy, (frame, stage, found)))

    def _sort(self, codes, rows, num_frames, received) -> Plan:
        """All items at once, with tensors."""
        batch, _, time = codes.shape
        position = torch.arange(time, device=codes.device)
        cells = time * self.num_groups
        if num_frames is None:
            num_frames = torch.full((batch,), time)
        # An item has as many slots per row as frames, however it was padded.
        is_slot = position < num_frames.to(codes.device)[:, None]
        priority = self._first_row(is_slot)
        level = torch.zeros_like(priority)
        allowance = torch.zeros_like(priority)
        tie_break = torch.arange(cells + time, device=codes.device).flip(0)
        slots = []
        for row in range(rows):
            # Unique integers, so that topk has no ties to break in its own way.
            keys = priority * (cells + time) + tie_break
            top = keys.topk(time, dim=1).indices
            refines = is_slot & (priority.gather(1, top) > EXHAUSTED)
            cell = torch.where(refines, top, cells + position).sort(dim=1).values
            refines = cell < cells
            frame = torch.where(refines, cell // self.num_groups, time)
            stage = (cell % self.num_groups) * self.depth + level.gather(1, cell)
            stage = torch.where(refines, stage, 0)
            if received:
                code = codes[:, row].long()
            else:
                place = stage * time + frame.clamp(max=time - 1)
                code = torch.where(refines, codes.flatten(1).gather(1, place), 0)
            # Nothing follows a group's last stage.
            last = (stage + 1) % self.depth == 0
            following = torch.where(last, EXHAUSTED, self.priority[stage, code])
            following = _shaped(following, allowance.gather(1, cell))
            following = torch.where(refines, following, DUMMY)
            priority.scatter_(1, cell, following)
            level.scatter_add_(1, cell, torch.ones_like(cell))
            if row == 0:
                self._open_groups(priority, allowance, frame, code)
            slots.append((frame, stage, code))
        return Plan(*(torch.stack(part, 1) for part in zip(*slots, strict=True)))

    def _first_row(self, is_slot: torch.Tensor) -> torch.Tensor:
        """Priorities before any code, [batch, time * num_groups + time]."""
        start = self.first_priority[:, 0].expand(*is_slot.shape, -1)
        start = torch.where(is_slot[..., None], start, OUTSIDE)
        dummies = start.new_full(is_slot.shape, DUMMY)
        return torch.cat([start.flatten(1), dummies], 1)

    def _open_groups(
        self,
        priority: torch.Tensor,
        allowance: torch.Tensor,
        frame: torch.Tensor,
        code: torch.Tensor,
    ) -> None:
        """After row 0, in place: what each frame's opening code tells of its groups."""
        batch, time = frame.shape
        shape = batch, time, self.num_groups
        cells = time * self.num_groups
        known = (frame < time)[..., None]  # row 0 is group 0 of every frame, in order
        shaping = (self.energy.t()[code] * self.noise_shaping).round().long()
        shaping = torch.where(known, shaping, 0)
        before = priority[:, :cells].view(shape)
        opened = torch.where(known, self.first_priority.t()[code], before)
        opened[..., 0] = before[..., 0]  # group 0 has had its first stage
        priority[:, :cells] = _shaped(opened, shaping).flatten(1)
        allowance[:, :cells] = shaping.flatten(1)


def _shaped(priority: torch.Tensor, allowance: torch.Tensor) -> torch.Tensor:
    """Priority less the allowance; what has none left, or is no cell, stays so."""
    lower = (priority - allowance).clamp(min=EXHAUSTED + 1)
    return torch.where(priority > EXHAUSTED, lower, priority)
