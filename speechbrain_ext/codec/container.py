"""Files of coded speech: a header that says how, what was coded, and a checksum.

All numbers are variable-length integers (7 bits a byte, the lowest first) unless a size
is given; the checksum is CRC-32 of all that stands before it.

====================  =========================================================
``SBXw``              magic, 4 bytes
version               1 byte
model                 first 4 bytes of the model's digest
kind                  which of the model's settings; see `KINDS`
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
#: What a file holds, by the number in its header.
CODES = 2
KINDS = {0: "perceptual", 1: "fidelity", CODES: "RVQ codes"}
#: Rates of recordings, Hz, and most channels: others are refused before any work.
LEAST_RATE, MOST_RATE, MOST_CHANNELS = 1000, 768_000, 256
#: Odd rates above this have filters of so many taps that converting takes minutes.
_ANY_RATE, _RATE_STEP = 48_000, 100
#: More is no recording, but a damaged header: a day.
_MOST_SECONDS = 86_400
_MOST_NUMBER = 1 << 62
_MOST_STEP = 1 << 16
_CHECKSUM_BYTES = 4


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


def check_limits(sample_rate: int, num_samples: int, channels: int) -> None:
    """Refuse what no file can hold.

    Raises
    ------
    ValueError
        Naming the value and its limits.
    """
    limits = (
        ("sample rate", sample_rate, LEAST_RATE, MOST_RATE),
        ("samples", num_samples, 1, _MOST_SECONDS * sample_rate),
        ("channels", channels, 1, MOST_CHANNELS),
    )
    for what, value, least, most in limits:
        if not least <= value <= most:
            raise ValueError(f"{what}: {value}; a file holds {least} to {most}")
    if sample_rate > _ANY_RATE and sample_rate % _RATE_STEP:
        raise ValueError(
            f"sample rate: {sample_rate}; above {_ANY_RATE} Hz a file holds multiples "
            f"of {_RATE_STEP}"
        )


def write_coded(coded: Coded) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    ValueError
        See `check_limits`.

    Example
    -------
    >>> coded = Coded(b"abcd", 0, 16000, 5, (700,), (b"xyz",))
    >>> data = write_coded(coded)
    >>> len(data), read_coded(data) == coded
    (24, True)
    """
    check_limits(coded.sample_rate, coded.num_samples, len(coded.payloads))
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
    _check_beginning(data, name)
    if not checksum_fits(data):
        raise BitstreamError(
            f"{name}: is cut or damaged: its checksum does not fit its {len(data)} "
            "bytes; get it again from where it came"
        )
    return _read_whole(ByteReader(data[:-_CHECKSUM_BYTES], name))


def checksum_fits(data: bytes) -> bool:
    """Whether the last bytes are the checksum of those before."""
    found = int.from_bytes(data[-_CHECKSUM_BYTES:], "little")
    return len(data) >= 16 and zlib.crc32(data[:-_CHECKSUM_BYTES]) == found


def read_header(data: bytes, name: str = "input") -> Coded:
    """Read what a file says of itself, whether it is whole or not.

    Arguments
    ---------
    data : bytes
        At least its beginning.
    name : str
        For messages.

    Returns
    -------
    Coded
        Without payloads and, where the header breaks off in them, without steps. Of a
        damaged file it can say anything.

    Raises
    ------
    BitstreamError
        If there is no header that makes sense.

    Example
    -------
    >>> coded = Coded(b"abcd", 0, 16000, 5, (700,), (b"xyz",))
    >>> read_header(write_coded(coded)[:-6]).num_samples
    5
    """
    _check_beginning(data, name)
    reader = ByteReader(data, name)
    header = _read_header(reader)
    try:
        steps, _ = _read_table(reader, header["channels"])
    except BitstreamError:
        steps = (0,) * header["channels"]
    del header["channels"]
    return Coded(**header, steps=tuple(steps), payloads=(b"",) * len(steps))


def _check_beginning(data: bytes, name: str) -> None:
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


def _read_whole(reader: ByteReader) -> Coded:
    header = _read_header(reader)
    steps, sizes = _read_table(reader, header.pop("channels"))
    payloads = tuple(reader.take(size) for size in sizes)
    if reader.place != len(reader.data):
        raise reader.fault("what the header says does not fit the length")
    return Coded(**header, steps=tuple(steps), payloads=payloads)


def _read_header(reader: ByteReader) -> dict:
    reader.take(len(MAGIC) + 1)
    found = {"model": reader.take(MODEL_BYTES), "kind": reader.take(1)[0]}
    names = ("sample_rate", "num_samples", "channels")
    found |= {name: reader.number(_MOST_NUMBER, name) for name in names}
    try:
        check_limits(*(found[name] for name in names))
    except ValueError as error:
        raise reader.fault(str(error)) from None
    return found


def _read_table(reader: ByteReader, channels: int) -> tuple[list[int], list[int]]:
    """Read steps and bytes of the channels' payloads."""
    steps, sizes = [], []
    for _ in range(channels):
        steps.append(reader.number(_MOST_STEP, "step"))
        sizes.append(reader.number(len(reader.data), "bytes of a payload"))
    return steps, sizes


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
