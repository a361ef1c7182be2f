"""Waveforms to speaker embeddings, one utterance never touching another."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

#: Longer audio is cut into equal chunks whose embeddings are averaged, in seconds.
MAX_SECONDS = 60.0
#: Audio that goes through the network at once, in seconds.
BATCH_SECONDS = 120.0


class Embedded(NamedTuple):
    """What `Embedder.embed` returns, a row for each waveform.

    Attributes
    ----------
    speaker : numpy.ndarray
        Embeddings, float32 [n, dim].
    channel : numpy.ndarray
        Mean and standard deviation over time of the log-mels before any
        normalisation, float32 [n, 2 * mels]: they know the microphone and the room,
        not the voice, and a speaker encoder has to be better than they are.
    """

    speaker: np.ndarray
    channel: np.ndarray


class Embedder:
    """Apply a trained speaker encoder to waveforms of any length.

    Waveforms share a batch only if they are equally long. Padding would not do: the
    convolutions of ECAPA and ResNet look beyond an utterance's end, whatever relative
    lengths they are given, so a padded utterance's embedding depends on its batch
    (measured on ECAPA with 128 channels, 2.5 s padded to 3 s: cosine 0.989 to the
    same utterance alone; in equal batches the difference is below 1e-6).

    Arguments
    ---------
    encoder : SpeakerEncoder
        In eval mode, on ``device``.
    sample_rate : int
        That it was trained for, Hz.
    checkpoint : str
        SHA-256 of its weights.
    device : str
        Where to compute.
    max_seconds : float
        Longer audio is cut into the least number of equal chunks that are not longer
        than this; their embeddings are averaged (> 0).
    batch_seconds : float
        How much audio goes through the encoder at once; at least one chunk (> 0).
    """

    def __init__(
        self,
        encoder: torch.nn.Module,
        sample_rate: int,
        checkpoint: str = "",
        *,
        device: str = "cpu",
        max_seconds: float = MAX_SECONDS,
        batch_seconds: float = BATCH_SECONDS,
    ):
        for name, value in (
            ("max_seconds", max_seconds),
            ("batch_seconds", batch_seconds),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"Embedder: {name} must be > 0, got {value}")
        self.encoder = encoder
        self.sample_rate = sample_rate
        self.checkpoint = checkpoint
        self.device = device
        self.max_samples = max(1, round(max_seconds * sample_rate))
        self.batch_samples = max(1, round(batch_seconds * sample_rate))

    def embed(self, wavs: Sequence[np.ndarray]) -> Embedded:
        """Embed mono waveforms at the encoder's sample rate.

        Arguments
        ---------
        wavs : Sequence of numpy.ndarray
            float32 [time] each, at least one sample.

        Returns
        -------
        Embedded
            A row for each waveform, in their order. A waveform with NaN or Inf gives
            a row that is not finite; it does not touch the others.
        """
        by_length = defaultdict(list)
        for row, wav in enumerate(wavs):
            if wav.ndim != 1 or not wav.size:
                raise ValueError(
                    f"embed: a waveform must be [time], got shape {list(wav.shape)}"
                )
            chunks = cut(wav, self.max_samples)
            by_length[chunks.shape[1]].append((row, chunks))
        speaker: list = [None] * len(wavs)
        channel: list = [None] * len(wavs)
        for group in by_length.values():
            stacked = self._forward(np.concatenate([chunks for _, chunks in group]))
            start = 0
            for row, chunks in group:
                rows = slice(start, start + len(chunks))
                start = rows.stop
                speaker[row], channel[row] = (part[rows].mean(0) for part in stacked)
        return Embedded(np.stack(speaker), np.stack(channel))

    def _forward(self, wavs: np.ndarray) -> Embedded:
        """Embed equally long waveforms, [n, time], in batches."""
        at_once = max(1, self.batch_samples // wavs.shape[1])
        parts = [
            self._forward_batch(wavs[start : start + at_once])
            for start in range(0, len(wavs), at_once)
        ]
        return Embedded(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    @torch.inference_mode()
    def _forward_batch(self, wavs: np.ndarray) -> Embedded:
        batch = torch.from_numpy(wavs).to(self.device)
        with _full_precision():
            speaker = self.encoder(batch, None)
            log_mels = self.encoder.features(batch)
        mean = log_mels.mean(1)
        std = log_mels.std(1, correction=0)
        return Embedded(
            speaker.float().cpu().numpy(),
            torch.cat([mean, std], 1).float().cpu().numpy(),
        )


def _full_precision() -> contextlib.AbstractContextManager:
    """Keep cuDNN from TF32, its default for convolutions: it has three digits only."""
    cudnn = torch.backends.cudnn
    # Without these, `flags` would switch cuDNN off altogether.
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


def cut(wav: np.ndarray, max_samples: int) -> np.ndarray:
    """Cut a waveform into the least number of equal chunks, evenly spaced.

    Arguments
    ---------
    wav : numpy.ndarray
        [time].
    max_samples : int
        Longest chunk (> 0).

    Returns
    -------
    numpy.ndarray
        [chunks, time]; neighbours overlap by less than a sample for each chunk, so
        that all of ``wav`` is covered.

    Example
    -------
    >>> cut(np.arange(7), 4).tolist()
    [[0, 1, 2, 3], [3, 4, 5, 6]]
    """
    count = math.ceil(len(wav) / max_samples)
    length = math.ceil(len(wav) / count)
    starts = np.linspace(0, len(wav) - length, count).astype(int)
    return np.stack([wav[start : start + length] for start in starts])
