"""Spectra to packets and back, for the transform coder.

Each packet ends its arithmetic code, so that it can be decoded when it is there; the
contexts go on from packet to packet, unless one is fresh. The envelope of the frame
behind a packet is part of it, see `speechbrain_ext.codec.signal`.
"""

from __future__ import annotations

import numpy as np
import torch

from speechbrain_ext.codec import bands
from speechbrain_ext.codec.post_filter import Decoded
from speechbrain_ext.codec.signal import MOST_BYTES, Symbols
from speechbrain_ext.codec.streaming.overlap import StreamedFilter
from speechbrain_ext.codec.streaming.packets import Packet
from speechbrain_ext.codec.synthesis import hashed_noise
from speechbrain_ext.codec.wave import WaveCoder

#: A frame that is lost is the last one again, so much softer.
FADE = 0.8


class WaveWriter:
    """Codes the frames of a `WaveCoder` as they come.

    Arguments
    ---------
    coder : WaveCoder

    Attributes
    ----------
    look_ahead : int
        Frames behind a packet that must be known to code it.
    pending : int
        Frames that wait.
    """

    def __init__(self, coder: WaveCoder):
        self.mdct = coder.analysis
        self.look_ahead = int(coder.settings.sends_envelope)
        self.pending = 0
        self._coder = coder
        self._signal = coder.coder()
        self._logs = self._signal.new_logs()
        self._spectrum: list[np.ndarray] = []
        self._envelope: list[np.ndarray] = []
        self._history = 0  # frames kept that are coded already: 0 or 1

    def push(self, frame: np.ndarray) -> None:
        """Take a frame, float64 [bins]."""
        self._spectrum.append(frame)
        level = bands.measure_envelope(frame[None], self._coder.edges)
        self._envelope.append(level[0])
        self.pending += 1

    def attempt(
        self, count: int, step: int, *, fresh: bool
    ) -> tuple[bytes, np.ndarray | None]:
        """Code the first frames that wait, without taking them off.

        Returns
        -------
        (bytes, np.ndarray)
            Payload, and what `keep` needs.
        """
        start, first = (self._history, 0) if fresh else (0, self._history)
        logs = self._signal.new_logs() if fresh else self._logs.copy()
        if not count:
            return b"", logs
        stop = self._history + count + self.look_ahead
        payload = self._signal.encode_span(
            np.stack(self._spectrum[start:stop]),
            np.stack(self._envelope[start:stop]),
            (first, first + count),
            step,
            self._coder.settings.price,
            logs,
        )
        return payload, logs

    def keep(self, count: int, logs: np.ndarray | None) -> None:
        """Take the frames of an attempt off."""
        if count:
            done = self._history + count - 1
            del self._spectrum[:done], self._envelope[:done]
            self._history = 1
            self.pending -= count
        self._logs = logs


class WaveReader:
    """Undoes `WaveWriter`.

    Arguments
    ---------
    coder : WaveCoder
    packet_frames : int
    post_filter : bool
        Whether to use the one that the coder has.

    Attributes
    ----------
    reach : int
        Frames that are held back, for the post-filter.
    most_bytes : int
        That a payload can have.
    """

    def __init__(self, coder: WaveCoder, packet_frames: int, *, post_filter: bool):
        self.mdct = coder.mdct
        self._coder = coder
        self._signal = coder.coder()
        self._logs = self._signal.new_logs()
        self._envelope = np.zeros((0, self._signal.num_bands), np.int64)
        mends = coder.post_filter is not None and coder.settings.filter_strength > 0
        mends = mends and post_filter
        self._filter = StreamedFilter(coder.post_filter) if mends else None
        self.reach = self._filter.reach if self._filter else 0
        bins = coder.mdct.hop_samples
        width = bins + self._signal.num_bands
        self.most_bytes = MOST_BYTES * width * (packet_frames + 2)
        self._frames = 0
        self._last = Decoded(*torch.zeros(5, 1, 1, bins))

    def read(self, packet: Packet, count: int) -> np.ndarray | None:
        """Decode a packet.

        Arguments
        ---------
        packet : Packet
        count : int
            Its frames.

        Returns
        -------
        np.ndarray or None
            Spectrum of the frames that are complete now, [frames, bins]; None if the
            packet can't be of `WaveWriter`.
        """
        last = packet.samples is not None
        if packet.fresh:
            self._logs = self._signal.new_logs()
            self._envelope = self._envelope[:0]
        known = len(self._envelope)
        first = max(known - 1, 0)
        total = first + count + (self._signal.num_bands > 0 and not last)
        envelope = np.zeros((total, self._signal.num_bands), np.int64)
        envelope[:known] = self._envelope[:total]
        span = (first, first + count)
        rows = self._signal.decode_span(
            packet.payload, envelope, span, packet.step, self._logs
        )
        if rows is None:
            return None
        if self._signal.num_bands:
            self._envelope = envelope[first + count - 1 :]
        # With the frames around, whose rows are empty: steps depend on them.
        decoded = self._coder.decoded(
            Symbols(envelope, rows), packet.step, self._frames - first
        )
        return self._out(Decoded(*(part[:, slice(*span)] for part in decoded)), last)

    def flush(self) -> np.ndarray:
        """Return what is held back: no packet follows."""
        return self._out(Decoded(*(part[:, :0] for part in self._last)), last=True)

    def conceal(self, count: int) -> np.ndarray:
        """Make up lost frames from the last one; returns as `read`."""
        part = Decoded(*(part.repeat(1, count, 1) for part in self._last))
        shape = part.rows.shape[1:]
        signs = np.sign(hashed_noise(shape, self._frames * shape[1]))
        fade = signs * FADE ** np.arange(1, count + 1)[:, None]
        values, nothing = part.values + part.noise, torch.zeros_like(part.rows)
        noise = values * torch.from_numpy(fade.astype(np.float32))
        return self._out(
            part._replace(rows=nothing, values=nothing, noise=noise), last=False
        )

    def _out(self, decoded: Decoded, last: bool) -> np.ndarray:
        count = decoded.rows.shape[1]
        self._frames += count
        if count:
            self._last = Decoded(*(part[:, -1:] for part in decoded))
        if not self._filter:
            return self._coder.mended(decoded, 0.0)[0].numpy()
        device = self.mdct.dct.device
        decoded = Decoded(*(part.to(device) for part in decoded))
        decoded, filtered = self._filter.push(decoded, last=last)
        return self._coder.mended(decoded, filtered=filtered)[0].cpu().numpy()
