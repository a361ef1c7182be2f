"""Rooms and microphones: impulse responses and gentle equalizers."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import soundfile

from speechbrain_ext.data.audio import resample
from speechbrain_ext.data.noise import Sound, find_sounds

#: Seconds of a response that are used; what comes later is hardly heard in a crop.
MAX_SECONDS = 1.0

_DECAY_SECONDS = (0.15, 0.8)
_DIRECT_TO_REVERBERANT_DB = (0.0, 12.0)
_EARLY_SECONDS = (0.001, 0.05)
_NUM_EARLY = (6, 20)


def find_responses(folder: str | os.PathLike) -> list[Sound]:
    """List the impulse responses in a folder.

    Of the layout of RIRS_NOISES (OpenSLR 28) the noises among the responses are left
    out: all of ``pointsource_noises``, and ``*noise*`` of
    ``real_rirs_isotropic_noises``.

    Raises
    ------
    UserError
        If there is no such folder, or no usable file in it.
    """
    return find_sounds(folder, "rir_folder", skip=_is_noise)


def _is_noise(path: Path) -> bool:
    if "pointsource_noises" in path.parts:
        return True
    return "real_rirs_isotropic_noises" in path.parts and "noise" in path.name


def read_response(sound: Sound, sample_rate: int) -> np.ndarray | None:
    """Read the first channel of an impulse response, from its strongest sample on.

    So the speech is not delayed, however long the sound travelled.

    Returns
    -------
    numpy.ndarray or None
        float32 [time], at most `MAX_SECONDS`, the first sample is 1; None if the file
        is silent, not finite or can't be read.
    """
    try:
        response, _ = soundfile.read(sound.path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError):
        return None
    if not len(response) or not np.isfinite(response).all():
        return None
    response = resample(response[:, 0], sound.sample_rate, sample_rate)
    peak = int(np.argmax(np.abs(response)))
    if abs(response[peak]) < 1e-8:
        return None
    response = response[peak : peak + round(MAX_SECONDS * sample_rate)]
    return response / response[0]


def synthetic_response(generator: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Draw the impulse response of a room: direct sound, early reflections, tail.

    The tail is Gaussian noise that decays exponentially (Polack's model), by 60 dB in
    0.15 to 0.8 s; 6 to 20 single reflections come in the first 50 ms. Direct sound
    stands 0 to 12 dB above all that follows.

    Arguments
    ---------
    generator : numpy.random.Generator
        Draws the room.
    sample_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        float32 [time], the first sample is 1.

    Example
    -------
    >>> response = synthetic_response(np.random.default_rng(0), 16000)
    >>> bool(response[0] == 1 and abs(response[1:]).max() < 1)
    True
    """
    decay_seconds = np.exp(generator.uniform(*np.log(_DECAY_SECONDS)))
    ratio_db = generator.uniform(*_DIRECT_TO_REVERBERANT_DB)
    length = round(min(decay_seconds, MAX_SECONDS) * sample_rate)
    seconds = np.arange(length, dtype=np.float32) / sample_rate
    tail = generator.standard_normal(length, dtype=np.float32)
    # Before the first wall nothing comes back; then reflections get ever denser.
    tail *= np.minimum(seconds / _EARLY_SECONDS[1], 1) ** 2
    number = generator.integers(*_NUM_EARLY, endpoint=True)
    times = generator.uniform(*_EARLY_SECONDS, number)
    index = np.minimum((times * sample_rate).astype(int), length - 1)
    tail[index] += generator.uniform(1, 4, number) * generator.choice((-1, 1), number)
    tail *= 10 ** (-3 * seconds / decay_seconds)
    tail[0] = 0
    energy = float(np.sum(np.square(tail, dtype=np.float64)))
    response = tail * np.float32(10 ** (-ratio_db / 20) / np.sqrt(energy))
    response[0] = 1
    return response


def convolve(wav: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Filter [time] by an impulse response; same length and energy as before."""
    from scipy import fft

    size = fft.next_fast_len(len(wav) + len(response) - 1, real=True)
    spectrum = fft.rfft(wav, size) * fft.rfft(response, size)
    return with_energy_of(wav, fft.irfft(spectrum, size)[: len(wav)])


def equalize(wav: np.ndarray, gains_db: np.ndarray, sample_rate: int) -> np.ndarray:
    """Filter [time] by a smooth curve of gains; same length and energy as before.

    Arguments
    ---------
    wav : numpy.ndarray
        float32 [time].
    gains_db : numpy.ndarray
        Gains at octaves down from half the sample rate, highest first, dB. In between
        they are interpolated over the logarithm of the frequency.
    sample_rate : int
        In Hz.
    """
    from scipy import fft

    # Zeros behind, so that the end does not ring into the beginning.
    size = fft.next_fast_len(len(wav) + sample_rate // 20, real=True)
    curve = np.interp(_octaves_down(size), np.arange(len(gains_db)), gains_db)
    gains = np.exp(curve.astype(np.float32) * np.float32(np.log(10) / 20))
    spectrum = fft.rfft(wav, size) * gains
    return with_energy_of(wav, fft.irfft(spectrum, size)[: len(wav)])


@functools.lru_cache(maxsize=8)
def _octaves_down(size: int) -> np.ndarray:
    """Octaves from half the sample rate down to each bin of a transform, [bin]."""
    bins = np.arange(size // 2 + 1)
    bins[0] = 1  # no number of octaves leads to 0 Hz; it gets the gain above it
    return -np.log2(bins / (size / 2))


def with_energy_of(wav: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Scale ``changed`` to the energy of ``wav``; ``wav`` itself if that can't be."""
    before, after = (
        float(np.sum(np.square(one, dtype=np.float64))) for one in (wav, changed)
    )
    if not 0 < after < np.inf:
        return wav
    return (changed * np.sqrt(before / after)).astype(np.float32, copy=False)
