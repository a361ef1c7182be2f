"""Opus on the same files, at the rate of its payload alone: the bar to clear.

The encoder is the libopus inside libsndfile, so no system package is needed. Its
container costs several hundred bits per second that a telephone call would not pay:
the rate given here counts the bytes of the Opus packets (RFC 6716) and not those of
the Ogg pages and headers around them (RFC 3533, RFC 7845), which favours Opus.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from speechbrain_ext.scoring.alignment import align

#: Sample rates that Opus takes without resampling, in Hz.
SAMPLE_RATES = (8000, 12000, 16000, 24000, 48000)
#: Nominal rates in bits per second: 5-6, 7, 11, 13, 15 and 22 kbps on speech.
BITRATES = (6000, 8000, 12000, 14000, 16000, 24000)
#: What libsndfile's compression levels 1.0 and 0.0 mean, in bits per second.
_LOWEST, _HIGHEST = 6000, 256000


@dataclass(frozen=True)
class OpusPoint:
    """A set of files at one setting of Opus.

    Arguments
    ---------
    bitrate : int
        Nominal rate asked for, in bits per second.
    kbps : float
        Measured payload of all files over their duration, in kilobits per second.
    wavs : list of np.ndarray
        Decoded and aligned waveforms, [time] float32 each, as long as the originals.
    """

    bitrate: int
    kbps: float
    wavs: list[np.ndarray]


def ogg_packets(data: bytes) -> list[bytes]:
    """Return the packets of a single-stream Ogg file, headers included.

    Arguments
    ---------
    data : bytes
        The whole file.

    Returns
    -------
    list of bytes
        Packets in order; an Ogg Opus file starts with ``OpusHead`` and ``OpusTags``.

    Raises
    ------
    ValueError
        If the pages are not those of an Ogg file, or the file ends within a page.
    """
    packets: list[bytes] = []
    unfinished = b""
    position = 0
    while position < len(data):
        header = data[position : position + 27]
        if len(header) < 27 or header[:5] != b"OggS\x00":
            raise ValueError(f"Ogg: no page at byte {position} of {len(data)}")
        body = position + 27 + header[26]
        segments = data[position + 27 : body]
        if len(segments) < header[26] or body + sum(segments) > len(data):
            raise ValueError(f"Ogg: the page at byte {position} is cut off")
        for size in segments:
            unfinished += data[body : body + size]
            body += size
            # A packet ends with the first segment that is not full (RFC 3533, sec. 6).
            if size < 255:
                packets.append(unfinished)
                unfinished = b""
        position = body
    return packets


def payload_bytes(data: bytes) -> int:
    """Count the bytes of the audio packets in an Ogg Opus file.

    Raises
    ------
    ValueError
        If the file is not Ogg Opus.
    """
    packets = ogg_packets(data)
    if len(packets) < 2 or packets[0][:8] != b"OpusHead":
        raise ValueError("Ogg: the stream is not Opus, OpusHead is missing")
    return sum(len(packet) for packet in packets[2:])


def encode_opus(wav: np.ndarray, sample_rate: int, bitrate: int) -> bytes:
    """Encode a waveform as an Ogg Opus file.

    Arguments
    ---------
    wav : np.ndarray
        [time], in [-1, 1].
    sample_rate : int
        In Hz, one of `SAMPLE_RATES`.
    bitrate : int
        Nominal (variable) rate, 6000 to 256000 bits per second.

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    ValueError
        If rate or bitrate are outside of what Opus or libsndfile take, or the waveform
        is empty or not finite.
    """
    if sample_rate not in SAMPLE_RATES:
        raise ValueError(
            f"Opus: sample rate is {sample_rate} Hz; one of {SAMPLE_RATES} is needed"
        )
    if not _LOWEST <= bitrate <= _HIGHEST:
        raise ValueError(
            f"Opus: bitrate is {bitrate} bits/s; libsndfile takes {_LOWEST} to "
            f"{_HIGHEST}"
        )
    if wav.ndim != 1 or not wav.size or not np.isfinite(wav).all():
        raise ValueError(
            f"Opus: needs a finite, non-empty [time] waveform, got {list(wav.shape)}"
        )
    level = (_HIGHEST - bitrate) / (_HIGHEST - _LOWEST)
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer,
        "w",
        samplerate=sample_rate,
        channels=1,
        format="OGG",
        subtype="OPUS",
        compression_level=level,
    ) as stream:
        stream.write(np.clip(wav, -1, 1))
    return buffer.getvalue()


def decode_opus(data: bytes) -> tuple[np.ndarray, int]:
    """Decode an Ogg Opus file; pre-skip and end trimming are undone by libsndfile.

    Returns
    -------
    tuple of np.ndarray and int
        Waveform, [time] float32, and its sample rate in Hz.
    """
    return soundfile.read(io.BytesIO(data), dtype="float32")


def opus_points(
    wavs: Sequence[np.ndarray],
    sample_rate: int = 16000,
    bitrates: Sequence[int] = BITRATES,
) -> list[OpusPoint]:
    """Encode, decode and align a set of files at several rates.

    Arguments
    ---------
    wavs : sequence of np.ndarray
        Waveforms, [time] each.
    sample_rate : int
        In Hz, one of `SAMPLE_RATES`.
    bitrates : sequence of int
        Nominal rates in bits per second.

    Returns
    -------
    list of OpusPoint
        One per rate, in the same order. The delay that the codec leaves beyond its
        pre-skip is undone to a fraction of a sample, per file, so that the waveform
        metrics don't punish Opus for it.
    """
    duration = sum(wav.size for wav in wavs) / sample_rate
    points = []
    for bitrate in bitrates:
        files = [encode_opus(wav, sample_rate, bitrate) for wav in wavs]
        payload = sum(payload_bytes(data) for data in files)
        decoded = []
        for wav, data in zip(wavs, files, strict=True):
            out = decode_opus(data)[0][: wav.size]
            out = np.pad(out, (0, wav.size - out.size))
            decoded.append(align(wav, out)[0])
        points.append(OpusPoint(bitrate, 8 * payload / duration / 1000, decoded))
    return points
