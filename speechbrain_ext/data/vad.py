"""Where speech begins and ends: silero-vad, whose weights come inside its wheel.

Silero Team, 2024, "Silero VAD: pre-trained enterprise-grade Voice Activity Detector",
https://github.com/snakers4/silero-vad (MIT).

Its sequence model is used: one call of ONNX Runtime per 16 s of audio instead of one
per 32 ms, the same bounds in a sixth of the time. It takes its state as an argument,
so each recording begins afresh, whatever was listened to before and on which thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from speechbrain_ext.errors import UserError

#: What the model was trained on, in Hz.
SAMPLE_RATE = 16000

# Shorter bursts are clicks. The package's own 250 ms would drop single syllables.
_MIN_STRETCH_MS = 100

#: What ``--vad`` may be.
DETECTORS = ("silero", "none")

_MISSING = (
    "vad: the package {} is missing; install both with: "
    "pip install 'silero-vad[onnx-cpu]>=6.2.3'\n"
    "or go on without voice activity detection: --vad none"
)


class Bounds(NamedTuple):
    """Where the speech of a recording lies.

    Arguments
    ---------
    start, end : int
        First sample, and the one behind the last, margins included; 0, 0 if there is
        no speech.
    speech_seconds : float
        Sum of all stretches of speech between them, with their margins, without the
        pauses; a multiple of 32 ms but for the margins.
    """

    start: int
    end: int
    speech_seconds: float


class SpeechDetector:
    """Finds speech, and cuts away what lies before and behind it.

    An object is a ``trim`` for `speechbrain_ext.data.convert.convert_all`; threads may
    share it. On one machine the same samples give the same bounds, in any order.
    Loading it sets torch to one thread (silero-vad does so when it is imported).

    Arguments
    ---------
    threshold : float
        A window of 32 ms is speech from this probability on, in (0, 1).
    margin_ms : float
        Kept before and behind each stretch of speech: soft consonants.
    min_speech_seconds : float
        Recordings with less speech are rejected by ``__call__``. The default with the
        margins lets a spoken letter pass, of 0.24 s and more.

    Raises
    ------
    UserError
        If silero-vad or onnxruntime is not installed, with the command that does it.
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        margin_ms: float = 30.0,
        min_speech_seconds: float = 0.3,
    ):
        if not 0 < threshold < 1:
            raise ValueError(f"vad: threshold lies in (0, 1), got {threshold}")
        for name, value in [
            ("margin_ms", margin_ms),
            ("min_speech_seconds", min_speech_seconds),
        ]:
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"vad: {name} must be 0 or more, got {value}")
        self.threshold = threshold
        self.margin_ms = margin_ms
        self.min_speech_seconds = min_speech_seconds
        self._model, self._timestamps, self._version = _load()

    @property
    def stamp(self) -> str:
        """Name all that decides the bounds; another stamp means other audio."""
        return (
            f"silero-vad {self._version} {self.threshold:g} "
            f"{self.margin_ms:g}ms {self.min_speech_seconds:g}s"
        )

    def speech_bounds(self, wav: np.ndarray, sample_rate: int) -> Bounds:
        """Find the first and the last speech of a recording.

        Arguments
        ---------
        wav : numpy.ndarray
            Finite float samples in [-1, 1], [time].
        sample_rate : int
            16000.

        Returns
        -------
        Bounds

        Raises
        ------
        ValueError
            If ``wav`` is of another shape or rate, or holds NaN or Inf.
        """
        wav = np.ascontiguousarray(wav, dtype=np.float32)
        if wav.ndim != 1:
            raise ValueError(f"vad: wav must be [time], got shape {wav.shape}")
        if sample_rate != SAMPLE_RATE:
            raise ValueError(f"vad: needs {SAMPLE_RATE} Hz, got {sample_rate}")
        if not np.isfinite(wav).all():
            raise ValueError("vad: wav holds NaN or Inf")
        if wav.size == 0:
            return Bounds(0, 0, 0.0)
        stretches = self._timestamps(
            wav,
            self._model,
            threshold=self.threshold,
            speech_pad_ms=self.margin_ms,
            min_speech_duration_ms=_MIN_STRETCH_MS,
        )
        if not stretches:
            return Bounds(0, 0, 0.0)
        num_speech = sum(one["end"] - one["start"] for one in stretches)
        # Counted in whole windows, so the last one may reach beyond the recording.
        end = min(stretches[-1]["end"], wav.size)
        return Bounds(stretches[0]["start"], end, num_speech / sample_rate)

    def __call__(
        self, wav: np.ndarray, sample_rate: int
    ) -> tuple[np.ndarray, str | None]:
        """Cut silence off both ends, or say why the recording is of no use.

        Arguments
        ---------
        wav, sample_rate
            As `speech_bounds`.

        Returns
        -------
        numpy.ndarray
            A view of the part with speech; ``wav`` itself if it is rejected.
        str or None
            ``no speech`` or ``too little speech`` with the figures, or None.
        """
        start, end, seconds = self.speech_bounds(wav, sample_rate)
        total = len(wav) / sample_rate
        if end == 0:
            return wav, f"no speech: none found in {total:.2f} s"
        if seconds < self.min_speech_seconds:
            return wav, (
                f"too little speech: {seconds:.2f} s of {total:.2f} s, at least "
                f"{self.min_speech_seconds:g} s are needed"
            )
        return wav[start:end], None


def open_detector(name: str) -> SpeechDetector | None:
    """Return what ``--vad NAME`` means.

    Arguments
    ---------
    name : str
        One of `DETECTORS`.

    Returns
    -------
    SpeechDetector or None
        None for ``none``: nothing is trimmed.

    Raises
    ------
    UserError
        If there is no such detector, or its package is missing.
    """
    if name not in DETECTORS:
        raise UserError(f"vad: there is no {name!r}; known: {', '.join(DETECTORS)}")
    return SpeechDetector() if name == "silero" else None


def _load() -> tuple[object, Callable, str]:
    """Return the model, the function that reads it, and the version of both."""
    from importlib.metadata import version

    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise UserError(_MISSING.format("onnxruntime")) from None
    try:
        from silero_vad import get_speech_timestamps_sequence, load_silero_vad
    except ImportError:
        raise UserError(_MISSING.format("silero-vad (6.2.3 or later)")) from None
    model = load_silero_vad(sequence=True)
    return model, get_speech_timestamps_sequence, version("silero-vad")
