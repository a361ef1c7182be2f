"""Latents to packets of codes and back, for `TransformCodec`.

Codes are sent as they are, each in as many bits as it needs: the nominal rate. With a
`ResidualVectorQuantizer` each frame has its own; where codes belong to an utterance
(`AdaptiveResidualVectorQuantizer`), each packet is an utterance to the quantizer.
"""

from __future__ import annotations

import numpy as np
import torch

from speechbrain_ext.codec.streaming.overlap import StreamedStack
from speechbrain_ext.codec.streaming.packets import Packet
from speechbrain_ext.codec.streaming.wave_packets import FADE
from speechbrain_ext.models.transform_codec import TransformCodec


def pack_codes(codes: np.ndarray, bits: int) -> bytes:
    """Return numbers as ``bits`` bits each, the highest first.

    Example
    -------
    >>> unpack_codes(pack_codes(np.array([5, 0, 7]), 3), 3, 3).tolist()
    [5, 0, 7]
    """
    places = np.arange(bits - 1, -1, -1)
    spread = (codes.reshape(-1, 1) >> places) & 1
    return np.packbits(spread.astype(np.uint8)).tobytes()


def unpack_codes(data: bytes, count: int, bits: int) -> np.ndarray | None:
    """Undo `pack_codes`; None if ``data`` is not of so many numbers."""
    if len(data) != -(-count * bits // 8):
        return None
    found = np.unpackbits(np.frombuffer(data, np.uint8))
    if found[count * bits :].any():
        return None
    places = np.arange(bits - 1, -1, -1)
    return (found[: count * bits].reshape(count, bits).astype(np.int64) << places).sum(
        1
    )


class CodeWriter:
    """Codes the frames of a `TransformCodec` as they come; see `WaveWriter`.

    Arguments
    ---------
    codec : TransformCodec
    """

    look_ahead = 0

    def __init__(self, codec: TransformCodec):
        self.mdct = codec.mdct
        self._codec = codec
        self._bits = bits_of(codec)
        self._frames: list[np.ndarray] = []

    @property
    def pending(self) -> int:
        """Frames that wait."""
        return len(self._frames)

    def push(self, frame: np.ndarray) -> None:
        """Take a frame, float32 [bins]."""
        self._frames.append(frame)

    @torch.no_grad()
    def attempt(self, count: int, step: int, *, fresh: bool) -> tuple[bytes, None]:
        """Code the first frames that wait with ``step`` quantizers."""
        if not count:
            return b"", None
        frames = torch.from_numpy(np.stack(self._frames[:count]))[None]
        latents = self._codec.to_latents(frames.to(self._codec.basis))
        codes = self._codec.quantizer.encode(latents, step)[0].cpu().numpy()
        return pack_codes(codes, self._bits), None

    def keep(self, count: int, state: None) -> None:
        """Take the frames of an attempt off."""
        del self._frames[:count]


class CodeReader:
    """Undoes `CodeWriter`; see `WaveReader`.

    Arguments
    ---------
    codec : TransformCodec
    packet_frames : int
    """

    def __init__(self, codec: TransformCodec, packet_frames: int):
        self.mdct = codec.mdct
        self._codec = codec
        self._bits = bits_of(codec)
        most = packet_frames * codec.quantizer.num_quantizers
        self.most_bytes = -(-most * self._bits // 8)
        self._stack = StreamedStack(codec.decoder) if codec.decoder else None
        self.reach = self._stack.reach if self._stack else 0
        self._noise = codec.noise_source()
        shape = (1, 0, codec.quantizer.dim)
        # What waits for the network's answer.
        self._latents = self._deviation = codec.basis.new_zeros(shape)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    @torch.no_grad()
    def read(self, packet: Packet, count: int) -> np.ndarray | None:
        """Decode a packet; as `WaveReader.read`."""
        last = packet.samples is not None
        shape = (packet.step, count)
        if not 1 <= packet.step <= self._codec.quantizer.num_quantizers:
            return None
        codes = unpack_codes(packet.payload, packet.step * count, self._bits)
        if codes is None or codes.max() >= self._codec.quantizer.codebook_size:
            return None
        given = torch.from_numpy(codes.reshape(shape))[None]
        latents, deviation = self._codec.dequantize(given.to(self._codec.basis.device))
        return self._out(latents, deviation.expand_as(latents), last=last)

    @torch.no_grad()
    def flush(self) -> np.ndarray:
        """Return what is held back: no packet follows."""
        nothing = self._latents[:, :0]
        return self._out(nothing, nothing, last=True)

    @torch.no_grad()
    def conceal(self, count: int) -> np.ndarray:
        """Make up lost frames from the last one."""
        if self._last is None:
            nothing = self._latents.new_zeros(1, count, self._latents.shape[2])
            return self._out(nothing, nothing, last=False)
        fade = FADE ** torch.arange(1, count + 1, device=self._latents.device)
        latents, deviation = (part * fade[None, :, None] for part in self._last)
        return self._out(latents, deviation, last=False)

    def _out(self, latents, deviation, *, last: bool) -> np.ndarray:
        if latents.shape[1]:
            self._last = (latents[:, -1:], deviation[:, -1:])
        if self._stack:
            seen = self._codec.network_input(latents, deviation)
            answer = self._stack.push(seen, last=last)
            ready = answer.shape[1]
            waiting = torch.cat([self._latents, latents], dim=1)
            deviations = torch.cat([self._deviation, deviation], dim=1)
            self._latents, self._deviation = waiting[:, ready:], deviations[:, ready:]
            part = deviations[:, :ready]
            more = self._codec.corrections(answer, part, self._noise)
            latents = waiting[:, :ready] + more
        return self._codec.to_coefficients(latents)[0].cpu().numpy()


def bits_of(codec: TransformCodec) -> int:
    """Bits that a code takes."""
    return max((codec.quantizer.codebook_size - 1).bit_length(), 1)
