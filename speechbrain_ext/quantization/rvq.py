"""Residual vector quantization for codecs: k-means and EMA, staged like a transaction.

Zeghidour et al., 2021, SoundStream (https://arxiv.org/abs/2107.03312), Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from speechbrain_ext.quantization.codebook import CodebookBank, is_distributed
from speechbrain_ext.quantization.kmeans import kmeans
from speechbrain_ext.quantization.reservoir import FrameReservoir
from speechbrain_ext.quantization.search import nearest_codes
from speechbrain_ext.quantization.straight_through import StraightThrough, bound
from speechbrain_ext.quantization.subspaces import Bands, PrincipalDirections


@dataclass(frozen=True)
class RVQResult:
    """What `ResidualVectorQuantizer` returns.

    Attributes
    ----------
    quantized : torch.Tensor
        Sum of the code vectors, [batch, time, dim], in the latents' dtype; gradients
        pass straight through to the latents. A frame that was not finite is NaN.
    codes : torch.Tensor
        [batch, num_quantizers, time], int64. The code of a frame that was not finite
        means nothing.
    loss : torch.Tensor
        Weighted commitment loss, scalar, float32, in [0, commitment_limit]; NaN if a
        frame was not finite. Its gradient goes to the latents only.
    metrics : dict[str, torch.Tensor]
        Detached tensors on the latents' device; nothing is computed from them on the
        host. Of the n active quantizers: ``usage`` [n] (fraction of the codes used in
        this batch), ``perplexity`` [n], ``commitment`` [n] (unweighted, unclamped).
        Scalars: ``saturations`` (how many of the n + 1 clamps were hit),
        ``invalid_frames``, ``revived`` (dead codes revived up to now).
    """

    quantized: torch.Tensor
    codes: torch.Tensor
    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


class ResidualVectorQuantizer(nn.Module):
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

    Random choices (revival, quantizer dropout, k-means) come from torch's global
    generators: that of the latents' device and that of the CPU.

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
        the seed's setting, kept to show that it does not learn.
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
        may run any number of times per step. May be set later as an attribute.

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
        choices = dropout_choices or range(1, num_quantizers + 1)
        self.dim = dim
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.init = init
        self.ema_target = ema_target
        self.commitment_weight = commitment_weight
        self.commitment_limit = commitment_limit
        self.quantizer_dropout = quantizer_dropout
        self.dropout_choices = tuple(choices)
        self.kmeans_iterations = kmeans_iterations
        self.statistics_mode = statistics_mode
        _require(dim >= 1, "dim", dim, ">= 1")
        _require(num_quantizers >= 1, "num_quantizers", num_quantizers, ">= 1")
        _require(codebook_size >= 2, "codebook_size", codebook_size, ">= 2")
        _require_one_of("init", init, ("kmeans", "normal"))
        _require_one_of("ema_target", ema_target, ("residual", "quantized"))
        _require(0 <= decay < 1, "decay", decay, "in [0, 1)")
        _require(commitment_weight >= 0, "commitment_weight", commitment_weight, ">= 0")
        _require(commitment_limit > 0, "commitment_limit", commitment_limit, "> 0")
        _require(0 <= dead_threshold < 1, "dead_threshold", dead_threshold, "in [0, 1)")
        _require(revive_every >= 1, "revive_every", revive_every, ">= 1")
        _require(
            0 <= quantizer_dropout <= 1,
            "quantizer_dropout",
            quantizer_dropout,
            "in [0, 1]",
        )
        _require(
            all(1 <= n <= num_quantizers for n in self.dropout_choices),
            "dropout_choices",
            list(self.dropout_choices),
            f"between 1 and num_quantizers = {num_quantizers}",
        )
        _require(
            init == "normal" or init_frames >= codebook_size,
            "init_frames",
            init_frames,
            f">= codebook_size = {codebook_size}",
        )
        self.subspaces = self._make_subspaces(codebook_dim, group_sizes, stage_groups)
        self.codebooks = CodebookBank(
            num_quantizers,
            codebook_size,
            self.subspaces.width,
            decay=decay,
            dead_threshold=dead_threshold,
            revive_every=revive_every,
        )
        self.reservoir = FrameReservoir(init_frames if init == "kmeans" else 0, dim)

    def _make_subspaces(
        self,
        codebook_dim: int | None,
        group_sizes: Sequence[int] | None,
        stage_groups: Sequence[int] | None,
    ) -> Bands | PrincipalDirections:
        if codebook_dim is not None:
            _require(
                group_sizes is None and stage_groups is None,
                "codebook_dim",
                codebook_dim,
                "given without group_sizes and stage_groups: choose one of the two",
            )
            _require(
                1 <= codebook_dim <= self.dim,
                "codebook_dim",
                codebook_dim,
                f"between 1 and dim = {self.dim}",
            )
            return PrincipalDirections(self.dim, codebook_dim, self.num_quantizers)
        sizes = (self.dim,) if group_sizes is None else tuple(group_sizes)
        _require(
            sum(sizes) == self.dim and all(size >= 1 for size in sizes),
            "group_sizes",
            list(sizes),
            f"positive and add up to dim = {self.dim}",
        )
        if stage_groups is not None:
            _require(
                len(stage_groups) == self.num_quantizers
                and all(0 <= group < len(sizes) for group in stage_groups),
                "stage_groups",
                list(stage_groups),
                f"{self.num_quantizers} numbers from 0 to {len(sizes) - 1}",
            )
        return Bands(sizes, stage_groups, self.num_quantizers)

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
        active = self._check_count(num_quantizers or self.num_quantizers)
        self._check_latents(latents)
        with torch.autocast(latents.device.type, enabled=False):
            residual, mask = _finite_rows(latents.reshape(-1, self.dim).float())
            codes = []
            for stage in range(active):
                part, found, vectors = self._look_up(stage, residual, mask)
                self.subspaces.subtract_(stage, residual, part, vectors)
                codes.append(found)
        return _arrange(codes, latents)

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
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_quantizers:
            raise ValueError(
                "ResidualVectorQuantizer.decode: codes must be [batch, n, time] with n "
                f"from 1 to {self.num_quantizers}, got {list(codes.shape)}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < (
            self.codebook_size
        ):
            raise ValueError(
                "ResidualVectorQuantizer.decode: codes must lie in [0, "
                f"{self.codebook_size - 1}], got {int(codes.min())} to "
                f"{int(codes.max())}; they come from another codec"
            )
        batch, num_stages, time = codes.shape
        with torch.autocast(codes.device.type, enabled=False):
            total = self.codebooks.codebooks.new_zeros(batch * time, self.dim)
            for stage in range(num_stages):
                book = self.codebooks.book(stage, self.subspaces.width_of(stage))
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
        rows = rows[rows.square().sum(1).isfinite()].to(self.codebooks.codebooks.device)
        if rows.shape[0] < self.codebook_size:
            raise ValueError(
                f"ResidualVectorQuantizer.initialize: {rows.shape[0]} finite frames are"
                f" fewer than codebook_size = {self.codebook_size}; give more audio or "
                "take a smaller codebook_size"
            )
        with torch.autocast(rows.device.type, enabled=False):
            mask = rows.new_ones(rows.shape[0], 1)
            for stage in range(self.num_quantizers):
                self.subspaces.decide(stage, rows)
                centroids, counts = kmeans(
                    self.subspaces.project(stage, rows),
                    self.codebook_size,
                    iterations=self.kmeans_iterations,
                    generator=generator,
                )
                self.codebooks.fill(stage, centroids, counts)
                part, _, vectors = self._look_up(stage, rows, mask)
                self.subspaces.subtract_(stage, rows, part, vectors)
        self.codebooks.discard()
        if self.reservoir.is_open:
            self.reservoir.close()
        if is_distributed():
            for buffer in self.buffers():
                dist.broadcast(buffer, src=0)
            self.subspaces.refresh()

    def commit_statistics(self) -> None:
        """Apply what training's forwards have staged, on all ranks together.

        With torch.distributed a collective; see `CodebookBank.commit`.
        """
        if self.initialized:
            self.codebooks.commit()
            return
        self.reservoir.commit()
        if self.reservoir.is_full():
            self.initialize(self.reservoir.gather())

    def discard_statistics(self) -> None:
        """Forget what was staged since the last commit, without a trace."""
        self.codebooks.discard()
        if self.reservoir.is_open:
            self.reservoir.discard()

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
            picks, filled = self._pick_candidates(valid)
            quantized = torch.zeros_like(residual)
            gradient = torch.zeros_like(residual)
            counts = residual.new_zeros(active, self.codebook_size)
            codes, energies = [], []
            for stage in range(active):
                part, found, vectors = self._look_up(stage, residual, mask)
                counts[stage].index_add_(0, found, valid)
                if self.training:
                    target = part if self.ema_target == "residual" else vectors
                    self.codebooks.stage_sums(stage, found, target)
                    if picks is not None:
                        self.codebooks.stage_candidates(
                            stage, part, picks[stage], filled
                        )
                self.subspaces.add_(stage, quantized, vectors)
                error = self.subspaces.subtract_(stage, residual, part, vectors)
                energies.append(torch.linalg.vector_norm(error).square())
                codes.append(found)
                _, scale = bound(
                    energies[-1] / max(frames.numel(), 1), self.commitment_limit
                )
                self.subspaces.add_(stage, gradient, error * scale)
            commitment = torch.stack(energies) / max(frames.numel(), 1)
            if self.training:
                self.codebooks.stage_counts(counts)
            bounded, _ = bound(commitment, self.commitment_limit)
            total = self.commitment_weight * bounded.sum()
            loss, scale = bound(total, self.commitment_limit)
            gradient.mul_(scale * (2 * self.commitment_weight / max(frames.numel(), 1)))
            # A frame that is not finite must show, in the output and in the loss.
            poison = torch.where(mask > 0, 0.0, math.nan)
            quantized.add_(poison)
            gradient.add_(poison)
            loss = loss + poison.sum()
            saturations = (commitment > self.commitment_limit).sum()
            metrics = _usage(counts) | {
                "commitment": commitment,
                "saturations": saturations + (total > self.commitment_limit),
                "invalid_frames": (1 - valid).sum(),
                "revived": self.codebooks.revived.sum(),
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
            self.reservoir.add(rows, mask[:, 0] > 0)
            counts = rows.new_zeros(active, self.codebook_size)
            zero = rows.new_zeros(())
            codes = [
                torch.zeros(rows.shape[0], dtype=torch.int64, device=rows.device)
            ] * active
            metrics = _usage(counts) | {
                "commitment": rows.new_zeros(active),
                "saturations": zero.long(),
                "invalid_frames": (1 - mask).sum(),
                "revived": zero.long(),
            }
        return RVQResult(latents, _arrange(codes, latents), zero, metrics)

    def _look_up(
        self, stage: int, residual: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Find what one stage codes, the codes found, and their vectors.

        Masked rows of the residual are zero and get zero vectors, so they stay zero
        through all stages and add nothing to sums or errors.
        """
        part = self.subspaces.project(stage, residual)
        book = self.codebooks.book(stage, part.shape[1])
        codes = nearest_codes(part, book)
        return part, codes, book.index_select(0, codes).mul_(mask)

    def _pick_candidates(
        self, valid: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Row numbers of revival candidates, [num_quantizers, slots], and which count.

        A random order of the rows with the finite ones in front; each stage takes
        another part of it, so that stages are not revived from the same frames.
        """
        num_slots = self.codebooks.num_slots
        if not self.training or not num_slots or not valid.numel():
            return None, None
        keys = torch.rand_like(valid) + (1 - valid)  # invalid rows sort last
        order = keys.argsort()
        num_valid = valid.sum().long()
        slots = torch.arange(num_slots, device=valid.device)
        offsets = torch.arange(self.num_quantizers, device=valid.device) * num_slots
        picks = order[(slots + offsets[:, None]) % num_valid.clamp(min=1)]
        return picks, (slots < num_valid).float()

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
        _require(
            1 <= num_quantizers <= self.num_quantizers,
            "num_quantizers",
            num_quantizers,
            f"between 1 and {self.num_quantizers}",
        )
        return num_quantizers

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


def _arrange(codes: list[torch.Tensor], latents: torch.Tensor) -> torch.Tensor:
    """Bring flat codes of each stage to [batch, num_quantizers, time]."""
    batch, time, _ = latents.shape
    return torch.stack([found.view(batch, time) for found in codes], dim=1)


def _usage(counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Usage and perplexity from code counts, [n, codebook_size]."""
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    entropy = -torch.special.xlogy(share, share).sum(1)
    return {"usage": (counts > 0).float().mean(1), "perplexity": entropy.exp()}


def _require(fits: bool, name: str, value: object, rule: str) -> None:
    if not fits:
        raise ValueError(
            f"ResidualVectorQuantizer: {name} must be {rule}, got {value!r}"
        )


def _require_one_of(name: str, value: str, names: tuple[str, ...]) -> None:
    _require(value in names, name, value, " or ".join(map(repr, names)))
