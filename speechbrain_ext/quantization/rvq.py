"""Residual vector quantization for codecs: k-means and EMA, staged like a transaction.

Zeghidour et al., 2021, SoundStream (https://arxiv.org/abs/2107.03312), Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from speechbrain_ext.quantization.arguments import check_arguments, one_of, within
from speechbrain_ext.quantization.codebook import CodebookBank
from speechbrain_ext.quantization.commitment import Commitment, StraightThrough
from speechbrain_ext.quantization.kmeans import fit_codebooks
from speechbrain_ext.quantization.nested import NestedStages
from speechbrain_ext.quantization.ranks import all_ranks, copy_from_first_rank
from speechbrain_ext.quantization.reservoir import FrameReservoir
from speechbrain_ext.quantization.result import RVQResult, code_statistics
from speechbrain_ext.quantization.search import half_square_norms, nearest_codes
from speechbrain_ext.quantization.subspaces import make_subspaces


class ResidualVectorQuantizer(NestedStages, nn.Module):
    r"""Residual vector quantizer with EMA codebooks, made not to break.

    Zeghidour et al., 2021 (https://arxiv.org/abs/2107.03312). Stage i codes what the
    stages before it left over, so the first n stages are a codec of n/num_quantizers
    of the bit rate.

    - Codebooks learn by an EMA of the *residuals* assigned to each code (see
      `CodebookBank`); no gradient reaches them. The loss is the commitment loss: its
      gradient goes to the encoder. (The seed of this project called
      ``mse(residual.detach(), quantized)`` commitment: that is the codebook loss,
      which never moves the encoder.)
    - Each quantizer's commitment and their weighted sum are clamped to
      ``commitment_limit``; the gradient is scaled down alike, not zeroed, and
      saturations are counted.
    - Only frames whose squared norm is finite enter statistics. Any other frame is
      NaN in the output and in the loss: it is never hidden.
    - The search runs in float32 whatever autocast surrounds it: the nearest code in
      bfloat16 is another one in up to 27 % of the frames.
    - Training's forward moves nothing by itself. It stages statistics;
      `commit_statistics` applies them, `discard_statistics` leaves no trace of them.
    - ``forward`` does not ask the device anything (no ``item``, ``nonzero``, boolean
      index), apart from one number per commit while k-means waits for frames.

    With ``init="kmeans"`` and no call of `initialize`, training's forward returns the
    latents unquantized (codes 0, loss 0) until ``init_frames`` finite frames are
    committed; k-means runs in that commit. Evaluation never does that: until then it
    quantizes with the codebooks as they are (randn x 0.01), so that no checkpoint
    looks good because it did not quantize.

    Random choices of a forward (candidates for revival, quantizer dropout) come from
    torch's global generators, that of the latents' device and that of the CPU. A commit
    draws nothing from them.

    Arguments
    ---------
    dim : int
        Dimensions of a latent frame.
    num_quantizers : int
        Number of stages.
    codebook_size : int
        Codes per stage; a stage costs log2(codebook_size) bits per frame.
    init : str
        "kmeans": from the first ``init_frames`` frames of training, or by
        `initialize`. "normal": randn x 0.01, at once; dead codes are revived from data.
    ema_target : str
        "residual": codes move to the mean of the residuals assigned to them.
        "quantized": to the mean of the code vectors that were chosen, i.e. nowhere:
        an old setting, kept to show that it does not learn.
    decay : float
        EMA factor, in [0, 1).
    commitment_weight : float
        Weight of the sum of the quantizers' commitments. One commitment is the
        squared error in the dimensions a stage codes, averaged over frames, divided
        by ``dim``.
    commitment_limit : float
        Largest commitment of one quantizer, and largest loss.
    dead_threshold : float
        A code is dead when its EMA count is below this fraction of the mean count of
        its codebook; 0: no revival.
    revive_every : int
        Commits between two looks for dead codes.
    quantizer_dropout : float
        Probability that a training batch uses only some quantizers, drawn from
        ``dropout_choices``.
    dropout_choices : Sequence[int] or None
        Numbers of quantizers to draw from; None: 1 to num_quantizers.
    codebook_dim : int or None
        Low-dimensional codes: each stage codes the residual in its own
        ``codebook_dim`` principal directions (see `PrincipalDirections`), and is
        searched about dim/codebook_dim times as fast. None: all dimensions.
    group_sizes : Sequence[int] or None
        Bands: widths of contiguous groups of dimensions, adding up to ``dim``; each
        stage codes one group. None: one group.
    stage_groups : Sequence[int] or None
        Group of each stage, in nested order. None: `initialize` gives each stage the
        group with most residual energy; before that stages take turns.
    init_frames : int
        Finite frames (over all ranks) that lazy k-means waits for.
    kmeans_iterations : int
        Rounds of k-means.
    statistics_mode : str
        "forward": each training forward ends with a commit, as stock trainers need.
        "step": somebody calls `commit_statistics` after the optimizer step. With
        gradient accumulation or activation checkpointing take "step": forward then
        may run any number of times per step. May be set later as an attribute. With
        gradient accumulation under DistributedDataParallel also give that
        ``broadcast_buffers=False``, or rank 0's staging overwrites that of the others.

    Raises
    ------
    ValueError
        If an argument is out of range, or two contradict each other.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> rvq = ResidualVectorQuantizer(8, 4, 16, init="normal")
    >>> latents = torch.randn(2, 50, 8, requires_grad=True)
    >>> result = rvq(latents)
    >>> result.quantized.shape, result.codes.shape
    (torch.Size([2, 50, 8]), torch.Size([2, 4, 50]))
    >>> codes = rvq.eval().encode(latents, num_quantizers=2)
    >>> torch.equal(rvq.decode(codes), rvq(latents, num_quantizers=2).quantized)
    True
    """

    def __init__(
        self,
        dim: int,
        num_quantizers: int,
        codebook_size: int,
        *,
        init: str = "kmeans",
        ema_target: str = "residual",
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        commitment_limit: float = 10.0,
        dead_threshold: float = 0.1,
        revive_every: int = 5,
        quantizer_dropout: float = 0.0,
        dropout_choices: Sequence[int] | None = None,
        codebook_dim: int | None = None,
        group_sizes: Sequence[int] | None = None,
        stage_groups: Sequence[int] | None = None,
        init_frames: int = 8192,
        kmeans_iterations: int = 10,
        statistics_mode: str = "forward",
    ) -> None:
        super().__init__()
        if dropout_choices is None:
            dropout_choices = range(1, num_quantizers + 1)
        self.dim = dim
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.init = init
        self.ema_target = ema_target
        self.commitment_weight = commitment_weight
        self.commitment_limit = commitment_limit
        self.quantizer_dropout = quantizer_dropout
        self.dropout_choices = tuple(dropout_choices)
        self.kmeans_iterations = kmeans_iterations
        self.statistics_mode = statistics_mode
        lazy = init == "kmeans"
        choices, top = list(self.dropout_choices), num_quantizers
        rules = [
            within("dim", dim, 1, math.inf),
            within("num_quantizers", top, 1, math.inf),
            within("codebook_size", codebook_size, 2, math.inf),
            one_of("init", init, ("kmeans", "normal")),
            one_of("ema_target", ema_target, ("residual", "quantized")),
            (0 <= decay < 1, "decay", decay, "in [0, 1)"),
            within("commitment_weight", commitment_weight, 0, math.inf),
            (commitment_limit > 0, "commitment_limit", commitment_limit, "> 0"),
            within("dead_threshold", dead_threshold, 0, 0.4),
            within("revive_every", revive_every, 1, math.inf),
            within("quantizer_dropout", quantizer_dropout, 0, 1),
            (bool(choices), "dropout_choices", choices, "at least one number"),
            *(within("dropout_choices", choice, 1, top) for choice in choices),
            within("kmeans_iterations", kmeans_iterations, 1, math.inf),
            one_of("statistics_mode", statistics_mode, ("forward", "step")),
        ]
        if lazy:
            rules.append(within("init_frames", init_frames, codebook_size, math.inf))
        check_arguments("ResidualVectorQuantizer", rules)
        self.subspaces = make_subspaces(
            dim, num_quantizers, codebook_dim, group_sizes, stage_groups
        )
        self.bank = CodebookBank(
            num_quantizers,
            codebook_size,
            self.subspaces.width,
            decay=decay,
            dead_threshold=dead_threshold,
            revive_every=revive_every,
        )
        for stage in range(num_quantizers):
            self.bank.blank(stage, self.subspaces.width_of(stage))
        self.reservoir = FrameReservoir(init_frames if lazy else 0, dim)

    @property
    def initialized(self) -> bool:
        """Whether the codebooks are in use (False: k-means still waits for frames)."""
        return not self.reservoir.is_open

    @property
    def stage_groups(self) -> tuple[int, ...] | None:
        """Group of each stage; None with ``codebook_dim``."""
        return getattr(self.subspaces, "groups", None)

    def kbps(self, num_quantizers: int, frame_rate: float) -> float:
        """Nominal bit rate of the first stages.

        Arguments
        ---------
        num_quantizers : int
            How many stages.
        frame_rate : float
            Latent frames per second.

        Returns
        -------
        float
            Kilobits (1000 bits) per second.

        Example
        -------
        >>> ResidualVectorQuantizer(8, 4, 256).kbps(4, frame_rate=50)
        1.6
        """
        return num_quantizers * math.log2(self.codebook_size) * frame_rate / 1000

    def forward(
        self, latents: torch.Tensor, num_quantizers: int | None = None
    ) -> RVQResult:
        """Quantize; in training also stage (and in mode "forward" commit) statistics.

        Arguments
        ---------
        latents : torch.Tensor
            Encoder output, [batch, time, dim], floating point.
        num_quantizers : int or None
            Use the first so many stages. None: all, or what quantizer dropout draws.

        Returns
        -------
        RVQResult
            Quantized frames, codes, commitment loss and metrics.

        Raises
        ------
        ValueError
            If the shape of ``latents`` or ``num_quantizers`` does not fit.
        """
        active = self._num_active(num_quantizers)
        self._check_latents(latents)
        with torch.autocast(latents.device.type, enabled=False):
            frames = latents.reshape(-1, self.dim).float()
            if self.training and not self.initialized:
                result = self._pass_through(latents, frames, active)
            else:
                result = self._quantize(latents, frames, active)
            if self.training and self.statistics_mode == "forward":
                self.commit_statistics()
        return result

    @torch.no_grad()
    def encode(
        self, latents: torch.Tensor, num_quantizers: int | None = None
    ) -> torch.Tensor:
        """Codes of latents.

        Arguments
        ---------
        latents : torch.Tensor
            Encoder output, [batch, time, dim], floating point.
        num_quantizers : int or None
            Use the first so many stages; None: all.

        Returns
        -------
        torch.Tensor
            Codes, [batch, num_quantizers, time], int64. Frames that are not finite
            get some valid code.
        """
        if num_quantizers is None:
            num_quantizers = self.num_quantizers
        active = self._check_count(num_quantizers)
        self._check_latents(latents)
        with torch.autocast(latents.device.type, enabled=False):
            residual, mask = _finite_rows(latents.reshape(-1, self.dim).float())
            half_norms = half_square_norms(self.bank.codebooks[:active])
            codes = []
            for stage in range(active):
                part, found, vectors = self._look_up(stage, residual, mask, half_norms)
                self.subspaces.subtract_(stage, residual, part, vectors)
                codes.append(found)
        return _arrange(torch.stack(codes), latents)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Sum of the code vectors.

        Arguments
        ---------
        codes : torch.Tensor
            [batch, n, time], integers in [0, codebook_size), of the first n stages.

        Returns
        -------
        torch.Tensor
            Quantized frames, [batch, time, dim], float32.

        Raises
        ------
        ValueError
            If the shape does not fit or a code is out of range.
        """
        self._check_codes(codes)
        batch, num_stages, time = codes.shape
        with torch.autocast(codes.device.type, enabled=False):
            total = self.bank.codebooks.new_zeros(batch * time, self.dim)
            for stage in range(num_stages):
                book = self.bank.book(stage, self.subspaces.width_of(stage))
                vectors = book.index_select(0, codes[:, stage].reshape(-1).long())
                self.subspaces.add_(stage, total, vectors)
        return total.view(batch, time, self.dim)

    @torch.no_grad()
    def initialize(
        self, frames: torch.Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Start all codebooks by k-means on the residuals, stage after stage.

        Decides ``stage_groups`` where they were left open, or the principal
        directions of low-dimensional codes. Statistics start at what the centroids
        are means of; whatever was staged is dropped. With torch.distributed every
        rank calls this and all end with the result of rank 0.

        Arguments
        ---------
        frames : torch.Tensor
            Encoder output, [..., dim]; rows that are not finite are left out. At
            least 8192 make good codebooks; ``codebook_size`` are required.
        generator : torch.Generator or None
            For k-means, on the CPU; None: torch's global CPU generator.

        Raises
        ------
        ValueError
            If there are fewer finite frames than codes.
        """
        rows = frames.detach().reshape(-1, frames.shape[-1]).float()
        if rows.shape[1] != self.dim:
            raise ValueError(
                f"ResidualVectorQuantizer.initialize: frames must be [..., {self.dim}],"
                f" got {list(frames.shape)}"
            )
        rows = rows[rows.square().sum(1).isfinite()].to(self.bank.codebooks.device)
        if not all_ranks(rows.shape[0] >= self.codebook_size, rows.device):
            raise ValueError(
                f"ResidualVectorQuantizer.initialize: {rows.shape[0]} finite frames, "
                f"here or on another rank fewer than codebook_size = "
                f"{self.codebook_size}; give more audio or take a smaller codebook_size"
            )
        with torch.autocast(rows.device.type, enabled=False):
            fit_codebooks(
                self.bank, self.subspaces, rows, self.kmeans_iterations, generator
            )
        self.bank.discard()
        if self.reservoir.is_open:
            self.reservoir.close()
        copy_from_first_rank(self)
        self.subspaces.refresh()

    def commit_statistics(self) -> None:
        """Apply what training's forwards have staged, on all ranks together.

        With torch.distributed a collective; see `CodebookBank.commit`.
        """
        if self.initialized:
            self.bank.commit()
            return
        self.reservoir.commit()
        if self.reservoir.is_full():
            # A stream of its own: a commit may come after the decoder's dropout or
            # before it, and must not change what that draws.
            own = torch.Generator().manual_seed(0)
            self.initialize(self.reservoir.gather(), own)

    def discard_statistics(self) -> None:
        """Forget what was staged since the last commit, without a trace."""
        self.bank.discard()
        if self.reservoir.is_open:
            self.reservoir.discard()

    def _apply(self, fn, recurse: bool = True):
        """Keep statistics and search in float32 under ``.half()`` and the like."""

        def move_only(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move_only, recurse)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return (
            f"dim={self.dim}, num_quantizers={self.num_quantizers}, "
            f"codebook_size={self.codebook_size}, init={self.init!r}, "
            f"ema_target={self.ema_target!r}"
        )

    def _quantize(
        self, latents: torch.Tensor, frames: torch.Tensor, active: int
    ) -> RVQResult:
        """Quantize frames, [n, dim] float32 with graph, by the first stages."""
        with torch.no_grad():
            residual, mask = _finite_rows(frames)
            valid = mask[:, 0]
            quantized = torch.zeros_like(residual)
            commitment = Commitment(
                residual, self.commitment_weight, self.commitment_limit
            )
            half_norms = half_square_norms(self.bank.codebooks[:active])
            codes = []
            drawn = self.bank.draw_candidates(valid) if self.training else None
            for stage in range(active):
                part, found, vectors = self._look_up(
                    stage, residual, mask, half_norms, learning=self.training
                )
                if self.training:
                    target = part if self.ema_target == "residual" else vectors
                    self.bank.stage_sums(stage, found, target)
                    self.bank.stage_candidates(stage, part, drawn)
                self.subspaces.add_(stage, quantized, vectors)
                error = self.subspaces.subtract_(stage, residual, part, vectors)
                commitment.add(self.subspaces, stage, error)
                codes.append(found)
            codes = torch.stack(codes)
            counts = self.bank.count(codes, valid)
            if self.training:
                self.bank.stage_counts(counts)
            loss, gradient, stages, saturations = commitment.finish()
            # A frame that is not finite must show, in the output and in the loss.
            poison = torch.where(mask > 0, 0.0, math.nan)
            quantized.add_(poison)
            gradient.add_(poison)
            loss = loss + poison.sum()
            metrics = code_statistics(counts) | {
                "commitment": stages,
                "saturations": saturations,
                "invalid_frames": (valid == 0).sum(),
                "revived": self.bank.revived.sum(),
            }
        quantized, loss = StraightThrough.apply(frames, quantized, loss, gradient)
        quantized = quantized.view(latents.shape).to(latents.dtype)
        return RVQResult(quantized, _arrange(codes, latents), loss, metrics)

    def _pass_through(
        self, latents: torch.Tensor, frames: torch.Tensor, active: int
    ) -> RVQResult:
        """Collect frames for k-means and return them unquantized."""
        with torch.no_grad():
            rows, mask = _finite_rows(frames)
            valid = mask[:, 0] > 0
            self.reservoir.add(rows, valid)
            codes = torch.zeros_like(valid, dtype=torch.int64).repeat(active, 1)
            metrics = code_statistics(rows.new_zeros(active, self.codebook_size)) | {
                "commitment": rows.new_zeros(active),
                "saturations": codes.new_zeros(()),
                "invalid_frames": (~valid).sum(),
                "revived": codes.new_zeros(()),
            }
        loss = rows.new_zeros(())
        return RVQResult(latents, _arrange(codes, latents), loss, metrics)

    def _look_up(
        self,
        stage: int,
        residual: torch.Tensor,
        mask: torch.Tensor,
        half_norms: torch.Tensor,
        learning: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Find what one stage codes, the codes found, and their vectors.

        Masked rows of the residual are zero and get zero vectors, so they stay zero
        through all stages and add nothing to sums or errors.
        """
        part = self.subspaces.project(stage, residual)
        book = self.bank.book(stage, part.shape[1])
        codes = nearest_codes(part, book, half_norms[stage], screen=learning)
        return part, codes, book.index_select(0, codes).mul_(mask)

    def _check_latents(self, latents: torch.Tensor) -> None:
        if latents.dim() != 3 or latents.shape[2] != self.dim:
            raise ValueError(
                f"ResidualVectorQuantizer: latents must be [batch, time, {self.dim}], "
                f"got {list(latents.shape)}"
            )


def _finite_rows(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy frames [n, dim] with unusable rows zeroed; 1.0 where usable, [n, 1].

    Usable means that the squared norm is finite in float32: distances are.
    """
    valid = frames.square().sum(1, keepdim=True).isfinite()
    return torch.where(valid, frames, 0.0), valid.float()


def _arrange(codes: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Bring codes, [num_quantizers, n], to [batch, num_quantizers, time]."""
    batch, time, _ = latents.shape
    return codes.view(codes.shape[0], batch, time).transpose(0, 1).contiguous()
