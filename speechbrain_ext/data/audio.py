"""Audio files in and out: decoded by soundfile or PyAV, resampled by SciPy."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import atomic_path

#: Extensions that a corpus folder is searched for, lower case.
AUDIO_EXTENSIONS = frozenset(
    {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".g722"}
)

# Formats that FFmpeg must be told, because the file doesn't say them surely.
_TOLD = {".g722": "g722", ".gsm": "gsm", ".mp3": "mp3"}


# How libsndfile tells that a WAV file ends before its header says. Headers that are
# wrong by a few bytes are common, and streamed files promise the largest number.
_DATA_CHUNK = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_MAX_SLOPPY_BYTES = 1024
_STREAMED_BYTES = 0x7FF00000


class AudioError(UserError):
    """One audio file that can't be read or written.

    Arguments
    ---------
    path : str or PathLike
        The file.
    reason : str
        One line without the path; kept as the attribute ``reason``.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"audio: {os.fspath(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self):
        """Rebuild from both arguments, so that a worker process can raise it."""
        return type(self), (self.path, self.reason)


def load_audio(
    path: str | os.PathLike, sample_rate: int | None = None
) -> tuple[np.ndarray, int]:
    """Decode a whole file to one channel; values are *not* checked, see `check`.

    soundfile (libsndfile) is tried first; what it doesn't know (m4a, G.722, GSM, odd
    WAV codecs) goes to PyAV (FFmpeg). MP3 goes to PyAV where there is one: soundfile's
    decoder writes its complaints about damaged files all over the terminal. Several
    channels are averaged.

    Arguments
    ---------
    path : str or PathLike
        An audio file.
    sample_rate : int, optional
        Resample to this rate in Hz; None keeps the file's own.

    Returns
    -------
    numpy.ndarray
        float32 samples in [-1, 1], [time]; possibly empty.
    int
        Their sample rate in Hz.

    Raises
    ------
    AudioError
        If the file is missing, unreadable, holds no audio, or breaks off while it is
        decoded.
    """
    wav, rate = _decode(Path(path), _average_channels)
    if sample_rate is not None and rate != sample_rate:
        wav, rate = resample(wav, rate, sample_rate), sample_rate
    return wav, rate


def load_channels(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Decode a whole file, each channel for itself; see `load_audio`.

    Arguments
    ---------
    path : str or PathLike
        An audio file.

    Returns
    -------
    numpy.ndarray
        float32 samples in [-1, 1], [channels, time]; possibly empty.
    int
        Their sample rate in Hz.

    Raises
    ------
    AudioError
        As `load_audio`, or if the number of channels changes within the file.
    """
    return _decode(Path(path), _each_channel)


def _decode(path: Path, keep: Callable) -> tuple[np.ndarray, int]:
    """Decode; ``keep`` says what becomes of [channel, time], piece by piece."""
    if not path.is_file():
        raise AudioError(path, "no such file")
    try:
        if path.suffix.lower() in _TOLD:
            return _decode_with_av(path, keep)
        return _decode_with_soundfile(path, keep)
    except OSError as error:
        raise AudioError(path, error.strerror or str(error)) from None


def _decode_with_soundfile(path: Path, keep: Callable) -> tuple[np.ndarray, int]:
    try:
        with soundfile.SoundFile(path) as stream:
            expected = stream.frames
            wav = stream.read(dtype="float32", always_2d=True)
            rate = stream.samplerate
            promised = _DATA_CHUNK.search(stream.extra_info)
    except soundfile.LibsndfileError:
        return _decode_with_av(path, keep)
    # libsndfile stops silently where a file is cut off.
    if promised:
        num_bytes, num_there = map(int, promised.groups())
        if _MAX_SLOPPY_BYTES < num_bytes - num_there and num_bytes < _STREAMED_BYTES:
            raise AudioError(path, f"cut off: {num_there} of {num_bytes} bytes there")
    if 0 < expected < 2**62 and len(wav) < expected:
        raise AudioError(path, f"cut off: {len(wav)} of {expected} samples decoded")
    return keep(wav.T), rate


def _decode_with_av(path: Path, keep: Callable) -> tuple[np.ndarray, int]:
    try:
        import av
    except ImportError:
        if path.suffix.lower() == ".mp3":
            return _decode_with_soundfile(path, keep)
        raise UserError(
            f"audio: {path}: this format needs PyAV; install it with: pip install av"
        ) from None
    chunks = []
    try:
        # A stream, not a name: FFmpeg takes "a:b.wav" for the protocol "a".
        with (
            open(path, "rb") as stream,
            av.open(
                stream,
                format=_TOLD.get(path.suffix.lower()),
                metadata_errors="replace",
            ) as container,
        ):
            sources = [one for one in container.streams.audio if one.codec_context]
            if not sources:
                raise AudioError(path, "undecodable: no audio of a known codec")
            source = sources[0]
            rate = source.rate
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(source):
                for converted in to_float.resample(frame):
                    chunks.append(keep(converted.to_ndarray()))
    except (av.FFmpegError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(path, f"undecodable: {reason.lower()}") from None
    if not chunks:
        return keep(np.zeros((1, 0), np.float32)), rate
    if len({chunk.shape[:-1] for chunk in chunks}) > 1:
        raise AudioError(path, "the number of its channels changes on the way")
    return np.concatenate(chunks, axis=-1), rate


def _each_channel(channels: np.ndarray) -> np.ndarray:
    """Keep [channel, time], contiguous float32."""
    return np.ascontiguousarray(channels, dtype=np.float32)


def _average_channels(channels: np.ndarray) -> np.ndarray:
    """Average [channel, time] to contiguous float32 [time]."""
    if len(channels) == 1:
        return np.ascontiguousarray(channels[0], dtype=np.float32)
    return channels.mean(axis=0, dtype=np.float32)


def resample(wav: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Band-limited polyphase resampling (`scipy.signal.resample_poly`).

    The filter is longer and steeper than SciPy's default: flat within 0.1 dB up to
    90 % of the lower Nyquist frequency, aliases below -80 dB.

    Arguments
    ---------
    wav : numpy.ndarray
        Samples, [time].
    source_rate, target_rate : int
        Sample rates in Hz (> 0).

    Returns
    -------
    numpy.ndarray
        float32, [ceil(time * target_rate / source_rate)].

    Example
    -------
    >>> resample(np.zeros(22050, np.float32), 22050, 16000).shape
    (16000,)
    """
    if source_rate <= 0 or target_rate <= 0:
        raise ValueError(
            f"resample: rates must be positive, got {source_rate} and {target_rate}"
        )
    wav = np.asarray(wav, dtype=np.float32)
    if source_rate == target_rate or wav.size == 0:
        return wav
    from scipy.signal import resample_poly  # a second: only when it is needed

    divisor = math.gcd(source_rate, target_rate)
    up, down = target_rate // divisor, source_rate // divisor
    return resample_poly(wav, up, down, window=_lowpass(max(up, down))).astype(
        np.float32, copy=False
    )


@functools.lru_cache(maxsize=16)
def _lowpass(factor: int) -> np.ndarray:
    """Linear-phase low-pass, [96 * factor + 1], cut at 0.95 of Nyquist / factor."""
    from scipy.signal import firwin

    taps = firwin(96 * factor + 1, 0.95 / factor, window=("kaiser", 9.0))
    return taps.astype(np.float32)


def to_pcm16(wav: np.ndarray) -> np.ndarray:
    """Round float samples in [-1, 1] to int16; louder ones are clipped.

    The scale is 32768, so samples that came from 16-bit PCM return unchanged.

    Example
    -------
    >>> to_pcm16(np.array([0.0, 0.5, -1.0, 1.0])).tolist()
    [0, 16384, -32768, 32767]
    """
    scaled = np.rint(np.asarray(wav, dtype=np.float64) * 32768)
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def save_audio(path: str | os.PathLike, wav: np.ndarray, sample_rate: int) -> None:
    """Write a mono PCM16 WAV file atomically; the same samples give the same bytes.

    Arguments
    ---------
    path : str or PathLike
        Where; the parent folder is made. The suffix should be ``.wav``.
    wav : numpy.ndarray
        float samples in [-1, 1] or int16, [time].
    sample_rate : int
        In Hz.

    Raises
    ------
    AudioError
        If ``wav`` has another shape or holds NaN or Inf.
    """
    wav = np.asarray(wav)
    if wav.ndim != 1:
        raise AudioError(path, f"can only write [time], got shape {wav.shape}")
    if wav.dtype != np.int16:
        if not np.isfinite(wav).all():
            raise AudioError(path, "refusing to write NaN or Inf")
        wav = to_pcm16(wav)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, wav, sample_rate, subtype="PCM_16", format="WAV")
