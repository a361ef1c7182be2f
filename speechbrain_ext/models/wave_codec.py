"""`WaveCodec`: recordings to files and back, at a rate or at a fidelity."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from speechbrain_ext.codec.post_filter import Decoded, PostFilter
from speechbrain_ext.codec.settings import WaveSettings
from speechbrain_ext.codec.wave import WaveCoder
from speechbrain_ext.models.codec import CodecResult
from speechbrain_ext.models.recordings import Aim, RecordingFiles

#: Settings by the number that a file names them with.
PERCEPTUAL, FIDELITY = 0, 1
#: Rates that make sense, in kbps; below the lowest not even envelopes fit.
LOWEST_KBPS, HIGHEST_KBPS = 2.0, 256.0
#: dB; beyond, 16-bit recordings have nothing to be faithful to.
HIGHEST_SNR = 90.0
#: What only the encoder looks at, to find a step sooner.
_GUESSED_WITH = ("size_line", "size_curve")
#: Bits of a payload's last byte that may be empty.
_ROUNDING = 4
#: One step for all, no noise: the least error for its bits.
_FLAT = WaveSettings(
    gamma=0.0,
    weights_db=(0.0,) * 6,
    fill=(0.0,) * 4,
    fill_cap=0.0,
    sends_envelope=False,
)


class WaveCodec(RecordingFiles, nn.Module):
    """A transform coder with two settings: for the ear, and for the waveform.

    What it learns from a corpus are the contexts of its entropy coder, by `initialize`,
    and a small post-filter, by gradients through `forward`. A recording is a file of
    some bytes, which any machine decodes to the same symbols.

    Arguments
    ---------
    settings : WaveSettings or None
        For the ear; None: the defaults.
    sample_rate : int
        At which it codes, Hz; recordings of another rate are converted.
    hop_samples, fidelity_hop_samples : int
        Coefficients per frame of either.
    hidden : int
        Units of the networks of coefficients.
    context_steps : int
        Of learning the contexts.
    post_filter_channels : int
        Of the post-filter's layers; 0: there is none.
    train_kbps : sequence of float
        At which crops are coded to learn from, one after the other.

    Example
    -------
    >>> codec = WaveCodec(hidden=8, context_steps=80)
    >>> noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
    >>> codec.initialize([noise])
    >>> data = codec.compress(noise, 8000, kbps=8)
    >>> wave, sample_rate = codec.decompress(data)
    >>> len(data) <= 1000, wave.shape, sample_rate
    (True, (1, 8000), 8000)
    """

    _KINDS = (PERCEPTUAL, FIDELITY)

    def __init__(
        self,
        settings: WaveSettings | None = None,
        *,
        sample_rate: int = 16000,
        hop_samples: int = 256,
        fidelity_hop_samples: int = 320,
        hidden: int = 32,
        context_steps: int = 1200,
        post_filter_channels: int = 20,
        train_kbps: Sequence[float] = (6.0, 9.0, 14.0),
    ):
        super().__init__()
        if not train_kbps or not all(0 < rate < math.inf for rate in train_kbps):
            raise ValueError(
                f"WaveCodec: train_kbps must be positive rates, got {train_kbps}"
            )
        kept = {"sample_rate": sample_rate, "hidden": hidden}
        self.sample_rate = sample_rate
        self.context_steps = context_steps
        self.train_kbps = tuple(train_kbps)
        channels = post_filter_channels
        self.perceptual = WaveCoder(
            settings or WaveSettings(),
            hop_samples=hop_samples,
            post_filter=PostFilter(channels) if channels else None,
            **kept,
        )
        self.fidelity = WaveCoder(
            _FLAT, hop_samples=fidelity_hop_samples, window="sine", **kept
        )

    def initialize(
        self,
        waves: Sequence[np.ndarray | torch.Tensor],
        *,
        seed: int = 0,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Learn contexts from waveforms at `sample_rate`, [time] each.

        Arguments
        ---------
        waves : sequence of np.ndarray or torch.Tensor
            On the CPU.
        seed : int
            Of first weights and batches.
        progress : callable or None
            Called `initialization_steps` times.

        Raises
        ------
        ValueError
            If there is nothing to learn from.
        """
        waves = [np.asarray(wave) for wave in waves]
        if not any(wave.any() for wave in waves):
            raise ValueError("WaveCodec: needs sound to learn from, got silence alone")
        for coder in (self.perceptual, self.fidelity):
            coder.learn(waves, steps=self.context_steps, seed=seed, progress=progress)

    @property
    def initialization_steps(self) -> int:
        """How often `initialize` tells of progress."""
        return sum(
            self.context_steps
            + coder.settings.sends_envelope * max(self.context_steps // 2, 1)
            for coder in (self.perceptual, self.fidelity)
        )

    # -- training the post-filter -------------------------------------------------

    def forward(self, wav: torch.Tensor) -> CodecResult:
        """Code crops at `train_kbps`, one after the other, and mend them.

        Arguments
        ---------
        wav : torch.Tensor
            [batch, time]; the gradient reaches the post-filter alone.

        Returns
        -------
        CodecResult
            Of the whole change, whatever ``filter_strength`` is; ``rvq`` is None.
        """
        rates = self.train_kbps
        chosen = [rates[i % len(rates)] for i in range(len(wav))]
        made = self._coded(wav, chosen, strength=1.0)
        return CodecResult(made, None)

    def reconstructions(
        self, wav: torch.Tensor, kbps: Sequence[float]
    ) -> dict[float, torch.Tensor]:
        """Code waveforms [batch, time] at about each of these rates; no file is made.

        `compress` holds a rate exactly and takes several times as long.
        """
        return {rate: self._coded(wav, [rate] * len(wav)) for rate in kbps}

    def check_kbps(self, kbps: float) -> None:
        """Raise ValueError if no speech can be coded at this rate."""
        if not LOWEST_KBPS <= kbps <= HIGHEST_KBPS:
            raise ValueError(
                f"WaveCodec: kbps must be between {LOWEST_KBPS:g} and "
                f"{HIGHEST_KBPS:g}, got {kbps:g}"
            )

    def check_snr(self, snr: float) -> None:
        """Raise ValueError if no signal-to-noise ratio of so many dB is held."""
        if not 0 < snr <= HIGHEST_SNR:
            raise ValueError(
                f"WaveCodec: snr must be above 0 and at most {HIGHEST_SNR:g} dB, got "
                f"{snr:g}"
            )

    def _coded(self, wav, kbps, strength=None) -> torch.Tensor:
        coder, found = self.perceptual, []
        for one, rate in zip(wav.detach().cpu().numpy(), kbps, strict=True):
            found.append(coder.decoded(*coder.quantise(coder.analyse(one), rate)))
        decoded = Decoded(
            *(torch.cat(parts).to(wav.device) for parts in zip(*found, strict=True))
        )
        return coder.mdct.inverse(coder.mended(decoded, strength), wav.shape[1])

    # -- files ---------------------------------------------------------------------

    def digest(self) -> bytes:
        """SHA-256 of all that encoder and decoder must share."""
        found = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            if name.rpartition(".")[2] in _GUESSED_WITH:
                continue
            found.update(name.encode())
            found.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
        for coder in (self.perceptual, self.fidelity):
            found.update(repr((coder.settings, coder.mdct.hop_samples)).encode())
        return found.digest()

    def _aim(self, kbps, snr, codebooks) -> Aim:
        if codebooks is not None:
            raise ValueError(
                "WaveCodec: has no codebooks; give kbps or snr, got codebooks "
                f"{codebooks}"
            )
        wanted = kbps if snr is None else snr
        if (kbps is None) == (snr is None) or not 0 < wanted < math.inf:
            raise ValueError(
                "WaveCodec: give kbps or snr, one of them and positive, got "
                f"kbps {kbps} and snr {snr}"
            )
        if snr is None:
            return Aim(PERCEPTUAL)
        self.check_snr(snr)
        return Aim(FIDELITY, snr=snr)

    def _tools(self) -> tuple[bytes, None]:
        return self.digest(), None

    def _encode_channel(self, wave, aim, tools) -> tuple[bytes, int]:
        coder = self._coder(aim.kind)
        if aim.snr is not None:
            return coder.compress(wave, snr=aim.snr)
        return coder.compress(wave, bits=max(aim.bits - _ROUNDING, 1))

    def _decode_channel(self, payload, number, kind, count, tools) -> np.ndarray | None:
        return self._coder(kind).decompress(payload, number, count)

    def _coder(self, kind: int) -> WaveCoder:
        return self.fidelity if kind == FIDELITY else self.perceptual
