"""Packets of a stream that come whole or not at all, as a network brings them."""

from __future__ import annotations

from speechbrain_ext.codec.container import BitstreamError, ByteReader
from speechbrain_ext.codec.streaming.packets import (
    FRESH,
    MOST_SIZE,
    Packet,
    PacketReader,
    StreamHeader,
)


class DatagramReader(PacketReader):
    """Reads what comes in whole packets, some of which are lost or damaged.

    A damaged packet is dropped, with all that follow it up to the next fresh one.
    """

    def __init__(self, header: StreamHeader, most_bytes: int, name: str):
        super().__init__(header, most_bytes, name)
        self._lost = False

    def push(self, data: bytes) -> list[Packet]:
        """Return the packets of a datagram that can be decoded."""
        self._buffer[:] = data
        found, place = [], 0
        while place < len(data) and not self.ended:
            try:
                packet = self._next(place)
            except BitstreamError:
                packet = None
            if packet is None:
                self._lost = True
                place = self._behind(place)
                continue
            self._lost = False
            found.append(packet[0])
            place = packet[1]
        self._buffer.clear()
        return found

    def _behind(self, place: int) -> int:
        """Where the packet after a damaged one begins, if its size is whole."""
        try:
            reader = ByteReader(bytes(self._buffer[place:]), self.name)
            size = reader.number(MOST_SIZE, "size")
        except BitstreamError:
            return len(self._buffer)
        return place + reader.place + size

    def _read(self, data: bytes, start: int) -> Packet:
        if self._lost and not data[start] & FRESH:
            raise self._fault("is of no use: one before it is missing")
        return super()._read(data, start)

    def _follow(self, number: int) -> None:
        if number < self._number:
            raise self._fault(f"came already, as packet {number}")
