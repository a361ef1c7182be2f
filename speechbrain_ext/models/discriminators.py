"""Discriminators that hear a waveform through short-time spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations

#: What may stand around the convolutions of a discriminator.
_NORMS = {
    "weight": parametrizations.weight_norm,
    "spectral": parametrizations.spectral_norm,
    "none": lambda layer: layer,
}


@dataclass
class DiscriminatorResult:
    """What discriminators say of a batch of waveforms.

    Arguments
    ---------
    logits : list of torch.Tensor
        One per discriminator, [batch, 1, frames, bands]: above 0 is "real".
    features : list of list of torch.Tensor
        Outputs of the inner layers of each, [batch, channels, frames, bands].
    """

    logits: list[torch.Tensor]
    features: list[list[torch.Tensor]]


class STFTDiscriminator(nn.Module):
    """2-D convolutions on one complex spectrogram (Defossez et al., 2022, sec. 3.4).

    Real and imaginary part are the two channels that go in. A 3 x 9 convolution, one
    per dilation with stride 2 over frequency, a 3 x 3 one and the 3 x 3 one that
    judges, with LeakyReLU between. The kernels are those of EnCodec's code, which has
    9 bins where the paper says 8. Unlike there, the first layer is normalized too.

    Arguments
    ---------
    win_samples : int
        Length of the Hann window and of the FFT.
    hop_samples : int
        Step between frames.
    channels : int
        Of each inner layer.
    dilations : Sequence[int]
        Over time, of the strided layers.
    norm : str
        ``"weight"`` (EnCodec), ``"spectral"`` or ``"none"``.

    Raises
    ------
    ValueError
        If a size or the norm is out of range.
    """

    def __init__(
        self,
        win_samples: int,
        hop_samples: int,
        channels: int = 32,
        dilations: Sequence[int] = (1, 2, 4),
        norm: str = "weight",
    ):
        super().__init__()
        if min(win_samples, 2 * hop_samples, 2 * channels, *dilations) < 1 or (
            win_samples < 2
        ):
            raise ValueError(
                "STFTDiscriminator: win_samples must be >= 2, hop_samples, channels "
                f"and dilations >= 1, got {win_samples}, {hop_samples}, {channels} "
                f"and {list(dilations)}"
            )
        if norm not in _NORMS:
            raise ValueError(
                f"STFTDiscriminator: norm must be one of {', '.join(_NORMS)}, got "
                f"'{norm}'"
            )
        self.win_samples, self.hop_samples = win_samples, hop_samples
        self.register_buffer("window", torch.hann_window(win_samples), False)

        def layer(inputs, outputs, kernel, stride=1, dilation=1):
            padding = ((kernel[0] - 1) * dilation // 2, (kernel[1] - 1) // 2)
            return _NORMS[norm](
                nn.Conv2d(inputs, outputs, kernel, (1, stride), padding, (dilation, 1))
            )

        self.layers = nn.ModuleList(
            [
                layer(2, channels, (3, 9)),
                *(layer(channels, channels, (3, 9), 2, d) for d in dilations),
                layer(channels, channels, (3, 3)),
            ]
        )
        self.judge = layer(channels, 1, (3, 3))

    def spectrogram(self, wav: torch.Tensor) -> torch.Tensor:
        """[batch, time] to real and imaginary part, float32, [batch, 2, frames, bins].

        Divided by the norm of the window, so that noise has one level on all scales.
        """
        with torch.autocast(wav.device.type, enabled=False):
            window = self.window.float()
            spectrum = torch.stft(
                wav.float(),
                self.win_samples,
                self.hop_samples,
                window=window,
                center=False,
                return_complex=True,
            )
            spectrum = spectrum / torch.linalg.vector_norm(window)
            return torch.view_as_real(spectrum).permute(0, 3, 2, 1)

    def forward(self, wav: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Judge waveforms, [batch, time]; returns logits and features.

        Raises
        ------
        ValueError
            If ``wav`` is not [batch, time], or shorter than the window.
        """
        if wav.ndim != 2 or wav.shape[1] < self.win_samples:
            raise ValueError(
                f"STFTDiscriminator: wav must be [batch, time >= {self.win_samples}], "
                f"got {list(wav.shape)}; take longer crops or shorter windows"
            )
        signal, features = self.spectrogram(wav), []
        for layer in self.layers:
            signal = nn.functional.leaky_relu(layer(signal), 0.2)
            features.append(signal)
        return self.judge(signal), features


class MultiScaleSTFTDiscriminator(nn.Module):
    """One `STFTDiscriminator` per window length (Defossez et al., 2022, sec. 3.4).

    https://arxiv.org/abs/2210.13438. The defaults are the paper's for 24 kHz; it takes
    windows of twice the length at 48 kHz.

    Arguments
    ---------
    win_lengths : Sequence[int]
        In samples, one discriminator each. A batch must be as long as the longest.
    hop_lengths : Sequence[int] or None
        In samples; None: a quarter of each window.
    channels, dilations, norm
        Of each `STFTDiscriminator`.

    Raises
    ------
    ValueError
        If the lengths do not pair up, or are out of range.

    Example
    -------
    >>> discriminator = MultiScaleSTFTDiscriminator([64, 32], channels=4)
    >>> heard = discriminator(torch.randn(3, 200))
    >>> [list(logits.shape) for logits in heard.logits]
    [[3, 1, 9, 5], [3, 1, 22, 3]]
    >>> [len(features) for features in heard.features]
    [5, 5]
    """

    def __init__(
        self,
        win_lengths: Sequence[int] = (2048, 1024, 512, 256, 128),
        hop_lengths: Sequence[int] | None = None,
        channels: int = 32,
        dilations: Sequence[int] = (1, 2, 4),
        norm: str = "weight",
    ):
        super().__init__()
        if hop_lengths is None:
            hop_lengths = [max(1, win // 4) for win in win_lengths]
        if not win_lengths or len(win_lengths) != len(hop_lengths):
            raise ValueError(
                "MultiScaleSTFTDiscriminator: win_lengths and hop_lengths need the "
                "same number of entries, at least one; got "
                f"{list(win_lengths)} and {list(hop_lengths)}"
            )
        self.discriminators = nn.ModuleList(
            STFTDiscriminator(win, hop, channels, dilations, norm)
            for win, hop in zip(win_lengths, hop_lengths, strict=True)
        )

    def forward(self, wav: torch.Tensor) -> DiscriminatorResult:
        """Judge waveforms, [batch, time], on all scales.

        Raises
        ------
        ValueError
            If they are not [batch, time], or shorter than a window.
        """
        heard = [discriminator(wav) for discriminator in self.discriminators]
        return DiscriminatorResult([h[0] for h in heard], [h[1] for h in heard])
