"""Speaker embeddings: log-mels, the mean of the utterance taken off, an encoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

#: Samples louder than this are scaled down in evaluation before their power is taken:
#: the square of 1e20 has no place in float32. Audio is at most 1.
LOUDEST = 1e6


class SpeakerEncoder(nn.Module):
    """From waveforms to one vector for each utterance.

    Built around stock parts, such as SpeechBrain's ``Fbank`` and ``ECAPA_TDNN``
    (Desplanques et al., 2020, https://arxiv.org/abs/2005.07143) or ``ResNet``. What is
    added is what these leave to the caller:

    - an utterance shorter than ``min_seconds`` is repeated until it is as long (they
      raise on fewer than 5 frames); an empty one, or a relative length of 0, is
      ``min_seconds`` of silence and not NaN;
    - features are computed in float32, also under autocast;
    - in evaluation each utterance is computed from its own samples alone: stock
      convolutions let the padding of a batch into its shorter utterances. One that is
      louder than 1e6 is scaled down, so that its power is finite.

    In training nothing is scaled down: samples of 1e30 are a broken file, whose
    features overflow, and whoever watches the training is told.

    NaN and Inf in a waveform stay what they are, in the embedding of that utterance
    and of no other: whoever asked is told, and not given a number.

    Arguments
    ---------
    features : torch.nn.Module
        ``[batch, time] -> [batch, frames, mels]``, without state of its own.
    encoder : torch.nn.Module
        ``([batch, frames, mels], relative lengths or None)`` to ``[batch, dim]`` or
        ``[batch, 1, dim]``.
    embedding_dim : int
        What the encoder returns.
    sample_rate : int
        In Hz.
    min_seconds : float
        Shortest input that is computed as it is (> 0).
    mean_norm : bool
        Take the mean over time off each mel band (not the variance).

    Raises
    ------
    ValueError
        If the parts do not fit each other, or ``min_seconds`` is too short for them.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> ecapa = ECAPA_TDNN(24, channels=[8] * 4 + [16], lin_neurons=12)
    >>> encoder = SpeakerEncoder(Fbank(n_mels=24), ecapa, embedding_dim=12).eval()
    >>> encoder(torch.zeros(2, 8000), torch.tensor([1.0, 0.0])).shape
    torch.Size([2, 12])
    """

    def __init__(
        self,
        features: nn.Module,
        encoder: nn.Module,
        *,
        embedding_dim: int,
        sample_rate: int = 16000,
        min_seconds: float = 0.1,
        mean_norm: bool = True,
    ):
        super().__init__()
        self.features = features
        self.encoder = encoder
        self.embedding_dim = embedding_dim
        self.sample_rate = sample_rate
        self.min_samples = round(min_seconds * sample_rate)
        self.mean_norm = mean_norm
        if self.min_samples < 1:
            raise ValueError(
                f"SpeakerEncoder: min_seconds must be > 0, got {min_seconds}"
            )
        self.min_frames = self._try_out(min_seconds)

    def _try_out(self, min_seconds: float) -> int:
        """Put the shortest input through both parts; returns its number of frames."""
        was_training = self.training
        self.eval()  # no statistics of silence into BatchNorm
        try:
            with torch.no_grad():
                features = self.features(torch.zeros(1, self.min_samples))
                found = self._vectors(self.encoder(features)).shape[-1]
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "SpeakerEncoder: features and encoder do not fit each other, or "
                f"min_seconds {min_seconds} is too short for them (ECAPA needs 5 "
                f"frames): {str(error).splitlines()[0]}"
            ) from error
        finally:
            self.train(was_training)
        if found != self.embedding_dim:
            raise ValueError(
                f"SpeakerEncoder: embedding_dim is {self.embedding_dim}, but the "
                f"encoder returns {found} numbers"
            )
        return features.shape[1]

    def forward(
        self, wavs: torch.Tensor, wav_lens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embed a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Samples, [batch, time]; of any floating type.
        wav_lens : torch.Tensor or None
            Lengths relative to ``time`` in [0, 1], [batch]; None: all are whole. What
            lies behind them is not looked at.

        Returns
        -------
        torch.Tensor
            float32, [batch, embedding_dim]; not normalised.

        Raises
        ------
        ValueError
            If ``wavs`` has another shape, or a single utterance is given in training,
            of which BatchNorm has no statistics.
        """
        if wavs.ndim != 2:
            raise ValueError(
                f"SpeakerEncoder: wavs must be [batch, time], got {[*wavs.shape]}"
            )
        if self.training:
            return self.encode(*self._padded_features(wavs, wav_lens))
        rows = self._by_length(wavs, wav_lens)
        found = [(r, self.encode(self._log_mels(wav))) for r, wav in rows]
        return _in_order(found, (len(wavs), self.embedding_dim), wavs.device)

    def compute_features(
        self, wavs: torch.Tensor, wav_lens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute log-mels in dB, of each utterance by itself; see `forward`.

        Returns
        -------
        torch.Tensor
            float32, [batch, frames, mels]; zeros behind the end of an utterance.
        """
        return self._padded_features(wavs, wav_lens)[0]

    def encode(
        self, features: torch.Tensor, lens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embed features, [batch, frames, mels]; too few frames are repeated.

        Arguments
        ---------
        features : torch.Tensor
            From `compute_features`.
        lens : torch.Tensor or None
            Lengths relative to ``frames``, [batch]. With it the encoder masks what
            lies behind, but its convolutions see it: `forward` does not.

        Returns
        -------
        torch.Tensor
            float32, [batch, embedding_dim].
        """
        if self.training and len(features) < 2:
            raise ValueError(
                "SpeakerEncoder: training needs 2 utterances in a batch at least, got "
                f"{len(features)}: BatchNorm has no variance of one; give a larger "
                "batch_size, and leave incomplete batches out (drop_last)"
            )
        frames = features.shape[1]
        if frames < self.min_frames:
            features = _repeated(features, self.min_frames)
            lens = None if lens is None else torch.ones_like(lens)
        if lens is None:
            return self._vectors(self.encoder(features)).float()
        return self._vectors(self.encoder(features, lens)).float()

    @staticmethod
    def _vectors(output: torch.Tensor) -> torch.Tensor:
        return output.squeeze(1) if output.ndim == 3 else output

    # -- features ----------------------------------------------------------------

    def _log_mels(self, wavs: torch.Tensor) -> torch.Tensor:
        """Log-mels of whole utterances of one length, [batch, frames, mels]."""
        with torch.autocast(wavs.device.type, enabled=False):
            wavs = wavs.float()
            if not self.training:
                # Exactly 1 for all that is no louder than LOUDEST.
                peaks = wavs.abs().amax(dim=1, keepdim=True).clamp(min=LOUDEST)
                wavs = wavs * (LOUDEST / peaks)
            features = self.features(wavs)
            if self.mean_norm:
                features = features - features.mean(dim=1, keepdim=True)
            return features

    def _padded_features(
        self, wavs: torch.Tensor, wav_lens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return features and their relative lengths; None if all are whole."""
        groups = [(r, self._log_mels(w)) for r, w in self._by_length(wavs, wav_lens)]
        if len(groups) == 1:
            return groups[0][1], None
        frames = max(found.shape[1] for _, found in groups)
        padded = groups[0][1].new_zeros(len(wavs), frames, groups[0][1].shape[2])
        lens = padded.new_zeros(len(wavs))
        for rows, found in groups:
            padded[rows, : found.shape[1]] = found
            # Half a frame less: masks take every frame that begins before the end.
            lens[rows] = (found.shape[1] - 0.5) / frames
        return padded, lens

    def _by_length(
        self, wavs: torch.Tensor, wav_lens: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor | slice, torch.Tensor]]:
        """Yield rows of equal length, cut to it, and long enough for the encoder."""
        time = wavs.shape[1]
        if wav_lens is None or (len(wav_lens) and bool((wav_lens >= 1).all())):
            yield slice(None), _long_enough(wavs, self.min_samples)
            return
        counts = (wav_lens.to(wavs.device).float() * time).round().long()
        counts = counts.clamp(0, time)
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero()[:, 0]
            yield rows, _long_enough(wavs[rows, :count], self.min_samples)


def _long_enough(wavs: torch.Tensor, count: int) -> torch.Tensor:
    """Repeat [batch, time] until there are ``count`` samples; nothing is silence."""
    if wavs.shape[1] >= count:
        return wavs
    if not wavs.shape[1]:
        return wavs.new_zeros(len(wavs), count)
    return _repeated(wavs, count)


def _repeated(x: torch.Tensor, count: int) -> torch.Tensor:
    """Repeat dimension 1 until it has ``count`` entries."""
    times = -(-count // x.shape[1])
    return x.repeat(1, times, *[1] * (x.ndim - 2))[:, :count]


def _in_order(groups: list, shape: tuple[int, int], device) -> torch.Tensor:
    if len(groups) == 1:
        return groups[0][1]
    found = torch.empty(shape, device=device)
    for rows, vectors in groups:
        found[rows] = vectors
    return found
