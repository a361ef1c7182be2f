"""TransformCodec: MDCT, a linear transform learned from the data, a small network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from speechbrain_ext.models.codec import CodecResult, NestedRates
from speechbrain_ext.models.convnext import ConvNeXtStack
from speechbrain_ext.models.mdct import MDCT
from speechbrain_ext.quantization import AdaptiveResidualVectorQuantizer


class TransformCodec(NestedRates, nn.Module):
    """Neural codec that starts as a good classical transform codec and only improves.

    MDCT -> linear transform (PCA of the training frames) + ConvNeXt correction ->
    residual vector quantizer -> transposed PCA + ConvNeXt correction -> inverse MDCT.
    The corrections are zero at the start, so after `initialize` (no gradient step) the
    codec already is what decades of transform coding recommend; training moves away
    from there. A waveform network of the same size does not leave zero output in the
    time this one is trained.

    SoundStream (Zeghidour et al., 2021) with its convolutional encoder and decoder
    replaced; rates are nested as there: the first n quantizers are a codec of their
    own.

    Arguments
    ---------
    quantizer : nn.Module
        A `ResidualVectorQuantizer`, or whatever has its interface; its ``dim`` is the
        latent's.
    sample_rate : int
        In Hz.
    hop_samples : int
        Samples per frame (even); 320 at 16 kHz is 50 frames per second.
    width, expansion, kernel_size
        Of the corrections, see `ConvNeXtBlock`.
    encoder_blocks, decoder_blocks : int
        Number of ConvNeXt blocks.
    window : str
        MDCT window, see `princen_bradley_window`.

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
        width: int = 256,
        encoder_blocks: int = 3,
        decoder_blocks: int = 4,
        expansion: float = 2.0,
        kernel_size: int = 7,
        window: str = "sine",
    ):
        super().__init__()
        if quantizer.dim > hop_samples:
            raise ValueError(
                f"TransformCodec: the quantizer's dim {quantizer.dim} is more than the "
                f"{hop_samples} coefficients of a frame; lower dim or raise hop_samples"
            )
        self.sample_rate = sample_rate
        self.hop_samples = hop_samples
        self.quantizer = quantizer
        self.mdct = MDCT(hop_samples, window)
        dim = quantizer.dim
        sizes = {"width": width, "expansion": expansion, "kernel_size": kernel_size}
        self.encoder = ConvNeXtStack(
            hop_samples, dim, num_blocks=encoder_blocks, **sizes
        )
        self.decoder = ConvNeXtStack(
            dim, hop_samples, num_blocks=decoder_blocks, **sizes
        )
        # Until `initialize`: the lowest ``dim`` coefficients of a signal at -20 dB.
        self.register_buffer("basis", torch.eye(hop_samples)[:, :dim].contiguous())
        self.register_buffer("level", torch.tensor(0.1))
        self.register_buffer("bin_scale", torch.full((hop_samples,), 0.1))
        self.register_buffer("latent_scale", torch.ones(dim))

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
        mask = None
        if lengths is not None:
            inside = torch.arange(wav.shape[1], device=wav.device) < lengths[:, None]
            wav = torch.where(inside, wav, torch.zeros_like(wav))
            mask = self._frame_mask(lengths, self.mdct.num_frames(wav.shape[1]))
        coefficients = self.mdct(wav)
        # asinh: linear for small values, logarithmic for large: speech spans 60 dB.
        features = torch.asinh(coefficients / self.bin_scale)
        correction = self.encoder(features, mask).float() * self.latent_scale
        with torch.autocast(wav.device.type, enabled=False):
            return coefficients @ self.basis / self.level + correction

    def synthesize(
        self, latents: torch.Tensor, length: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Latents, quantized or not, to waveform; ``length`` as in `decode`."""
        mask = None
        samples = length
        if isinstance(length, torch.Tensor):
            mask = self._frame_mask(length, latents.shape[1])
            samples = int(length.max())
        features = torch.asinh(latents / self.latent_scale)
        correction = self.decoder(features, mask).float() * self.bin_scale
        with torch.autocast(latents.device.type, enabled=False):
            linear = latents.float() @ self.basis.t() * self.level
            wav = self.mdct.inverse(linear + correction, samples)
        if mask is None:
            return wav
        inside = torch.arange(samples, device=wav.device) < length[:, None]
        return torch.where(inside, wav, torch.zeros_like(wav))

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
        decoded = self.synthesize(rvq.quantized, length)
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
        latents = self.quantizer.decode(codes, **self._num_frames(lengths))
        return self.synthesize(latents, length)

    @torch.no_grad()
    def initialize(
        self,
        waves: Iterable[torch.Tensor],
        seed: int = 0,
        *,
        num_shifts: int = 16,
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
        dim = self.quantizer.dim
        moments = frames.double().t() @ frames.double()
        basis = torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :dim].float()
        # An eigenvector's sign is arbitrary and differs between libraries: fix it.
        largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
        self.basis.copy_(basis * largest.sign())
        self.bin_scale.copy_(power.sqrt().clamp(min=1e-4))
        latents = frames @ self.basis
        self.level.copy_(latents.square().mean().sqrt())
        latents = latents / self.level
        self.latent_scale.copy_(latents.square().mean(0).sqrt().clamp(min=1e-3))
        generator = torch.Generator().manual_seed(seed)
        self.quantizer.initialize(latents, generator)

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
