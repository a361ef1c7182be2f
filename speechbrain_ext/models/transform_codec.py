"""TransformCodec: MDCT, a linear transform learned from the data, a small network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from speechbrain_ext.models.code_files import CodeFiles
from speechbrain_ext.models.codec import CodecResult, NestedRates
from speechbrain_ext.models.convnext import ConvNeXtStack
from speechbrain_ext.models.mdct import MDCT
from speechbrain_ext.quantization import AdaptiveResidualVectorQuantizer

BASES = ("pca", "bands")


class TransformCodec(CodeFiles, NestedRates, nn.Module):
    """Neural codec that starts as a good classical transform codec.

    MDCT -> linear transform -> residual vector quantizer -> a network that corrects
    what came out -> transposed linear transform -> inverse MDCT. SoundStream (Zeghidour
    et al., 2021) with its convolutional encoder and decoder replaced; rates are nested
    as there: the first n quantizers are a codec of their own.

    The correction is ``deviation * (a + b * noise)``: ``deviation`` is how far off the
    quantizer's output is expected to be, a and b come from the network (`ConvNeXtStack`
    on the output and its deviation), and the noise is white, fixed by the frame's
    number. At the start a is zero and b is ``noise_fill``, so `initialize` alone makes
    a working codec, and training can't make it much worse: where the quantizer is sure,
    the correction is small. A correction without that factor loses 2 dB at 16 kbps on
    three minutes of speech. There is no network before the quantizer for the same
    reason: with codebooks in place, straight-through gradients make an encoder worse
    (they enlarge the latents to make up for centroids being smaller than what they
    stand for).

    Level: the codebooks are learned at the level of the training set and the codec
    keeps the level of what goes in. Bring recordings to the training level first if
    they are far (more than 10 dB) from it.

    Arguments
    ---------
    quantizer : nn.Module
        `AdaptiveResidualVectorQuantizer` or `ResidualVectorQuantizer`; its ``dim`` is
        the latent's.
    sample_rate : int
        In Hz.
    hop_samples : int
        Samples per frame (even); 320 at 16 kHz is 50 frames per second.
    width, expansion, kernel_size
        Of the network, see `ConvNeXtBlock`.
    decoder_blocks : int
        Number of ConvNeXt blocks; 0: no network.
    window : str
        MDCT window, see `princen_bradley_window`.
    basis : str
        Linear transform of the coefficients. "bands": the ``dim`` lowest coefficients
        as they are, so that the quantizer's groups are frequency bands. "pca": the
        ``dim`` principal components of the training frames, most energy first; for a
        quantizer without groups.
    noise_fill : float
        Where b starts, >= 0. 0.1 costs 0.03 dB of SNR and is worth 0.2 of PESQ at
        8 kbps.

    Example
    -------
    >>> from speechbrain_ext.quantization import ResidualVectorQuantizer
    >>> rvq = ResidualVectorQuantizer(8, num_quantizers=4, codebook_size=16)
    >>> codec = TransformCodec(rvq, hop_samples=16, width=8).eval()
    >>> wav = torch.randn(2, 100)
    >>> codes = codec.encode(wav, kbps=8)
    >>> codes.shape, codec.decode(codes, length=100).shape
    (torch.Size([2, 2, 8]), torch.Size([2, 100]))
    """

    def __init__(
        self,
        quantizer: nn.Module,
        sample_rate: int = 16000,
        hop_samples: int = 320,
        width: int = 128,
        decoder_blocks: int = 4,
        expansion: float = 2.0,
        kernel_size: int = 7,
        window: str = "kbd",
        basis: str = "bands",
        noise_fill: float = 0.1,
    ):
        super().__init__()
        dim = quantizer.dim
        if basis not in BASES:
            raise ValueError(
                f"TransformCodec: basis is {basis!r}; one of {', '.join(BASES)} is "
                "known"
            )
        if dim > hop_samples:
            raise ValueError(
                f"TransformCodec: the quantizer's dim {dim} is more than the "
                f"{hop_samples} coefficients of a frame; lower dim or raise hop_samples"
            )
        self.basis_kind = basis
        self.sample_rate = sample_rate
        self.hop_samples = hop_samples
        self.quantizer = quantizer
        self.register_module("code_model", None)  # see `CodeFiles`
        self.mdct = MDCT(hop_samples, window)
        self.decoder = None
        if decoder_blocks:
            self.decoder = ConvNeXtStack(
                2 * dim, 2 * dim, width, decoder_blocks, expansion, kernel_size
            )
            nn.init.constant_(self.decoder.leave.bias[dim:], noise_fill)
        # Until `initialize`: the lowest coefficients of a signal at -20 dB.
        self.register_buffer("basis", torch.eye(hop_samples)[:, :dim].contiguous())
        self.register_buffer("level", torch.tensor(0.1))
        self.register_buffer("latent_scale", torch.ones(dim))
        # Expected deviation by number of quantizers; unused where the quantizer knows.
        table = torch.ones(quantizer.num_quantizers, dim)
        self.register_buffer("deviation", table)

    @property
    def file_settings(self) -> tuple:
        """What files depend on beside weights."""
        return self.sample_rate, self.hop_samples, self.mdct.window_shape

    def num_frames(self, num_samples: int) -> int:
        """Frames of a signal of that many samples."""
        return self.mdct.num_frames(num_samples)

    def analyze(
        self, wav: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Waveform to latents, before quantization.

        Arguments
        ---------
        wav : torch.Tensor
            [batch, time].
        lengths : torch.Tensor | None
            Samples of each item, [batch]; None: all of them.

        Returns
        -------
        torch.Tensor
            float32, [batch, num_frames, dim].
        """
        if lengths is not None:
            inside = torch.arange(wav.shape[1], device=wav.device) < lengths[:, None]
            wav = torch.where(inside, wav, torch.zeros_like(wav))
        with torch.autocast(wav.device.type, enabled=False):
            return self.to_latents(self.mdct(wav))

    def to_latents(self, coefficients: torch.Tensor) -> torch.Tensor:
        """From [batch, num_frames, hop_samples] to [batch, num_frames, dim]."""
        return coefficients @ self.basis / self.level

    def to_coefficients(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo `to_latents`, but for what the basis leaves out."""
        return latents @ self.basis.t() * self.level

    def synthesize(
        self,
        latents: torch.Tensor,
        deviation: torch.Tensor,
        length: int | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Quantized latents to waveform.

        Arguments
        ---------
        latents : torch.Tensor
            [batch, num_frames, dim].
        deviation : torch.Tensor
            Expected root-mean-square error of the latents, broadcastable to them.
        length : int | torch.Tensor | None
            As in `decode`.

        Returns
        -------
        torch.Tensor
            float32, [batch, length].
        """
        per_item = isinstance(length, torch.Tensor)
        samples = int(length.max()) if per_item else length
        mask = self._frame_mask(length, latents.shape[1]) if per_item else None
        latents = latents.float()
        if self.decoder is not None:
            latents = latents + self._correction(latents, deviation, mask)
        with torch.autocast(latents.device.type, enabled=False):
            wav = self.mdct.inverse(self.to_coefficients(latents), samples)
        if not per_item:
            return wav
        inside = torch.arange(samples, device=wav.device) < length[:, None]
        return torch.where(inside, wav, torch.zeros_like(wav))

    def _correction(
        self, latents: torch.Tensor, deviation: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Ask the network what to add to quantized latents, same shape."""
        answer = self.decoder(self.network_input(latents, deviation), mask)
        return self.corrections(answer, deviation, self.noise_source())

    def network_input(
        self, latents: torch.Tensor, deviation: torch.Tensor
    ) -> torch.Tensor:
        """Return what the network sees of latents, [batch, num_frames, 2 * dim]."""
        # asinh: linear for small values, logarithmic for large: speech spans 60 dB.
        seen = torch.log(deviation.expand_as(latents) / self.latent_scale + 1e-3)
        return torch.cat([torch.asinh(latents / self.latent_scale), seen], dim=2)

    @staticmethod
    def noise_source() -> torch.Generator:
        """Return where the noise of an utterance's frames comes from, in order."""
        # On the CPU and by number of frame: the same on every device and in any batch.
        return torch.Generator().manual_seed(0)

    @staticmethod
    def corrections(
        answer: torch.Tensor, deviation: torch.Tensor, noise_source: torch.Generator
    ) -> torch.Tensor:
        """Return what the network's answer adds to latents, [batch, frames, dim]."""
        offset, spread = answer.float().chunk(2, dim=2)
        noise = torch.empty(offset.shape[1:])
        noise = noise.uniform_(-1.73, 1.73, generator=noise_source)
        return deviation * (offset + spread * noise.to(offset.device))

    def forward(
        self,
        wav: torch.Tensor,
        num_quantizers: int | None = None,
        lengths: torch.Tensor | None = None,
    ) -> CodecResult:
        """Encode, quantize, decode; differentiable (straight through).

        Arguments
        ---------
        wav : torch.Tensor
            [batch, time >= 1]. A NaN makes its own item NaN and no other.
        num_quantizers : int | None
            As in the quantizer's forward.
        lengths : torch.Tensor | None
            Samples of each item, [batch]; the reconstruction is zero beyond, and an
            item is reconstructed as if it were alone.

        Returns
        -------
        CodecResult
            ``wav`` is [batch, time], float32.
        """
        latents = self.analyze(wav, lengths)
        rvq = self.quantizer(latents, num_quantizers, **self._num_frames(lengths))
        length = wav.shape[1] if lengths is None else lengths
        number = rvq.codes.shape[1]
        deviation = self._deviation(rvq.metrics.get("expected_error"), number)
        decoded = self.synthesize(rvq.quantized, deviation, length)
        missing = wav.shape[1] - decoded.shape[1]
        return CodecResult(nn.functional.pad(decoded, (0, missing)), rvq)

    @torch.no_grad()
    def encode(
        self,
        wav: torch.Tensor,
        kbps: float | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Waveform to codes.

        Arguments
        ---------
        wav : torch.Tensor
            [batch, time >= 1].
        kbps : float | None
            Highest rate allowed, see `kbps_to_quantizers`; None: all quantizers.
        lengths : torch.Tensor | None
            As in `forward`.

        Returns
        -------
        torch.Tensor
            int64, [batch, num_quantizers, num_frames] with
            ``num_frames = ceil(time / hop_samples) + 1``.
        """
        number = self.kbps_to_quantizers(kbps)
        latents = self.analyze(wav, lengths)
        return self.quantizer.encode(latents, number, **self._num_frames(lengths))

    @torch.no_grad()
    def decode(
        self, codes: torch.Tensor, length: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes to waveform.

        Arguments
        ---------
        codes : torch.Tensor
            [batch, num_quantizers, num_frames]; fewer quantizers are a lower rate.
        length : int | torch.Tensor | None
            Samples wanted; per item, [batch], where items were padded; None: as many
            as the frames hold.

        Returns
        -------
        torch.Tensor
            float32, [batch, length].
        """
        lengths = length if isinstance(length, torch.Tensor) else None
        return self.synthesize(*self.dequantize(codes, lengths), length)

    @torch.no_grad()
    def dequantize(
        self, codes: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes to latents and their expected deviation, as `synthesize` takes them.

        Arguments
        ---------
        codes : torch.Tensor
            As in `decode`.
        lengths : torch.Tensor | None
            As in `forward`.
        """
        error = None
        if isinstance(self.quantizer, AdaptiveResidualVectorQuantizer):
            latents, error = self.quantizer.decode_with_error(
                codes, **self._num_frames(lengths)
            )
        else:
            latents = self.quantizer.decode(codes)
        return latents, self._deviation(error, codes.shape[1])

    @torch.no_grad()
    def initialize(
        self,
        waves: Iterable[torch.Tensor],
        seed: int = 0,
        *,
        num_shifts: int = 8,
        max_frames: int = 120_000,
    ) -> None:
        """Learn everything that needs no gradient: scales, PCA, codebooks.

        An MDCT is not shift-invariant: the same second of speech, moved by a few
        samples, gives other coefficients. Every utterance therefore enters
        ``num_shifts`` times, at shifts spread over a hop; with three minutes of speech
        that is worth 1 dB on unseen files, because codebooks of 256 codes no longer
        learn their training frames by heart.

        Arguments
        ---------
        waves : iterable of torch.Tensor
            Training utterances, each [time] or [batch, time].
        seed : int
            Of k-means and of the choice of frames; the same waves and seed give the
            same codec.
        num_shifts : int
            Shifted copies per utterance (>= 1).
        max_frames : int
            Frames kept, drawn evenly; bounds time and memory on a large corpus.

        Raises
        ------
        ValueError
            If the waves hold no sound.
        """
        frames = self._collect_frames(waves, seed, num_shifts, max_frames)
        power = frames.square().mean(0)
        if frames.shape[0] == 0 or not float(power.sum()) > 0:
            raise ValueError(
                "TransformCodec.initialize: the training audio is empty or silent; "
                "check the train manifest"
            )
        if self.basis_kind == "pca":
            self.basis.copy_(_principal_components(frames, self.quantizer.dim))
        latents = frames @ self.basis
        self.level.copy_(latents.square().mean().sqrt())
        latents = latents / self.level
        self.latent_scale.copy_(latents.square().mean(0).sqrt().clamp(min=1e-3))
        generator = torch.Generator().manual_seed(seed)
        self.quantizer.initialize(latents, generator)
        self._measure_deviation(latents)

    def _measure_deviation(self, latents: torch.Tensor) -> None:
        """Fill the table of root-mean-square errors per number of quantizers."""
        if isinstance(self.quantizer, AdaptiveResidualVectorQuantizer):
            return  # knows better, frame by frame
        latents = latents[None, : 2**14]
        codes = self.quantizer.encode(latents)
        for number in range(1, codes.shape[1] + 1):
            error = latents - self.quantizer.decode(codes[:, :number])
            self.deviation[number - 1] = error.square().mean((0, 1)).sqrt()

    def _deviation(self, error: torch.Tensor | None, number: int) -> torch.Tensor:
        """Return the expected deviation per dimension, broadcastable to latents.

        Arguments
        ---------
        error : torch.Tensor | None
            Mean square error per group, [batch, num_frames, groups], if known.
        number : int
            Number of quantizers.
        """
        if error is None:
            return self.deviation[number - 1]
        sizes = self.quantizer.group_sizes
        # Within a group the error is spread like the signal.
        shape = [s / s.square().mean().sqrt() for s in self.latent_scale.split(sizes)]
        parts = [
            error[..., group, None].sqrt() * profile
            for group, profile in enumerate(shape)
        ]
        return torch.cat(parts, dim=2)

    def _collect_frames(
        self,
        waves: Iterable[torch.Tensor],
        seed: int,
        num_shifts: int,
        max_frames: int,
    ) -> torch.Tensor:
        """Finite MDCT frames of shifted copies, [num_frames <= max_frames, hop]."""
        device = self.basis.device
        collected = [torch.zeros(0, self.hop_samples, device=device)]
        for wav in waves:
            wav = torch.atleast_2d(wav).to(device)
            for index in range(num_shifts):
                shift = index * self.hop_samples // num_shifts
                if wav.shape[1] > shift:
                    coefficients = self.mdct(wav[:, shift:]).flatten(0, 1)
                    collected.append(coefficients)
        frames = torch.cat(collected)
        frames = frames[frames.square().sum(1).isfinite()]
        if frames.shape[0] <= max_frames:
            return frames
        generator = torch.Generator().manual_seed(seed)
        keep = torch.randperm(frames.shape[0], generator=generator)[:max_frames]
        return frames[keep.sort().values.to(device)]

    def _num_frames(self, lengths: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Frames of each item, for a quantizer that looks beyond a single frame."""
        if lengths is None or not isinstance(
            self.quantizer, AdaptiveResidualVectorQuantizer
        ):
            return {}
        return {"num_frames": -(-lengths // self.hop_samples) + 1}

    def _frame_mask(self, lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
        """1.0 in the frames of each item, [batch, num_frames, 1]."""
        last = (lengths + self.hop_samples - 1) // self.hop_samples
        steps = torch.arange(num_frames, device=lengths.device)
        return (steps <= last[:, None]).float()[..., None]


def _principal_components(frames: torch.Tensor, number: int) -> torch.Tensor:
    """Orthonormal directions of most energy, first the most, [channels, number]."""
    # About zero, not about the mean: the codec has no bias to add back.
    moments = frames.double().t() @ frames.double()
    basis = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :number].float()
    # An eigenvector's sign is arbitrary and differs between libraries: fix it.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return basis * largest.sign()
