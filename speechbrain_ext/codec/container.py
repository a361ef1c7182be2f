"""Files of coded speech: a header that says how, what was coded, and a checksum.

All numbers are variable-length integers (7 bits a byte, the lowest first) unless a size
is given; the checksum is CRC-32 of all that stands before it.

====================  =========================================================
``SBXw``              magic, 4 bytes
version               1 byte
model                 first 4 bytes of the model's digest
kind                  which of the model's settings: 0 perceptual, 1 fidelity;
                      2 codes of a residual vector quantizer
sample rate           of the recording, Hz
samples               of each channel, at that rate
channels
per channel           step (of codes: number of codebooks), bytes of its payload
payloads              one after the other
checksum              4 bytes, little endian
====================  =========================================================
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from speechbrain_ext.errors import UserError

MAGIC = b"SBXw"
VERSION = 1
MODEL_BYTES = 4
#: More is no recording, but a damaged header: samples of a day at 384 kHz, channels.
_MOST_RATE, _MOST_CHANNELS = 768_000, 256
_MOST_SAMPLES = 86_400 * _MOST_RATE
_MOST_STEP = 1 << 16


class BitstreamError(UserError):
    """A file that is damaged, or of another kind; the message says which and how."""


@dataclass(frozen=True)
class Coded:
    """What a file holds.

    Attributes
    ----------
    model : bytes
        First bytes of the digest of the model that coded it.
    kind : int
        Which settings of the model.
    sample_rate, num_samples : int
        Of the recording, per channel.
    steps : tuple of int
        Of each channel.
    payloads : tuple of bytes
        Of each channel.
    """

    model: bytes
    kind: int
    sample_rate: int
    num_samples: int
    steps: tuple[int, ...]
    payloads: tuple[bytes, ...]


def write_coded(coded: Coded) -> bytes:
    """Return the bytes of a file.

    Example
    -------
    >>> coded = Coded(b"abcd", 0, 16000, 5, (700,), (b"xyz",))
    >>> data = write_coded(coded)
    >>> len(data), read_coded(data) == coded
    (24, True)
    """
    header = [MAGIC, bytes([VERSION]), coded.model, bytes([coded.kind])]
    header += map(
        write_number, (coded.sample_rate, coded.num_samples, len(coded.payloads))
    )
    for step, payload in zip(coded.steps, coded.payloads, strict=True):
        header += [write_number(step), write_number(len(payload))]
    data = b"".join([*header, *coded.payloads])
    return data + zlib.crc32(data).to_bytes(4, "little")


def read_coded(data: bytes, name: str = "input") -> Coded:
    """Read the bytes of a file.

    Arguments
    ---------
    data : bytes
    name : str
        For messages.

    Raises
    ------
    BitstreamError
        If they are not whole: of another kind or version, cut, or changed.
    """
    if not data:
        raise BitstreamError(f"{name}: is empty")
    if not data.startswith(MAGIC):
        raise BitstreamError(
            f"{name}: is not coded speech of this package (it begins with "
            f"{data[:4]!r}, not {MAGIC!r})"
        )
    if len(data) > 4 and data[4] != VERSION:
        raise BitstreamError(
            f"{name}: has format version {data[4]}, and this reads {VERSION}; update "
            "speechbrain-ext"
        )
    if len(data) < 16 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise BitstreamError(
            f"{name}: is cut or damaged: its checksum does not fit its {len(data)} "
            "bytes; get it again from where it came"
        )
    return _read_whole(ByteReader(data[:-4], name))


def _read_whole(reader: ByteReader) -> Coded:
    reader.take(len(MAGIC) + 1)
    model = reader.take(MODEL_BYTES)
    kind = reader.take(1)[0]
    sample_rate = reader.number(_MOST_RATE, "sample rate")
    num_samples = reader.number(_MOST_SAMPLES, "samples")
    channels = reader.number(_MOST_CHANNELS, "channels")
    steps, sizes = [], []
    for _ in range(channels):
        steps.append(reader.number(_MOST_STEP, "step"))
        sizes.append(reader.number(len(reader.data), "bytes of a payload"))
    payloads = tuple(reader.take(size) for size in sizes)
    if reader.place != len(reader.data) or not sample_rate or not channels:
        raise reader.fault("what the header says does not fit the length")
    return Coded(model, kind, sample_rate, num_samples, tuple(steps), payloads)


class ByteReader:
    """Takes bytes off the front; `BitstreamError` where there is nothing to take."""

    def __init__(self, data: bytes, name: str):
        self.data, self.name, self.place = data, name, 0

    def take(self, count: int) -> bytes:
        """Take so many bytes."""
        if self.place + count > len(self.data):
            raise self.fault("it ends early")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, most: int, what: str) -> int:
        """Take a number of `write_number`, ``most`` at most."""
        found = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            found |= (byte & 127) << shift
            if byte < 128:
                if found > most:
                    raise self.fault(f"{what}: {found} is more than {most}")
                return found
        raise self.fault(f"{what} is no number")

    def fault(self, why: str) -> BitstreamError:
        """Return the error that says so."""
        return BitstreamError(f"{self.name}: is damaged: {why}")


def write_number(value: int) -> bytes:
    """Return a number >= 0 as bytes of 7 bits, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
