"""RVQ whose codes go where the signal needs them, decided by the codes before.

A fixed-rate RVQ spends as much on a pause as on a vowel. Here every frame still has
``num_quantizers`` code slots, but what a slot refines, i.e. which group of which frame
of the utterance, follows from the codes in the slots before it. The decoder knows those
too, so nothing is sent beside the codes ("backward adaptation", as old as ADPCM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from speechbrain_ext.quantization.allocation import Allocation, Plan
from speechbrain_ext.quantization.arguments import check_arguments, within
from speechbrain_ext.quantization.commitment import bound
from speechbrain_ext.quantization.nested import NestedStages
from speechbrain_ext.quantization.result import RVQResult
from speechbrain_ext.quantization.rvq import ResidualVectorQuantizer


class AdaptiveResidualVectorQuantizer(NestedStages, nn.Module):
    """Grouped RVQ that orders its codes by the error each is expected to remove.

    A *cell* is one group of dimensions in one frame; each group has ``depth`` stages
    of its own. Row r of the codes takes the ``time`` cells with the highest priority
    (see `Allocation`), in order of time, and refines each by one stage. Rows are
    nested: the first n are a codec. The nominal rate is that of an RVQ with as many
    quantizers.

    The price: a code belongs to an utterance, not to a frame (only within a row codes
    are in order of time), so whole utterances are coded, and a wrong code spoils what
    follows it. Where codes must be frames (streaming, tokens of a language model) take
    `ResidualVectorQuantizer` with the same groups.

    It needs `initialize`: codebooks that wait for frames of training instead know
    nothing about priorities, and the codes then go to all groups in turn. EMA updates
    move the codebooks but not the priorities.

    Arguments
    ---------
    dim : int
        Dimensions of a latent frame.
    num_quantizers : int
        Rows of codes, i.e. codes per frame on average.
    codebook_size : int
        Codes per stage.
    group_sizes : Sequence[int]
        Widths of the groups; they add up to ``dim``. The first one's opening code is
        sent for every frame and has to tell loud from soft.
    depth : int
        Stages per group: with too few the loudest cells come to an end first.
    noise_shaping : float
        0: least squared error. Above: cells that start with more energy may keep more
        error, its logarithm in proportion; 1 would give all cells the same SNR. Moves
        codes from the loud to the soft: less SNR, better PESQ. In [0, 1).
    commitment_weight, commitment_limit : float
        Weight and bound of the loss: mean squared distance of latents and quantized.
    quantizer_dropout, dropout_choices
        As in `ResidualVectorQuantizer`, in rows.
    init, decay, dead_threshold, revive_every, init_frames, kmeans_iterations,
    statistics_mode
        Of the `ResidualVectorQuantizer` that holds the codebooks.

    Raises
    ------
    ValueError
        If an argument is out of range.

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
        init: str = "kmeans",
        decay: float = 0.99,
        dead_threshold: float = 0.1,
        revive_every: int = 5,
        init_frames: int = 8192,
        kmeans_iterations: int = 10,
        statistics_mode: str = "forward",
    ) -> None:
        super().__init__()
        groups = len(group_sizes)
        choices = tuple(dropout_choices or range(1, num_quantizers + 1))
        check_arguments(
            type(self).__name__,
            [
                within("depth", depth, 1, math.inf),
                within("num_quantizers", num_quantizers, 1, groups * depth),
                (0 <= noise_shaping < 1, "noise_shaping", noise_shaping, "in [0, 1)"),
                within("quantizer_dropout", quantizer_dropout, 0, 1),
                *(within("dropout_choices", n, 1, num_quantizers) for n in choices),
            ],
        )
        self.dim = dim
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.group_sizes = tuple(group_sizes)
        self.depth = depth
        self.commitment_weight = commitment_weight
        self.commitment_limit = commitment_limit
        self.quantizer_dropout = quantizer_dropout
        self.dropout_choices = choices
        self.stages = ResidualVectorQuantizer(
            dim,
            groups * depth,
            codebook_size,
            group_sizes=group_sizes,
            stage_groups=[group for group in range(groups) for _ in range(depth)],
            init=init,
            decay=decay,
            dead_threshold=dead_threshold,
            revive_every=revive_every,
            init_frames=init_frames,
            kmeans_iterations=kmeans_iterations,
            statistics_mode=statistics_mode,
        )
        self.statistics_mode = statistics_mode
        self.allocation = Allocation(groups, depth, codebook_size, noise_shaping)

    @property
    def initialized(self) -> bool:
        """Whether the codebooks are in use, see `ResidualVectorQuantizer`."""
        return self.stages.initialized

    @property
    def statistics_mode(self) -> str:
        """When statistics are committed, see `ResidualVectorQuantizer`."""
        return self._statistics_mode

    @statistics_mode.setter
    def statistics_mode(self, mode: str) -> None:
        # The vectors are looked up after the stages have searched: what those have
        # staged may be applied only at the end of the forward of the whole.
        self.stages.statistics_mode = "step"
        self._statistics_mode = mode

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
            ``codes`` are slots, see the class; slots of padding hold 0. The metrics
            are those of the stages, group after group, and ``expected_error`` as in
            `decode_with_error`.
        """
        result = self._forward(latents, num_quantizers, num_frames)
        if self.training and self.statistics_mode == "forward":
            self.stages.commit_statistics()
        return result

    def _forward(self, latents, num_quantizers, num_frames) -> RVQResult:
        rows = self._num_active(num_quantizers)
        waiting = self.training and not self.initialized
        inner = self.stages(latents)
        if waiting:  # passed through unquantized
            return RVQResult(
                inner.quantized, inner.codes[:, :rows], inner.loss, inner.metrics
            )
        with torch.autocast(latents.device.type, enabled=False):
            frames = latents.float()
            plan = self.allocation.plan(inner.codes, rows, num_frames)
            quantized, error = self._reconstruct(plan)
            loss = self.commitment_weight * (frames - quantized).square().mean()
            _, scale = bound(loss.detach(), self.commitment_limit)
            # Straight through, exact in value; NaN where a frame is not finite.
            quantized = quantized + (frames - frames.detach())
        metrics = inner.metrics | {"expected_error": error}
        return RVQResult(quantized.to(latents.dtype), plan.codes, loss * scale, metrics)

    @torch.no_grad()
    def encode(
        self,
        latents: torch.Tensor,
        num_quantizers: int | None = None,
        num_frames: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Codes of latents, [batch, num_quantizers, time]; arguments of `forward`."""
        rows = self._check_count(num_quantizers or self.num_quantizers)
        codes = self.stages.encode(latents)
        return self.allocation.plan(codes, rows, num_frames).codes

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
            Mean square error per dimension of training frames with these codes,
            [batch, time, num_groups]; zero before `initialize`.

        Raises
        ------
        ValueError
            If the shape does not fit or a code is out of range.
        """
        self._check_codes(codes)
        rows = codes.shape[1]
        plan = self.allocation.plan(codes, rows, num_frames, received=True)
        return self._reconstruct(plan)

    @torch.no_grad()
    def initialize(
        self, frames: torch.Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Codebooks by k-means, then the priorities from the same frames.

        With torch.distributed every rank must be given the same frames.

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
        frames = frames.to(self.allocation.priority.device)
        codes = self.stages.encode(frames[None])[0]
        energies = []
        for group, rest in enumerate(frames.split(self.group_sizes, dim=1)):
            energy = [rest.square().sum(1)]
            for stage in range(group * self.depth, (group + 1) * self.depth):
                book = self.stages.bank.book(stage, self.group_sizes[group])
                rest = rest - book[codes[stage]]
                energy.append(rest.square().sum(1))
            energies.append(torch.stack(energy))
        self.allocation.learn(codes, energies)

    @torch.no_grad()
    def _reconstruct(self, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        """Add up the vectors that were sent and look up what they leave over."""
        if plan.codes.device.type == "cpu":
            return self._add_up(plan)
        return self._look_up(plan)

    def _add_up(self, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        """Slot by slot, compiled; the sums are those of `_look_up`, in its order."""
        from speechbrain_ext.quantization.places import add_vectors

        batch, _, time = plan.codes.shape
        widths = torch.tensor(self.group_sizes)
        starts = torch.cat([widths.new_zeros(1), widths.cumsum(0)]).numpy()
        books, left = self.stages.bank.codebooks, self.allocation.left
        # Row 0 is the opening code of every frame, in order.
        opening = torch.where(plan.frame[:, 0] < time, plan.codes[:, 0], 0)
        error = self.allocation.left_unsent.t()[opening].contiguous()
        quantized = books.new_zeros(batch, time, self.dim)
        for item in range(batch):
            parts = (x[item].numpy() for x in (plan.frame, plan.stage, plan.codes))
            add_vectors(
                *(*parts, self.depth, starts, books.numpy(), left.numpy()),
                *(quantized[item].numpy(), error[item].numpy()),
            )
        return quantized, error / widths

    def _look_up(self, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage by stage, with tensors."""
        batch, _, time = plan.codes.shape
        num_stages = self.stages.num_quantizers
        place = (plan.stage * (time + 1) + plan.frame).flatten(1)
        # -1: not sent. Slots that refine nothing write to the column beyond time.
        codes = place.new_full((batch, num_stages * (time + 1)), -1)
        codes = codes.scatter_(1, place, plan.codes.flatten(1))
        codes = codes.view(batch, num_stages, time + 1)[..., :time]
        opening = codes[:, 0].flatten().clamp(min=0)
        parts, errors = [], []
        for group, width in enumerate(self.group_sizes):
            total = self.stages.bank.codebooks.new_zeros(batch * time, width)
            error = self.allocation.left_unsent[group][opening]
            for stage in range(group * self.depth, (group + 1) * self.depth):
                found = codes[:, stage].flatten()
                sent, found = found >= 0, found.clamp(min=0)
                vectors = self.stages.bank.book(stage, width)[found]
                total.addcmul_(vectors, sent.to(total)[:, None])
                error = torch.where(sent, self.allocation.left[stage][found], error)
            parts.append(total.view(batch, time, width))
            errors.append(error.view(batch, time) / width)
        return torch.cat(parts, dim=2), torch.stack(errors, dim=2)
