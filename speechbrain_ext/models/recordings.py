"""What files of all codecs have in common: channels, the right model, lengths."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from speechbrain_ext.codec.container import (
    MODEL_BYTES,
    MOST_CHANNELS,
    BitstreamError,
    Coded,
    read_coded,
    write_coded,
)

#: Bytes that a number in a header takes at most beside the one it is counted with.
_MORE_BYTES = 2


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
