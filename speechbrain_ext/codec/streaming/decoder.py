"""`StreamDecoder`: bytes in, samples out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import nn

from speechbrain_ext.codec.container import MODEL_BYTES, BitstreamError
from speechbrain_ext.codec.streaming.datagrams import DatagramReader
from speechbrain_ext.codec.streaming.frames import FrameSynthesiser
from speechbrain_ext.codec.streaming.packets import (
    HEADER_BYTES,
    MAGIC,
    MOST_FRAMES,
    Packet,
    PacketReader,
    StreamHeader,
)
from speechbrain_ext.codec.streaming.sides import check_codec, reader_of

#: A longer hole is not filled, but ends the stream.
_MOST_LOST_SECONDS = 60
_NO_SAMPLES = np.zeros(0, np.float32)


class Concealed(NamedTuple):
    """Time that was made up, since its packets did not come.

    Attributes
    ----------
    start, seconds : float
        In seconds.
    """

    start: float
    seconds: float


class StreamDecoder:
    """Decodes what `StreamEncoder` writes, while it comes.

    Whatever pieces the bytes come in, the samples are the same, and those of the whole
    file to float32 rounding.

    Arguments
    ---------
    codec : WaveCodec or TransformCodec
        The one that coded.
    post_filter : bool
        Whether to use the post-filter that a `WaveCodec` may have: it looks four frames
        ahead, and so adds them to the latency.
    conceal : bool
        For datagrams: each push then holds whole packets, as pushes of the encoder
        return them; what is damaged or did not come is filled with the last frame,
        fading, up to the next packet that can be decoded alone (``restart_every``).
        See `concealed`. Else damage is an error.
    name : str
        For messages.

    Attributes
    ----------
    sample_rate : int
        Hz, that of the codec.
    concealed : list of Concealed
        What was made up so far.

    Raises
    ------
    TypeError
        If the codec has no streams.
    """

    def __init__(
        self,
        codec: nn.Module,
        *,
        post_filter: bool = True,
        conceal: bool = False,
        name: str = "stream",
    ):
        check_codec(codec)
        self._post_filter = post_filter
        self.sample_rate = codec.sample_rate
        self.concealed: list[Concealed] = []
        self._codec = codec
        self._conceal = conceal
        self._name = name
        self._head = b""
        self._packets: PacketReader | None = None
        self._num_samples: int | None = None  # of the whole, once it is known
        self._given = 0
        self._decoded = 0  # packets
        self._fault: BitstreamError | None = None

    @property
    def latency_samples(self) -> int:
        """Samples held back, beside what the bytes don't tell yet.

        Frames that a network looks ahead; known once the header came.

        Raises
        ------
        ValueError
            If it did not.
        """
        if self._packets is None:
            raise ValueError(
                "StreamDecoder: the latency depends on the stream; push its header"
            )
        return self._reader.reach * self._hop

    @property
    def latency_ms(self) -> float:
        """`latency_samples` in milliseconds."""
        return 1000 * self.latency_samples / self.sample_rate

    @property
    def ended(self) -> bool:
        """Whether the stream's last packet was decoded."""
        return self._num_samples is not None

    def push(self, data: bytes) -> np.ndarray:
        """Take bytes, and return the samples that are ready.

        Arguments
        ---------
        data : bytes
            Any piece of a stream; with ``conceal``, whole packets.

        Returns
        -------
        np.ndarray
            float32, [time], at `sample_rate`.

        Raises
        ------
        BitstreamError
            If it is no stream, or of another model; if a packet is damaged or missing
            (not with ``conceal``). ``error.samples`` then has what could be decoded
            before, and each later call raises the same.
        """
        if self._fault is not None:
            raise self._fault
        found: list[np.ndarray] = []
        try:
            data = self._take_header(data)
            if self._packets is not None:
                packets, fault = self._whole_packets(data)
                for packet in packets:
                    found.append(self._decode(packet))
                if fault is not None:
                    raise fault
        except BitstreamError as error:
            if self._conceal and self._packets is None:
                self._head = b""  # the header may be sent again
            else:
                self._fault = error
            error.samples = np.concatenate([_NO_SAMPLES, *found])
            raise
        return np.concatenate([_NO_SAMPLES, *found])

    def finish(self) -> np.ndarray:
        """Return the samples that are left: none, if the stream came to its end.

        Raises
        ------
        BitstreamError
            If it did not, and ``conceal`` is not set; ``error.samples`` then has them.
        """
        if self._fault is not None:
            raise self._fault
        if self.ended:
            return _NO_SAMPLES
        if self._packets is None:
            StreamHeader.of(self._head, self._name)
        held = self._synthesiser.push(self._reader.flush())
        self._num_samples = self._given = self._given + len(held)
        if self._conceal:
            return held
        self._fault = BitstreamError(
            f"{self._name}: ends early, after packet {self._packets.number - 1} and "
            f"{self._packets.waiting} bytes of the next; get the rest"
        )
        self._fault.samples = held
        raise self._fault

    def _take_header(self, data: bytes) -> bytes:
        """Read the header off the front of what came; return the rest."""
        if self._packets is not None:
            return data
        self._head += data
        if len(self._head) < HEADER_BYTES:
            if not MAGIC.startswith(self._head[: len(MAGIC)]):
                StreamHeader.of(self._head, self._name)
            return b""
        data, self._head = self._head[HEADER_BYTES:], self._head[:HEADER_BYTES]
        header = StreamHeader.of(self._head, self._name)
        mine = self._codec.digest()[:MODEL_BYTES]
        if header.model != mine or header.sample_rate != self.sample_rate:
            raise BitstreamError(
                f"{self._name}: was coded by the model {header.model.hex()}, and this "
                f"is {mine.hex()}; decode it with the model that coded it"
            )
        reader = None
        if 1 <= header.packet_frames <= MOST_FRAMES:
            filtered = {"post_filter": self._post_filter}
            sizes = (header.kind, header.packet_frames)
            reader = reader_of(self._codec, *sizes, **filtered)
        if reader is None:
            raise BitstreamError(
                f"{self._name}: has settings {header.kind} and packets of "
                f"{header.packet_frames} frames, which this model can't have written"
            )
        self._reader = reader
        self._frames = header.packet_frames
        self._hop = reader.mdct.hop_samples
        self._synthesiser = FrameSynthesiser(reader.mdct)
        kind = DatagramReader if self._conceal else PacketReader
        self._packets = kind(header, reader.most_bytes, self._name)
        return data

    def _whole_packets(self, data: bytes) -> tuple[list[Packet], BitstreamError | None]:
        try:
            return self._packets.push(data), None
        except BitstreamError as error:
            return error.packets, error

    def _decode(self, packet: Packet) -> np.ndarray:
        """Return the samples that a packet completes."""
        lost = self._made_up(packet)
        count = self._frames
        if packet.samples is not None:
            # Frames of a signal: a block each, and the silence behind.
            total = -(-packet.samples // self._hop) + (packet.samples > 0)
            count = total - packet.number * self._frames
            if not (packet.samples > 0) <= count <= self._frames:
                raise self._no_sense(packet)
        if not count:
            self._num_samples = 0
            return _NO_SAMPLES
        spectrum = self._reader.read(packet, count)
        if spectrum is None:
            raise self._no_sense(packet)
        found = np.concatenate([lost, self._synthesiser.push(spectrum)])
        if packet.samples is not None:
            self._num_samples = packet.samples
            found = found[: packet.samples - self._given]
        self._given += len(found)
        self._decoded = packet.number + 1
        return found

    def _made_up(self, packet: Packet) -> np.ndarray:
        """Fill the time of packets that did not come before this one."""
        missing = packet.number - self._decoded
        if not missing:
            return _NO_SAMPLES
        per_packet = self._frames * self._hop / self.sample_rate
        if missing * per_packet > _MOST_LOST_SECONDS:
            raise BitstreamError(
                f"{self._name}: {missing} packets are missing before packet "
                f"{packet.number}; a hole of more than {_MOST_LOST_SECONDS} s is not "
                "filled; begin a new stream"
            )
        start = self._decoded * per_packet
        self.concealed.append(Concealed(start, missing * per_packet))
        return self._synthesiser.push(self._reader.conceal(missing * self._frames))

    def _no_sense(self, packet: Packet) -> BitstreamError:
        return BitstreamError(
            f"{self._name}: packet {packet.number} is damaged: its bits make no sense"
        )
