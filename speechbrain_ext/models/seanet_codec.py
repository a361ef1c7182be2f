"""SEANetCodec: convolutions on the waveform; needs a GPU and hours, not minutes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from speechbrain_ext.models.code_files import CodeFiles
from speechbrain_ext.models.codec import CodecResult, NestedRates


def _conv(inputs: int, outputs: int, kernel_size: int, dilation: int = 1) -> nn.Module:
    padding = dilation * (kernel_size - 1) // 2
    return nn.Conv1d(inputs, outputs, kernel_size, padding=padding, dilation=dilation)


class ResidualUnit(nn.Module):
    """Dilated and pointwise convolution beside a shortcut (SEANet, fig. 2).

    Arguments
    ---------
    channels : int
        Channels in and out; half of them inside.
    dilation : int
        Of the first convolution, whose kernel has 3 taps.
    """

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.ELU(),
            _conv(channels, channels // 2, 3, dilation),
            nn.ELU(),
            _conv(channels // 2, channels, 1),
        )

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """[batch, channels, time] -> same."""
        return signal + self.body(signal)


class FrameLSTM(nn.Module):
    """LSTM over frames with a shortcut, as EnCodec puts around its quantizer."""

    def __init__(self, channels: int, num_layers: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers, batch_first=True)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """[batch, channels, time] -> same."""
        return signal + self.lstm(signal.transpose(1, 2))[0].transpose(1, 2)


class SEANetCodec(CodeFiles, NestedRates, nn.Module):
    """Waveform codec: strided convolutions, residual vector quantizer, and back.

    SEANet (Tagliasacchi et al., 2020) as used by SoundStream (Zeghidour et al., 2021)
    and EnCodec (Defossez et al., 2022). Not causal; no weight normalisation: the
    gradient is clipped in the recipes instead.

    Nothing but the codebooks can be learned without gradient here, so it starts with
    noise and needs thousands of steps. Train the first ones as a plain autoencoder:
    the quantizer's lazy k-means does that until it has its frames.

    Arguments
    ---------
    quantizer : nn.Module
        A `ResidualVectorQuantizer`, or whatever has its interface; its ``dim`` is the
        latent's.
    sample_rate : int
        In Hz.
    channels : int
        Channels at full rate; doubled by each stride.
    strides : Sequence[int]
        Of the encoder, from the waveform inwards; (2, 4, 5, 8) is 50 frames per second
        at 16 kHz.
    dilations : Sequence[int]
        One residual unit each, before every stride.
    lstm_layers : int
        Around the quantizer on both sides; 0: none.

    Example
    -------
    >>> from speechbrain_ext.quantization import ResidualVectorQuantizer
    >>> rvq = ResidualVectorQuantizer(8, num_quantizers=4, codebook_size=16)
    >>> codec = SEANetCodec(rvq, channels=2, strides=(2, 4)).eval()
    >>> codes = codec.encode(torch.randn(2, 99))
    >>> codes.shape, codec.decode(codes, length=99).shape
    (torch.Size([2, 4, 13]), torch.Size([2, 99]))
    """

    def __init__(
        self,
        quantizer: nn.Module,
        sample_rate: int = 16000,
        channels: int = 32,
        strides: Sequence[int] = (2, 4, 5, 8),
        dilations: Sequence[int] = (1, 3),
        lstm_layers: int = 0,
    ):
        super().__init__()
        self.sample_rate = sample_rate
        self.hop_samples = math.prod(strides)
        self.file_settings = (sample_rate, tuple(strides), tuple(dilations))
        self.quantizer = quantizer
        self.register_module("code_model", None)  # see `CodeFiles`
        wide = channels * 2 ** len(strides)
        self.encoder = nn.Sequential(
            _conv(1, channels, 7),
            *self._down(channels, strides, dilations),
            *([FrameLSTM(wide, lstm_layers)] if lstm_layers else []),
            nn.ELU(),
            _conv(wide, quantizer.dim, 3),
        )
        self.decoder = nn.Sequential(
            _conv(quantizer.dim, wide, 7),
            *([FrameLSTM(wide, lstm_layers)] if lstm_layers else []),
            *self._up(wide, strides, dilations),
            nn.ELU(),
            _conv(channels, 1, 7),
        )
        self._start_at_unit_gain()

    @torch.no_grad()
    def _start_at_unit_gain(self) -> None:
        """Redraw the convolutions so that a signal keeps its level through them.

        torch's default divides it by sqrt(3) per layer: after twenty of them the
        output is silence, from where such codecs need hours to leave.
        """
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose1d):
                # Two taps per input channel reach each output sample.
                fan_in = module.in_channels * module.kernel_size[0] / module.stride[0]
            elif isinstance(module, nn.Conv1d):
                fan_in = module.in_channels * module.kernel_size[0]
            else:
                continue
            module.weight.normal_(0, fan_in**-0.5)
            module.bias.zero_()
        for module in self.modules():
            if isinstance(module, ResidualUnit):
                module.body[-1].weight.mul_(0.5)  # or shortcuts add up to an explosion

    @staticmethod
    def _down(
        channels: int, strides: Sequence[int], dilations: Sequence[int]
    ) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for stride in strides:
            layers += [ResidualUnit(channels, dilation) for dilation in dilations]
            # 2 x stride taps and this padding: time / stride frames exactly.
            down = nn.Conv1d(
                channels, 2 * channels, 2 * stride, stride, padding=(stride + 1) // 2
            )
            layers += [nn.ELU(), down]
            channels *= 2
        return layers

    @staticmethod
    def _up(
        channels: int, strides: Sequence[int], dilations: Sequence[int]
    ) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for stride in reversed(strides):
            up = nn.ConvTranspose1d(
                channels,
                channels // 2,
                2 * stride,
                stride,
                padding=(stride + 1) // 2,
                output_padding=stride % 2,
            )
            channels //= 2
            layers += [nn.ELU(), up]
            layers += [ResidualUnit(channels, dilation) for dilation in dilations]
        return layers

    def num_frames(self, num_samples: int) -> int:
        """Frames of a signal of that many samples."""
        return -(-num_samples // self.hop_samples)

    def analyze(self, wav: torch.Tensor) -> torch.Tensor:
        """Waveform [batch, time >= 1] to latents [batch, frames, dim].

        There are ceil(time / hop_samples) frames.

        Raises
        ------
        ValueError
            If ``wav`` is not [batch, time] or holds no sample.
        """
        if wav.ndim != 2 or wav.shape[1] == 0:
            raise ValueError(
                f"SEANetCodec: wav must be [batch, time >= 1], got {list(wav.shape)}"
            )
        padding = -wav.shape[1] % self.hop_samples
        padded = nn.functional.pad(wav.float(), (0, padding))
        return self.encoder(padded[:, None]).transpose(1, 2)

    def synthesize(
        self, latents: torch.Tensor, length: int | None = None
    ) -> torch.Tensor:
        """Latents [batch, frames, dim] to waveform, float32, [batch, length].

        Raises
        ------
        ValueError
            If ``length`` is more than the frames hold.
        """
        available = latents.shape[1] * self.hop_samples
        length = available if length is None else length
        if not 0 <= length <= available:
            raise ValueError(
                f"SEANetCodec: {latents.shape[1]} frames hold {available} samples, "
                f"{length} were asked for"
            )
        return self.decoder(latents.transpose(1, 2))[:, 0, :length].float()

    def forward(
        self, wav: torch.Tensor, num_quantizers: int | None = None
    ) -> CodecResult:
        """Encode, quantize, decode; differentiable (straight through).

        Arguments
        ---------
        wav : torch.Tensor
            [batch, time >= 1]; a NaN makes its own item NaN and no other.
        num_quantizers : int | None
            As in the quantizer's forward.

        Returns
        -------
        CodecResult
            ``wav`` is [batch, time], float32.
        """
        rvq = self.quantizer(self.analyze(wav), num_quantizers)
        return CodecResult(self.synthesize(rvq.quantized, wav.shape[1]), rvq)

    @torch.no_grad()
    def encode(self, wav: torch.Tensor, kbps: float | None = None) -> torch.Tensor:
        """Waveform [batch, time] to codes, int64, [batch, num_quantizers, frames].

        Arguments
        ---------
        wav : torch.Tensor
            [batch, time >= 1].
        kbps : float | None
            Highest rate allowed, see `kbps_to_quantizers`; None: all quantizers.
        """
        number = self.kbps_to_quantizers(kbps)
        return self.quantizer.encode(self.analyze(wav), number)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, length: int | None = None) -> torch.Tensor:
        """Codes to waveform, float32, [batch, length]; None: all the frames hold."""
        return self.synthesize(self.quantizer.decode(codes), length)

    @torch.no_grad()
    def initialize(self, waves: Iterable[torch.Tensor], seed: int = 0) -> None:
        """Codebooks by k-means on the latents of the training waves.

        Worth it only once the encoder has learned something, for example at
        fine-tuning; before that leave it to the quantizer's lazy k-means.

        Arguments
        ---------
        waves : iterable of torch.Tensor
            Utterances, each [time] or [batch, time].
        seed : int
            Of k-means.
        """
        device = next(self.parameters()).device
        latents = [
            self.analyze(torch.atleast_2d(wav).to(device)).flatten(0, 1)
            for wav in waves
        ]
        generator = torch.Generator().manual_seed(seed)
        self.quantizer.initialize(torch.cat(latents), generator)
