"""SpeechBrain's Fbank: its settings in words and numbers, and as an ONNX graph."""

from __future__ import annotations

import torch
from speechbrain.lobes.features import Fbank
from torch import nn
from torch.nn import functional

from speechbrain_ext.errors import UserError


def describe_features(features: nn.Module) -> dict:
    """Say how log-mels are computed, in enough detail to compute them elsewhere.

    Arguments
    ---------
    features : torch.nn.Module
        A ``speechbrain.lobes.features.Fbank`` without deltas and context.

    Returns
    -------
    dict
        For JSON.

    Raises
    ------
    UserError
        If it is something else.
    """
    _require_fbank(features)
    stft, mels = features.compute_STFT, features.compute_fbanks
    return {
        "sample_rate": stft.sample_rate,
        "n_fft": stft.n_fft,
        "win_samples": stft.win_length,
        "hop_samples": stft.hop_length,
        "window": "Hamming, periodic: 0.54 - 0.46 cos(2 pi n / win_samples), centred "
        "in n_fft",
        "padding": "n_fft // 2 zeros at both ends; 1 + samples // hop_samples frames",
        "spectrum": "power |X|^2 of the one-sided DFT, without scaling",
        "num_mels": mels.n_mels,
        "fmin_hz": mels.f_min,
        "fmax_hz": mels.f_max,
        "mel_scale": "2595 log10(1 + hz / 700); num_mels + 2 points, equally far apart",
        "filters": "triangles around points 1 to num_mels with height 1; to both sides "
        "they fall to 0 over the distance in Hz from the point before",
        "log": "10 log10(max(energy, log_floor)), in dB",
        "log_floor": mels.amin,
        "top_db": mels.top_db,
        "top_db_rule": "raise what is more than top_db below the largest value of the "
        "utterance to that level",
    }


def _require_fbank(features: nn.Module) -> None:
    what = type(features).__name__
    if type(features) is Fbank:
        stft, mels = features.compute_STFT, features.compute_fbanks
        faults = {
            "deltas": features.deltas,
            "context": features.context,
            "requires_grad": features.requires_grad,
            "filter_shape": mels.filter_shape != "triangular",
            "pad_mode": (stft.center, stft.pad_mode) != (True, "constant"),
            "power": mels.power_spectrogram != 2 or mels.ref_value != 1.0,
            "normalized_stft": stft.normalized_stft,
        }
        odd = [name for name, fault in faults.items() if fault]
        if not odd:
            return
        what = f"Fbank with another {', '.join(odd)}"
    raise UserError(
        f"export: features are computed by {what}; only SpeechBrain's Fbank with its "
        "default kind of filters can be described beside the model"
    )


class FbankGraph(nn.Module):
    """Fbank in operations that ONNX has: frames are gathered, the DFT is a product.

    In float64 up to the power: ``torch.stft`` is more exact than a float32 product,
    and the difference would show in quiet bands.

    Arguments
    ---------
    features : speechbrain.lobes.features.Fbank
        What it shall equal.
    """

    def __init__(self, features: Fbank):
        super().__init__()
        _require_fbank(features)
        stft = features.compute_STFT
        self.n_fft, self.hop_samples = stft.n_fft, stft.hop_length
        self.mels = features.compute_fbanks
        before = (stft.n_fft - stft.win_length) // 2
        window = functional.pad(
            stft.window.double().cpu(),
            (before, stft.n_fft - stft.win_length - before),
        )
        # A column for each bin: what the DFT of a unit impulse at each sample is.
        basis = torch.fft.rfft(torch.diag(window), dim=1)
        self.register_buffer("cosines", basis.real.contiguous())
        self.register_buffer("sines", basis.imag.contiguous())

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Compute log-mels in dB, [batch, time] -> [batch, frames, mels]."""
        padded = functional.pad(wavs, (self.n_fft // 2, self.n_fft // 2))
        num_frames = 1 + wavs.shape[1] // self.hop_samples
        starts = torch.arange(num_frames, device=wavs.device) * self.hop_samples
        places = starts[:, None] + torch.arange(self.n_fft, device=wavs.device)
        frames = padded[:, places].double()
        power = (frames @ self.cosines).square() + (frames @ self.sines).square()
        return self.mels(power.float())
