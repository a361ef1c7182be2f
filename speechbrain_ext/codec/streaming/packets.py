"""The bytes of a stream: a header, then packets, each with a checksum.

The header has a fixed size:

====================  =========================================================
``SBXs``              magic, 4 bytes
version               1 byte
model                 first 4 bytes of the model's digest
kind                  0 perceptual, 1 fidelity, 2 codes; 1 byte
sample rate           of what was coded, Hz, 3 bytes, little endian
frames                of a packet, 2 bytes, little endian
checksum              CRC-32 of all that, 4 bytes, little endian
====================  =========================================================

A packet; its numbers are of variable length as in `speechbrain_ext.codec.container`:

====================  =========================================================
size                  bytes that follow
head                  1 byte: the packet's number modulo 32, and flags
number, step          where it is fresh: decodable without the packets before it
change of the step    where it is another than the last packet's
samples               of the whole stream, where it is the last packet
payload
checksum              2 bytes, of the last packet 4, little endian
====================  =========================================================

The checksum is the low part of a CRC-32 that runs over all packets since the last
fresh one. What slips past one of them (once in 65,536) is held against by all that
follow; so are packets that are missing, repeated, or swapped.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from speechbrain_ext.codec.container import (
    MODEL_BYTES,
    BitstreamError,
    ByteReader,
    write_number,
)
from speechbrain_ext.codec.envelope import fold, unfold

MAGIC = b"SBXs"
VERSION = 1
HEADER_BYTES = 15 + MODEL_BYTES
#: Most frames of a packet, and most of other numbers.
MOST_FRAMES, MOST_RATE = 1023, (1 << 24) - 1
_MOST_NUMBER = 1 << 40
MOST_SIZE = 1 << 28
_MOST_STEP = 1 << 16
_NUMBERS, FRESH, _NEW_STEP, _LAST = 32, 32, 64, 128
#: Bytes of a checksum, and of the last packet's.
_CHECK, _LAST_CHECK = 2, 4


@dataclass(frozen=True)
class StreamHeader:
    """What both ends must know first.

    Attributes
    ----------
    model : bytes
        First bytes of the digest of the model that codes.
    kind : int
        Which settings of the model, see `speechbrain_ext.codec.container`.
    sample_rate : int
        Hz.
    packet_frames : int
        Frames of each packet but the last.

    Example
    -------
    >>> header = StreamHeader(b"abcd", 0, 16000, 4)
    >>> len(header.to_bytes()), StreamHeader.of(header.to_bytes()) == header
    (19, True)
    """

    model: bytes
    kind: int
    sample_rate: int
    packet_frames: int

    def to_bytes(self) -> bytes:
        """Return the bytes that a stream begins with."""
        data = MAGIC + bytes([VERSION]) + self.model + bytes([self.kind])
        data += self.sample_rate.to_bytes(3, "little")
        data += self.packet_frames.to_bytes(2, "little")
        return data + zlib.crc32(data).to_bytes(4, "little")

    @classmethod
    def of(cls, data: bytes, name: str = "stream") -> StreamHeader:
        """Read a header.

        Raises
        ------
        BitstreamError
            If these are not `HEADER_BYTES` bytes of one.
        """
        if not data:
            raise BitstreamError(f"{name}: is empty")
        if data[:4] != MAGIC[: len(data)]:
            raise BitstreamError(
                f"{name}: is no stream of this package (it begins with {data[:4]!r}, "
                f"not {MAGIC!r})"
            )
        if len(data) > 4 and data[4] != VERSION:
            raise BitstreamError(
                f"{name}: has format version {data[4]}, and this reads {VERSION}; "
                "update speechbrain-ext"
            )
        check = zlib.crc32(data[:-4]).to_bytes(4, "little")
        if len(data) != HEADER_BYTES or data[-4:] != check:
            raise BitstreamError(f"{name}: its header is cut or damaged; send it again")
        reader = ByteReader(data[len(MAGIC) + 1 :], name)
        model, kind = reader.take(MODEL_BYTES), reader.take(1)[0]
        rate = int.from_bytes(reader.take(3), "little")
        return cls(model, kind, rate, int.from_bytes(reader.take(2), "little"))


@dataclass(frozen=True)
class Packet:
    """Some frames.

    Attributes
    ----------
    number : int
        From 0.
    fresh : bool
        Whether it needs none of the packets before it.
    step : int
        Of a `WaveCoder` its step, of a codec of codes its quantizers.
    samples : int or None
        Of the whole stream; None: this is not its last packet.
    payload : bytes
    """

    number: int
    fresh: bool
    step: int
    samples: int | None
    payload: bytes


class PacketWriter:
    """Turns packets into bytes.

    Arguments
    ---------
    header : StreamHeader
    """

    def __init__(self, header: StreamHeader):
        self.header = header.to_bytes()
        self._base = self._running = zlib.crc32(self.header)
        self._number = 0
        self._step = 0

    def write(
        self, payload: bytes, *, step: int, fresh: bool, samples: int | None = None
    ) -> bytes:
        """Return the next packet; arguments as the attributes of `Packet`."""
        data = self._unchecked(payload, step, fresh, samples)
        self._running = zlib.crc32(data, self._base if fresh else self._running)
        self._number += 1
        self._step = step
        return data + self._running.to_bytes(4, "little")[: _check_bytes(samples)]

    def size(self, payload: bytes, *, step: int, fresh: bool) -> int:
        """Return the bytes that `write` would return, of a packet that is not last."""
        return len(self._unchecked(payload, step, fresh, None)) + _CHECK

    def _unchecked(self, payload, step, fresh, samples) -> bytes:
        """Return a packet without its checksum."""
        head = self._number % _NUMBERS + FRESH * fresh + _LAST * (samples is not None)
        parts = []
        if fresh:
            parts = [write_number(self._number), write_number(step)]
        elif step != self._step:
            head += _NEW_STEP
            parts = [write_number(fold(step - self._step))]
        if samples is not None:
            parts.append(write_number(samples))
        body = b"".join([bytes([head]), *parts, payload])
        return write_number(len(body) + _check_bytes(samples)) + body


def _check_bytes(samples: int | None) -> int:
    return _CHECK if samples is None else _LAST_CHECK


class PacketReader:
    """Finds the packets in bytes that come in any pieces.

    Arguments
    ---------
    header : StreamHeader
    most_bytes : int
        What a payload can have at most.
    name : str
        For messages.

    Example
    -------
    >>> header = StreamHeader(b"abcd", 0, 16000, 4)
    >>> writer, reader = PacketWriter(header), PacketReader(header, 99, "stream")
    >>> data = writer.write(b"one", step=700, fresh=True)
    >>> data += writer.write(b"two", step=703, fresh=False, samples=9)
    >>> len(data), reader.push(data[:8])
    (21, [])
    >>> [(p.number, p.step, p.samples, p.payload) for p in reader.push(data[8:])]
    [(0, 700, None, b'one'), (1, 703, 9, b'two')]
    """

    def __init__(self, header: StreamHeader, most_bytes: int, name: str):
        self._base = self._running = zlib.crc32(header.to_bytes())
        self._most_bytes = most_bytes + 32  # a packet's own numbers
        self._buffer = bytearray()
        self._number = 0
        self._step = 0
        self.name = name
        self.ended = False

    def push(self, data: bytes) -> list[Packet]:
        """Return the packets that are whole now.

        Raises
        ------
        BitstreamError
            If one is damaged or missing. The packets before it are in
            ``error.packets``.
        """
        self._buffer += data
        found, place = [], 0
        try:
            while (packet := self._next(place)) is not None:
                found.append(packet[0])
                place = packet[1]
        except BitstreamError as error:
            error.packets = found
            raise
        del self._buffer[:place]
        return found

    @property
    def waiting(self) -> int:
        """Bytes of a packet that is not whole yet."""
        return len(self._buffer)

    @property
    def number(self) -> int:
        """Number of the next packet."""
        return self._number

    def _next(self, place: int) -> tuple[Packet, int] | None:
        """Return the packet that begins at a place, and where the next one begins."""
        if place == len(self._buffer):
            return None
        if self.ended:
            raise self._fault("comes after the last one")
        numbers = self._buffer[place : place + 4]
        length = next((n + 1 for n, byte in enumerate(numbers) if byte < 128), 0)
        if not length:
            if len(numbers) == 4:
                raise self._fault("has no size")
            return None
        size = ByteReader(bytes(numbers), self.name).number(MOST_SIZE, "size")
        if not _CHECK < size <= self._most_bytes:
            raise self._fault(f"says that it has {size} bytes")
        end = place + length + size
        if end > len(self._buffer):
            return None
        return self._read(bytes(self._buffer[place:end]), length), end

    def _read(self, data: bytes, start: int) -> Packet:
        head = data[start]
        fresh, last = bool(head & FRESH), bool(head & _LAST)
        check = _LAST_CHECK if last else _CHECK
        running = zlib.crc32(data[:-check], self._base if fresh else self._running)
        if running.to_bytes(4, "little")[:check] != data[-check:]:
            raise self._fault("is damaged, or one before it is missing")
        reader = ByteReader(data[start + 1 : -check], self.name)
        number, step, samples = self._number, self._step, None
        if fresh:
            number = reader.number(_MOST_NUMBER, "number")
            step = reader.number(_MOST_STEP, "step")
        elif head & _NEW_STEP:
            step += unfold(reader.number(2 * _MOST_STEP, "change of the step"))
        if last:
            samples = reader.number(_MOST_NUMBER, "samples")
        if head % _NUMBERS != number % _NUMBERS or not 0 <= step <= _MOST_STEP:
            raise self._fault("contradicts itself")
        self._follow(number)
        self._number, self._step, self._running = number + 1, step, running
        self.ended = last
        payload = reader.take(len(reader.data) - reader.place)
        return Packet(number, fresh, step, samples, payload)

    def _follow(self, number: int) -> None:
        """Refuse what does not follow the packet before it."""
        if number != self._number:
            raise self._fault(f"is missing: packet {number} came instead")

    def _fault(self, why: str) -> BitstreamError:
        return BitstreamError(
            f"{self.name}: packet {self._number} {why}; what came before it is whole"
        )
