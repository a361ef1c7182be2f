"""What files of all codecs have in common: channels, the right model, lengths."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from speechbrain_ext.codec.container import (
    MODEL_BYTES,
    MOST_CHANNELS,
    BitstreamError,
    Coded,
    check_limits,
    read_coded,
    write_coded,
)
from speechbrain_ext.data.audio import resample

#: Bytes that a number in a header takes at most beside the one it is counted with.
_MORE_BYTES = 2


class Aim(NamedTuple):
    """What a channel is to become.

    Attributes
    ----------
    kind : int
        What the header calls this way of coding.
    bits : float or None
        Most for a channel's payload; None: no limit.
    snr : float or None
        Least signal-to-noise ratio, dB.
    rows : int or None
        Most codes per frame.
    """

    kind: int
    bits: float | None = None
    snr: float | None = None
    rows: int | None = None


class RecordingFiles(abc.ABC):
    """Recordings to files and back, channel by channel: what all codecs share.

    A mix-in for codecs with ``sample_rate`` and four methods of their own: ``_aim``
    checks what is asked for, ``_tools`` fetches what a file takes, ``_encode_channel``
    and ``_decode_channel`` code a channel at the codec's rate.
    """

    #: What the header calls the codec's ways of coding.
    _KINDS: tuple[int, ...] = ()

    def compress(
        self,
        wave: np.ndarray,
        sample_rate: int,
        *,
        kbps: float | None = None,
        snr: float | None = None,
        codebooks: int | None = None,
    ) -> bytes:
        """Code a recording.

        Arguments
        ---------
        wave : np.ndarray
            [time] or [channels, time], finite, in [-1, 1]; channels are coded one by
            one.
        sample_rate : int
            In Hz.
        kbps : float or None
            Most kilobits per second and channel, header and checksum included. A
            codec takes what it must all the same: one codebook, or an envelope.
        snr : float or None
            Least signal-to-noise ratio in dB, at the codec's rate; silence has any. Of
            `WaveCodec`.
        codebooks : int or None
            Number of codebooks, i.e. codes per frame. Of codecs of codes.

        Returns
        -------
        bytes
            A whole file; see `speechbrain_ext.codec.container`.

        Raises
        ------
        ValueError
            If not exactly one aim is given, the codec has no such aim or can't reach
            it, or there is nothing to code, or more than a file holds; see
            `check_limits`.
        """
        aim = self._aim(kbps, snr, codebooks)
        channels = checked_channels(wave, type(self).__name__)
        count, total = channels.shape[::-1]
        check_limits(sample_rate, count, total)
        if kbps is not None:
            spent = 8 * overhead_bytes(channels.shape, sample_rate) / total
            aim = aim._replace(bits=1000 * kbps * count / sample_rate - spent)
        digest, tools = self._tools()
        payloads, numbers = [], []
        with one_thread(), torch.inference_mode():
            for channel in channels:
                ours = resample(channel, sample_rate, self.sample_rate)
                payload, number = self._encode_channel(ours, aim, tools)
                payloads.append(payload)
                numbers.append(number)
        heads = (digest[:MODEL_BYTES], aim.kind, sample_rate, count)
        return write_coded(Coded(*heads, tuple(numbers), tuple(payloads)))

    def decompress(self, data: bytes, name: str = "input") -> tuple[np.ndarray, int]:
        """Undo `compress`.

        Arguments
        ---------
        data : bytes
            A whole file.
        name : str
            For messages.

        Returns
        -------
        (np.ndarray, int)
            float32 [channels, time], as many samples as went in, and their rate in Hz.

        Raises
        ------
        BitstreamError
            If the file is damaged, or was coded by another model.
        """
        digest, tools = self._tools()
        coded = read_own(data, name, digest)
        if coded.kind not in self._KINDS:
            raise BitstreamError(f"{name}: is damaged: there is no kind {coded.kind}")
        count = resampled_length(coded.num_samples, coded.sample_rate, self.sample_rate)
        channels = []
        with one_thread(), torch.inference_mode():
            for payload, number in zip(coded.payloads, coded.steps, strict=True):
                ours = self._decode_channel(
                    *(payload, number, coded.kind, count), tools
                )
                if ours is None:
                    raise BitstreamError(f"{name}: is damaged: its bits make no sense")
                found = resample(ours, self.sample_rate, coded.sample_rate)
                channels.append(fit_length(found, coded.num_samples))
        return np.stack(channels).astype(np.float32), coded.sample_rate

    @abc.abstractmethod
    def _aim(self, kbps, snr, codebooks) -> Aim:
        """Check what is asked for; `compress` finds the bits of a rate."""

    @abc.abstractmethod
    def _tools(self) -> tuple[bytes, Any]:
        """Digest of what both sides share, and what channels are coded with."""

    @abc.abstractmethod
    def _encode_channel(
        self, wave: np.ndarray, aim: Aim, tools: Any
    ) -> tuple[bytes, int]:
        """Payload of [time], and the number that goes with it into the header."""

    @abc.abstractmethod
    def _decode_channel(
        self, payload: bytes, number: int, kind: int, count: int, tools: Any
    ) -> np.ndarray | None:
        """Undo `_encode_channel`, [count]; None if the payload can't be of it."""


def checked_channels(wave: np.ndarray, owner: str) -> np.ndarray:
    """Return a recording as float64 [channels, time].

    Raises
    ------
    ValueError
        If there is nothing to code, samples are integers, which would be taken for
        a voice 32768 times as loud, or channels come last; ``owner`` says who asks.
    """
    if np.asarray(wave).dtype.kind in "iu":
        raise ValueError(
            f"{owner}: wave must be float in [-1, 1], got {np.asarray(wave).dtype}; "
            "divide by its full scale"
        )
    channels = np.atleast_2d(np.asarray(wave, np.float64))
    if channels.ndim != 2 or not channels.size or not np.isfinite(channels).all():
        raise ValueError(
            f"{owner}: wave must be finite, [time] or [channels, time], got "
            f"{list(np.shape(wave))}"
        )
    if len(channels) > MOST_CHANNELS >= channels.shape[1]:
        raise ValueError(
            f"{owner}: wave must be [time] or [channels, time], got "
            f"{list(channels.shape)}; transpose it: wave.T"
        )
    return channels


def overhead_bytes(shape: tuple[int, int], sample_rate: int) -> int:
    """Bytes of a file with recordings [channels, time], beside its payloads."""
    empty = Coded(
        *(bytes(MODEL_BYTES), 0, sample_rate, shape[1]),
        *((1000,) * shape[0], (b"",) * shape[0]),
    )
    return len(write_coded(empty)) + _MORE_BYTES * shape[0]


def read_own(data: bytes, name: str, digest: bytes) -> Coded:
    """Read a file that a model has coded.

    Raises
    ------
    BitstreamError
        If it is damaged, or was coded by another model.
    """
    coded = read_coded(data, name)
    mine = digest[:MODEL_BYTES]
    if coded.model != mine:
        raise BitstreamError(
            f"{name}: was coded by the model {coded.model.hex()}, and this is "
            f"{mine.hex()}; decode it with the model that coded it"
        )
    return coded


def resampled_length(count: int, sample_rate: int, target_rate: int) -> int:
    """Return how many samples a recording has after its conversion."""
    return -(-count * target_rate // sample_rate)


def fit_length(wave: np.ndarray, count: int) -> np.ndarray:
    """Cut or pad a conversion's last samples."""
    return np.pad(wave[:count], (0, max(count - len(wave), 0)))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums of several differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
