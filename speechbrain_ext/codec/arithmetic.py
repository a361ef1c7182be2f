"""Binary arithmetic coder: bits in, bytes out, as long as their information.

Carryless range coding with 32-bit bounds (Martin, 1979; the binary form of Howard &
Vitter, 1992). Integers only. A coder is an array of `FIELDS` numbers beside a buffer
of bytes, so that compiled code can hold it and a stream can stop between two frames.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: Numbers of a coder: bounds of the interval, what was read of it, place in the buffer.
LOW, HIGH, CODE, PLACE = range(4)
FIELDS = 4
_TOP = 0xFF000000
_ALL = 0xFFFFFFFF
#: A decoder looks this many bytes ahead of what is decided.
LOOK_AHEAD = 4


def new_coder() -> np.ndarray:
    """Return a coder at the beginning of its buffer, int64 [FIELDS].

    Example
    -------
    >>> buffer = np.zeros(64, np.uint8)
    >>> coder = new_coder()
    >>> for bit in (1, 0, 1, 1):
    ...     encode_bit(coder, buffer, bit, 40000)
    >>> size = finish(coder, buffer)
    >>> reader = new_coder()
    >>> start_decoding(reader, buffer[:size])
    >>> [decode_bit(reader, buffer[:size], 40000) for _ in range(4)]
    [1, 0, 1, 1]
    """
    coder = np.zeros(FIELDS, np.int64)
    coder[HIGH] = _ALL
    return coder


@njit(cache=True)
def _middle(coder, probability):
    size = coder[HIGH] - coder[LOW]
    return (
        coder[LOW]
        + (size >> 16) * probability
        + (((size & 0xFFFF) * probability) >> 16)
    )


@njit(cache=True)
def encode_bit(coder, buffer, bit, probability):
    """Write a bit that is 1 with ``probability`` / 65536, which lies in (0, 65536).

    The buffer must have `LOOK_AHEAD` bytes left; see `finish`.
    """
    middle = _middle(coder, probability)
    if bit:
        coder[HIGH] = middle
    else:
        coder[LOW] = middle + 1
    while (coder[LOW] ^ coder[HIGH]) & _TOP == 0:
        buffer[coder[PLACE]] = coder[HIGH] >> 24
        coder[PLACE] += 1
        coder[LOW] = (coder[LOW] << 8) & _ALL
        coder[HIGH] = ((coder[HIGH] << 8) & _ALL) | 0xFF


@njit(cache=True)
def finish(coder, buffer):
    """Write as few bytes as still name the interval; return how many there are.

    What a decoder finds behind them counts as zeros.
    """
    # A number in the interval with as many zeros at its end as possible.
    for size in range(1, 5):
        shift = 8 * (4 - size)
        number = ((coder[LOW] + (1 << shift) - 1) >> shift) << shift
        if number <= coder[HIGH]:
            for index in range(size):
                buffer[coder[PLACE]] = (number >> (24 - 8 * index)) & 0xFF
                coder[PLACE] += 1
            break
    # Zeros at the end need not be there.
    while coder[PLACE] > 0 and buffer[coder[PLACE] - 1] == 0:
        coder[PLACE] -= 1
    return coder[PLACE]


@njit(cache=True)
def _next_byte(coder, buffer):
    place = coder[PLACE]
    coder[PLACE] = place + 1
    return np.int64(buffer[place]) if place < len(buffer) else np.int64(0)


@njit(cache=True)
def start_decoding(coder, buffer):
    """Read the first `LOOK_AHEAD` bytes."""
    for _ in range(4):
        coder[CODE] = (coder[CODE] << 8) | _next_byte(coder, buffer)


@njit(cache=True)
def decode_bit(coder, buffer, probability):
    """Read a bit that is 1 with ``probability`` / 65536."""
    middle = _middle(coder, probability)
    bit = 1 if coder[CODE] <= middle else 0
    if bit:
        coder[HIGH] = middle
    else:
        coder[LOW] = middle + 1
    while (coder[LOW] ^ coder[HIGH]) & _TOP == 0:
        coder[LOW] = (coder[LOW] << 8) & _ALL
        coder[HIGH] = ((coder[HIGH] << 8) & _ALL) | 0xFF
        coder[CODE] = ((coder[CODE] << 8) & _ALL) | _next_byte(coder, buffer)
    return bit
