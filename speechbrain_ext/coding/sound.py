"""Audio files of any number of channels: WAV and FLAC, in the depths they have."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speechbrain_ext.data.audio import to_pcm16
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import atomic_path

_PCM = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT"}
#: Format, by ending -> depths that it has, the usual one first.
DEPTHS = {"wav": ("16", "24", "32", "float"), "flac": ("16", "24")}
#: A WAV file counts its bytes with 32 bits; a larger one is an RF64 file.
_MOST_WAV_BYTES = 0xFFFF0000
_SAMPLE_BYTES = {"16": 2, "24": 3, "32": 4, "float": 4}


@dataclass(frozen=True)
class SoundFormat:
    """How audio is written.

    Attributes
    ----------
    name : {"wav", "flac"}
    depth : {"16", "24", "32", "float"}
        Bits of a sample.
    """

    name: str = "wav"
    depth: str = "16"


def choose_format(
    output: str, name: str | None = None, depth: str | None = None
) -> SoundFormat:
    """Find out the format that a person wants.

    Arguments
    ---------
    output : str
        File, folder or ``-``: its ending says the format, if nothing else does.
    name, depth : str or None
        As they were asked for.

    Raises
    ------
    UserError
        If there is no such format, or it has no such depth.

    Example
    -------
    >>> choose_format("x.flac", depth="24")
    SoundFormat(name='flac', depth='24')
    >>> choose_format("folder")
    SoundFormat(name='wav', depth='16')
    """
    ending = Path(output).suffix.lower().lstrip(".")
    if name is None and ending and ending not in DEPTHS and not Path(output).is_dir():
        raise UserError(
            f"decode: {output}: no format ends in .{ending}; known: .wav and .flac, or "
            "give --format"
        )
    name = name or (ending if ending in DEPTHS else "wav")
    depth = depth or DEPTHS[name][0]
    if depth not in DEPTHS[name]:
        raise UserError(
            f"decode: --bits {depth}: {name} has no such samples; it has "
            f"{', '.join(DEPTHS[name])}"
        )
    return SoundFormat(name, depth)


def write_sound(
    target: Path | None, wave: np.ndarray, sample_rate: int, form: SoundFormat
) -> bytes | None:
    """Write a whole audio file, or nothing.

    Arguments
    ---------
    target : Path or None
        Where to; None: the bytes are returned.
    wave : np.ndarray
        float32, [channels, time], finite; what is beyond [-1, 1] is clipped, except in
        float samples.
    sample_rate : int
        Hz.
    form : SoundFormat

    Raises
    ------
    UserError
        If the format holds no such rate or number of channels.
    OSError
        If it can't be written there.
    """
    samples = to_pcm16(wave) if form.depth == "16" else wave
    container = form.name.upper()
    if form.name == "wav" and wave.size * _SAMPLE_BYTES[form.depth] > _MOST_WAV_BYTES:
        container = "RF64"
    told = {"subtype": _PCM[form.depth], "format": container}
    try:
        if target is None:
            buffer = io.BytesIO()
            soundfile.write(buffer, samples.T, sample_rate, **told)
            return buffer.getvalue()
        with atomic_path(target) as draft:
            soundfile.write(draft, samples.T, sample_rate, **told)
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{form.name} does not take {len(wave)} channels at {sample_rate} Hz "
            f"({str(error).splitlines()[-1].strip()}); try --format wav"
        ) from error
    return None
