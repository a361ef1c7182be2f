"""Noise to add to speech: out of files, generated, or of other people talking."""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from speechbrain_ext.data.audio import AUDIO_EXTENSIONS, resample
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.sampler import fraction
from speechbrain_ext.errors import UserError

logger = logging.getLogger(__name__)

_MAX_NAMED = 5
_BLOCK_SAMPLES = 1 << 20
#: Only these formats can hold NaN or Inf.
_FLOATS = frozenset({"FLOAT", "DOUBLE"})


@dataclass(frozen=True)
class Sound:
    """One readable audio file: path, length in samples, and sample rate in Hz."""

    path: Path
    num_samples: int
    sample_rate: int


def find_sounds(
    folder: str | os.PathLike, who: str, skip: Callable[[Path], bool] | None = None
) -> list[Sound]:
    """List the audio files below a folder, sorted; broken ones are named and left out.

    Broken is what has no readable header, no samples, or NaN or Inf in samples stored
    as floats. The samples of other files are not read here: silence is found when a
    piece is drawn.

    Arguments
    ---------
    folder : str or PathLike
        Searched with its subfolders.
    who : str
        The setting that named the folder, for messages.
    skip : Callable, optional
        Says of a path relative to the folder that it is something else.

    Raises
    ------
    UserError
        If there is no such folder, or no usable file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{who}: {folder}: no such folder.\n"
            f"  Next: give one with audio in it, or none: --{who}=null"
        )
    sounds, broken = [], []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in AUDIO_EXTENSIONS or not path.is_file():
            continue
        if skip is not None and skip(path.relative_to(folder)):
            continue
        try:
            sounds.append(_opened(path))
        except (soundfile.LibsndfileError, OSError, ValueError) as error:
            broken.append(f"{path}: {error}")
    if broken:
        more = len(broken) - _MAX_NAMED
        logger.warning(
            "%s: %d of %d files are broken and left out:\n  %s",
            who,
            len(broken),
            len(broken) + len(sounds),
            "\n  ".join(broken[:_MAX_NAMED] + [f"... and {more} more"] * (more > 0)),
        )
    if not sounds:
        raise UserError(
            f"{who}: {folder}: no readable audio in it.\n"
            f"  Next: give a folder with wav or flac files, or none: --{who}=null"
        )
    return sounds


def _opened(path: Path) -> Sound:
    with soundfile.SoundFile(path) as stream:
        if not stream.frames:
            raise ValueError("no samples")
        if stream.subtype in _FLOATS:
            for block in stream.blocks(_BLOCK_SAMPLES, dtype="float32"):
                if not np.isfinite(block).all():
                    raise ValueError("NaN or Inf in it")
        return Sound(path, stream.frames, stream.samplerate)


def draw_piece(
    sound: Sound, generator: np.random.Generator, length: int, sample_rate: int
) -> np.ndarray | None:
    """Read a piece of a file from a random place, its first channel, at power 1.

    Arguments
    ---------
    sound : Sound
        The file; a shorter one is repeated.
    generator : numpy.random.Generator
        Draws the place.
    length : int
        Samples wanted, at ``sample_rate`` (Hz).

    Returns
    -------
    numpy.ndarray or None
        float32 [length]; None if the piece is silent, not finite or can't be read.
    """
    wanted = -(-length * sound.sample_rate // sample_rate)
    start = int(generator.integers(max(sound.num_samples - wanted, 0) + 1))
    try:
        piece, _ = soundfile.read(
            sound.path, frames=wanted, start=start, dtype="float32", always_2d=True
        )
    except (soundfile.LibsndfileError, OSError) as error:
        logger.warning("noise: %s can't be read any more: %s", sound.path, error)
        return None
    if not len(piece):
        return None
    piece = np.resize(piece[:, 0], wanted)
    return unit_power(resample(piece, sound.sample_rate, sample_rate)[:length])


def unit_power(wav: np.ndarray) -> np.ndarray | None:
    """Scale to a mean square of 1; None where that is impossible or all but silent."""
    power = float(np.mean(np.square(wav, dtype=np.float64))) if len(wav) else 0.0
    # -160 dB: what is left of a dither-free fade is no noise to amplify.
    if not 1e-16 < power < np.inf:
        return None
    return (wav / np.sqrt(power)).astype(np.float32)


def coloured_noise(
    generator: np.random.Generator, length: int, exponent: float
) -> np.ndarray:
    """Gaussian noise whose power falls with frequency as ``f ** -exponent``.

    Arguments
    ---------
    generator : numpy.random.Generator
        Draws the spectrum.
    length : int
        Samples (>= 1).
    exponent : float
        0 is white, 1 pink, 2 brown.

    Returns
    -------
    numpy.ndarray
        float32 [length], power about 1, no constant part in its period.

    Example
    -------
    >>> coloured_noise(np.random.default_rng(0), 8, exponent=1.0).shape
    (8,)
    """
    from scipy import fft

    size = fft.next_fast_len(max(length, 2), real=True)
    bins = size // 2 + 1
    spectrum = generator.standard_normal((2, bins), dtype=np.float32)
    spectrum = spectrum[0] + 1j * spectrum[1]
    spectrum[0] = 0
    shape = np.arange(1, bins, dtype=np.float32) ** np.float32(-exponent / 2)
    # 2 * sum |shape|^2 * 2 / size^2 is the power that irfft leaves on average.
    spectrum[1:] *= shape * (size / np.sqrt(4 * np.sum(np.square(shape))))
    return fft.irfft(spectrum, size)[:length].astype(np.float32, copy=False)


class _LeavesOut(Protocol):
    left_out: frozenset[str]


class Voices:
    """Pieces of other training speakers, to be mixed to babble.

    Which utterance a draw hits does not depend on which others there are: each has a
    hashed place on a circle, and the next one clockwise is taken. So leaving utterances
    out changes no babble but that which held them.

    Arguments
    ---------
    utterances : Mapping[str, Utterance]
        The train manifest.
    sampler : object, optional
        Its ``left_out`` names utterances that must not be used now, as `EpochCrops`.
    """

    def __init__(
        self, utterances: Mapping[str, Utterance], sampler: _LeavesOut | None = None
    ):
        self.sampler = sampler
        placed = sorted((fraction(u, "voice"), u) for u in utterances)
        self._places = [place for place, _ in placed]
        self._utterances = [utterances[utt_id] for _, utt_id in placed]

    def draw(
        self,
        generator: np.random.Generator,
        length: int,
        sample_rate: int,
        spk_id: str | None,
    ) -> np.ndarray | None:
        """Return a piece of anybody but one speaker, as `draw_piece` does.

        Arguments
        ---------
        generator : numpy.random.Generator
            Draws the utterance and the place in it.
        length : int
            Samples wanted, at ``sample_rate`` (Hz).
        spk_id : str or None
            Whose voice not to take.

        Returns
        -------
        numpy.ndarray or None
            float32 [length] of power 1; None if there is nobody else, or the piece is
            not usable.
        """
        left_out = frozenset() if self.sampler is None else self.sampler.left_out
        first = bisect_left(self._places, generator.random())
        for index in range(first, first + len(self._utterances)):
            one = self._utterances[index % len(self._utterances)]
            if one.spk_id != spk_id and one.utt_id not in left_out:
                sound = Sound(one.wav, one.num_samples, one.sample_rate)
                return draw_piece(sound, generator, length, sample_rate)
        return None
