"""Files of codecs whose codes are those of a residual vector quantizer."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from speechbrain_ext.data.audio import resample
from speechbrain_ext.models.recordings import Aim, RecordingFiles, one_thread
from speechbrain_ext.quantization import AdaptiveResidualVectorQuantizer

if TYPE_CHECKING:  # its compiler takes half a second to import
    from speechbrain_ext.codec.codes import CodeCoder

#: What a file's header calls codes of a residual vector quantizer.
CODES = 2
#: Statistics that only training reads: a file does not depend on them.
_TRAINING_ONLY = ("ema_counts", "ema_sums", "commits", "frames", "committed", "closed")
#: Steps that are enough for an hour of speech, and for three minutes.
LEARNING_STEPS = 800
#: Copies of an utterance to learn from: moved by parts of a frame, or at other speeds.
_SHIFTS, _SPEEDS = 4, (0.95, 1.05)


class _Shared(NamedTuple):
    """What encoder and decoder share, made once from the weights."""

    key: tuple | None
    digest: bytes
    coder: CodeCoder


_SHARED: weakref.WeakKeyDictionary[torch.nn.Module, _Shared] = (
    weakref.WeakKeyDictionary()
)


class CodeFiles(RecordingFiles):
    """Recordings to files and back, by the codes of a codec.

    A mix-in for codecs with ``encode``, ``decode``, ``analyze``, ``num_frames``,
    ``file_settings``, ``quantizer`` and ``sample_rate``. A file holds the first rows of
    the codes of each channel, entropy-coded (`speechbrain_ext.codec.codes`). How likely
    codes are is learned by `learn_codes` and then part of the codec's weights, as
    ``code_model``; a codec that has not learned it writes each code in as many bits as
    it has. The constructor registers ``code_model`` as None.
    """

    _KINDS = (CODES,)

    def digest(self) -> bytes:
        """SHA-256 of all that encoder and decoder must share."""
        return self._shared().digest

    def _aim(self, kbps, snr, codebooks) -> Aim:
        who, most = type(self).__name__, self.quantizer.num_quantizers
        if snr is not None:
            raise ValueError(
                f"{who}: can't hold an SNR; give kbps or codebooks, got snr {snr}"
            )
        if (kbps is None) == (codebooks is None):
            raise ValueError(
                f"{who}: give kbps or codebooks, one of them, got kbps {kbps} and "
                f"codebooks {codebooks}"
            )
        if kbps is not None and not kbps > 0:
            raise ValueError(f"{who}: kbps must be positive, got {kbps}")
        if codebooks is not None and not 1 <= codebooks <= most:
            raise ValueError(
                f"{who}: codebooks must be between 1 and {most}, got {codebooks}"
            )
        return Aim(CODES, rows=most if codebooks is None else int(codebooks))

    def _tools(self) -> tuple[bytes, CodeCoder]:
        shared = self._shared()
        return shared.digest, shared.coder

    def _encode_channel(self, wave, aim, tools) -> tuple[bytes, int]:
        most = None if aim.bits is None else int(aim.bits / 8)
        signal = torch.from_numpy(np.asarray(wave, np.float32))[None]
        signal = signal.to(self._device())
        if isinstance(self.quantizer, AdaptiveResidualVectorQuantizer):
            latents = self.analyze(signal)[0].float().cpu().numpy()
            return tools.choose(latents, aim.rows, most=most)
        codes = self.encode(signal)[0, : aim.rows].cpu().numpy()
        return tools.encode(codes, most=most)

    def _decode_channel(self, payload, number, kind, count, tools) -> np.ndarray | None:
        if not (1 <= number <= self.quantizer.num_quantizers and count):
            return None
        frames = self.num_frames(count)
        codes = tools.decode(payload, number, frames)
        if codes is None:
            return None
        given = torch.from_numpy(codes)[None].to(self._device())
        return self.decode(given, length=count)[0].float().cpu().numpy()

    def _shared(self) -> _Shared:
        """Return what encoder and decoder share, from the weights as they are."""
        state = self.state_dict()
        try:
            key = tuple((x.data_ptr(), x._version) for x in state.values())
        except RuntimeError:  # tensors of inference mode don't count their versions
            key = None
        known = _SHARED.get(self)
        if known is not None and key is not None and known.key == key:
            return known
        from speechbrain_ext.codec.codes import CodeCoder

        coder = CodeCoder(self.quantizer, self.code_model)
        found = hashlib.sha256(repr((type(self).__name__, self.file_settings)).encode())
        for name, value in sorted(state.items()):
            if name.rpartition(".")[2] not in _TRAINING_ONLY:
                found.update(name.encode())
                found.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
        # Beyond the weights: where codes go.
        for table in coder.order[1:]:
            found.update(np.ascontiguousarray(table).tobytes())
        _SHARED[self] = _Shared(key, found.digest(), coder)
        return _SHARED[self]

    def _device(self) -> torch.device:
        return next(self.parameters(), next(self.buffers())).device

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        """Load weights with what was learned about codes, or without."""
        names = [name for name in state_dict if name.startswith(f"{prefix}code_model.")]
        if not names:
            # What was learned of other codebooks says nothing about these.
            self.code_model = None
        elif self.code_model is None:
            from speechbrain_ext.codec.codes import new_code_model

            self.code_model = new_code_model(self.quantizer).to(self._device())
        super()._load_from_state_dict(state_dict, prefix, *rest)


def learn_codes(
    codec: CodeFiles,
    waves: Sequence[np.ndarray | torch.Tensor],
    *,
    steps: int = LEARNING_STEPS,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> None:
    """Learn how likely a codec's codes are, as the last thing that it learns.

    The result, ``codec.code_model``, is part of its ``state_dict`` from then on. If the
    weights move afterwards files are still right, but larger. Each utterance enters
    several times, moved by parts of a frame and at other speeds, as unseen speech
    differs from what the codebooks were learned from.

    Arguments
    ---------
    codec : TransformCodec or SEANetCodec
    waves : sequence of np.ndarray or torch.Tensor
        Train utterances at the codec's rate, [time] each.
    steps : int
        Of the optimizer; 0.02 s each.
    seed : int
        Of the choice of utterances, first weights and batches; the global streams are
        left alone.
    progress : callable or None
        Called after each step.

    Raises
    ------
    ValueError
        If there is nothing to learn from.
    """
    from speechbrain_ext.codec.codes import (
        LEARNING_WORTH,
        MOST_CODES,
        CodeCoder,
        CodeLearner,
    )

    rows, quantizer = codec.quantizer.num_quantizers, codec.quantizer
    rng = np.random.default_rng(seed)
    adaptive = isinstance(quantizer, AdaptiveResidualVectorQuantizer)
    codec.code_model = None
    kept, count = [], 0
    with one_thread(), torch.no_grad():
        for wave in _copies(waves, rng, codec):
            if count >= MOST_CODES:
                break
            signal = torch.from_numpy(wave)[None].to(codec._device())
            latents = codec.analyze(signal)
            codes = quantizer.encode(latents)[0].cpu().numpy().astype(np.int16)
            kept.append((latents[0].float().cpu().numpy() if adaptive else None, codes))
            count += codes.size
    if not count:
        raise ValueError(
            f"{type(codec).__name__}: there are no waves to learn codes from; check "
            "the train manifest"
        )
    learner = CodeLearner(quantizer, seed)
    passes = 2 if adaptive else 1
    for number in range(passes):
        if number:
            # Codes that are chosen by their bits are others than the nearest.
            coder = CodeCoder(quantizer, learner.model(), LEARNING_WORTH)
            kept = [(x, coder.chosen(x, rows)) for x, _ in kept]
        learner.fit(
            [codes for _, codes in kept],
            steps=max(steps // passes, 1),
            progress=progress,
        )
    codec.code_model = learner.model().to(codec._device())


def _copies(waves, rng, codec):
    """Yield utterances in random order, all of them once, then again, moved."""
    plain = [np.asarray(wave, np.float32).reshape(-1) for wave in waves]
    rate = codec.sample_rate
    changes = [(shift / _SHIFTS, 1.0) for shift in range(_SHIFTS)]
    changes += [(0.0, speed) for speed in _SPEEDS]
    for part, speed in changes:
        for index in rng.permutation(len(plain)):
            wave = plain[index][round(part * codec.hop_samples) :]
            if speed != 1:
                wave = resample(wave, round(rate * speed), rate)
            if len(wave):
                yield np.ascontiguousarray(wave)
