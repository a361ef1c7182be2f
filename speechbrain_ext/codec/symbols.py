"""Coding of single symbols: by the answers of a network, or as bits that are even."""

from __future__ import annotations

import numpy as np
from numba import njit

from speechbrain_ext.codec.arithmetic import LOOK_AHEAD, decode_bit, encode_bit
from speechbrain_ext.codec.exact import PROBABILITY_ONE, squash_table
from speechbrain_ext.codec.unary_net import logit_index

#: What a function that codes does.
COUNT, ENCODE, DECODE = 0, 1, 2

SQUASH = squash_table()
#: Cost of an answer of probability p / 4096, in bits.
_COST = -np.log2((np.arange(4097) + 0.5) / 4097)
#: Most bits of the number behind an escape.
_MOST_EXTRA = 20


#: What is least for a symbol: one answer, as sure as can be, and a tenth of slack.
_LEAST_BITS = -0.9 * float(np.log2(1 - SQUASH[0] / PROBABILITY_ONE))


def most_symbols(num_bytes: int) -> int:
    """Return how many symbols a payload can hold, were all of them foreseen.

    Example
    -------
    >>> 3_000 < most_symbols(0) < most_symbols(1000) < 30_000_000
    True
    """
    return int(8 * (num_bytes + 2 * LOOK_AHEAD) / _LEAST_BITS)


@njit(cache=True)
def answer_bits(index, bit):
    """Bits of an answer whose probability is ``SQUASH[index]``."""
    probability = SQUASH[index]
    return _COST[(probability if bit else PROBABILITY_ONE - probability) >> 4]


@njit(cache=True)
def code_answer(mode, coder, buffer, bit, index):
    """Count, write or read an answer; returns it."""
    if mode == DECODE:
        return decode_bit(coder, buffer, SQUASH[index])
    if mode == ENCODE:
        encode_bit(coder, buffer, bit, SQUASH[index])
    return bit


@njit(cache=True)
def code_symbol(mode, coder, buffer, net, hidden, symbol):
    """Code a symbol from 0 to the number of the net's questions, the escape.

    Returns
    -------
    (int, float)
        Symbol and bits.
    """
    bits = 0.0
    found = 0
    while found < net.last.shape[1]:
        index = logit_index(net, hidden, found)
        bit = code_answer(mode, coder, buffer, 1 if symbol > found else 0, index)
        bits += answer_bits(index, bit)
        if not bit:
            break
        found += 1
    return found, bits


@njit(cache=True)
def code_even(mode, coder, buffer, value, bits):
    """Code the lowest ``bits`` bits of a number, each as likely 0 as 1."""
    if mode == COUNT:
        return value & ((1 << bits) - 1)
    found = 0
    for place in range(bits - 1, -1, -1):
        bit = (value >> place) & 1
        if mode == DECODE:
            bit = decode_bit(coder, buffer, PROBABILITY_ONE // 2)
        else:
            encode_bit(coder, buffer, bit, PROBABILITY_ONE // 2)
        found = 2 * found + bit
    return found


@njit(cache=True)
def code_escape(mode, coder, buffer, value):
    """Code a number >= 0 of unknown size: the gamma code of value + 1 (Elias, 1975).

    Returns the number, or -1 if what is read is none.
    """
    length = 0
    while mode != DECODE and (value + 1) >> (length + 1):
        length += 1
    found = 0
    while code_even(mode, coder, buffer, 1 if found < length else 0, 1):
        found += 1
        if found > _MOST_EXTRA:
            return -1
    return (1 << found) + code_even(mode, coder, buffer, value + 1, found) - 1


@njit(cache=True)
def escape_bits(value):
    """Bits of `code_escape`."""
    length = 0
    while (value + 1) >> (length + 1):
        length += 1
    return 2 * length + 1
