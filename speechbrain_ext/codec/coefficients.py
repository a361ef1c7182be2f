"""Coding of quantised coefficients, each from what lies around it.

The magnitude of a coefficient is near those of its neighbours in the frame and in the
two frames before, and near what the envelope promises; `UnaryNet` learns how. The sign
costs a bit. Features of coefficient k of frame t, all fixed-point numbers:

- ``log2(1 + |q|)`` of k-1 ... k-12 of the frame, k-6 ... k+6 of the last, k-2 ... k+2
  of the one before;
- where an envelope was sent, ``log2(envelope / step)`` at k, k-4 and k+4, and with the
  envelopes of the frames before and after at k.

Where the envelope lies far below the step, so that next to nothing could be sent,
nothing is: such a coefficient is 0, costs no bit and no time. At 8 kbps most do.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from speechbrain_ext.codec.bands import MOST_PROMISE, promise
from speechbrain_ext.codec.exact import MOST_MAGNITUDE, ONE, log_magnitude_table
from speechbrain_ext.codec.symbols import (
    DECODE,
    answer_bits,
    code_escape,
    code_even,
    code_symbol,
    escape_bits,
)
from speechbrain_ext.codec.unary_net import keep_non_zero, logit_index, run_hidden

#: Neighbours below in the frame, beside in the last one, beside in the one before.
BELOW, BESIDE, BEFORE = 12, 6, 2
NEIGHBOURS = BELOW + 2 * BESIDE + 1 + 2 * BEFORE + 1
#: What the envelope promises: at k of this frame, beside, and in the frames around.
ASIDE = 4
PROMISES = 5
#: Two octaves below the step a coefficient is taken for 0 (one in 2,000 is not).
SILENT_PROMISE = -2 * ONE
#: Zeros around a row, so that neighbours at the edges need no question.
PAD = 12
#: Magnitudes 0 to 11 are symbols, then half octaves, whose symbols even bits follow.
_SINGLE = 12
_HALVES = [low << octave for octave in range(2, 8) for low in (4, 6)]
LOWEST = np.array([*range(_SINGLE), 12, *_HALVES, 1024], np.int64)
#: Symbols with a question of their own; behind the last an escape.
SYMBOLS = len(LOWEST) - 1
_EXTRA = np.log2(np.diff(LOWEST)).astype(np.int64)
LOG_MAGNITUDE = log_magnitude_table()


def symbols_of(magnitudes: np.ndarray) -> np.ndarray:
    """Return the symbol of each magnitude, `SYMBOLS` for an escape.

    Example
    -------
    >>> symbols_of(np.array([0, 11, 12, 15, 16, 24, 5000])).tolist()
    [0, 11, 12, 12, 13, 14, 25]
    """
    return np.searchsorted(LOWEST, magnitudes, side="right") - 1


def place_features(num_bins: int) -> torch.Tensor:
    """Return what a coefficient's place tells, [num_bins, 6]."""
    k = (torch.arange(num_bins, dtype=torch.float64) + 0.5) / num_bins
    columns = [k, k.sqrt(), *(torch.cos(np.pi * n * k) for n in (1, 2, 4, 8))]
    return torch.stack(columns, dim=1)


def all_features(
    magnitudes: np.ndarray, shaped: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """Gather the features of all coefficients, to learn from.

    Arguments
    ---------
    magnitudes : np.ndarray
        Integers, [frames, bins].
    shaped : (np.ndarray, np.ndarray) or None
        Of `bands.shape_signal`; None where no envelope is sent.

    Returns
    -------
    np.ndarray
        float32, as real numbers, [frames * bins, features].
    """
    logs = LOG_MAGNITUDE[np.minimum(magnitudes, MOST_MAGNITUDE)]
    frames, bins = logs.shape
    rows = np.pad(logs, ((2, 0), (PAD, PAD)))

    def at(back: int, shift: int) -> np.ndarray:
        return rows[2 - back : 2 - back + frames, PAD + shift : PAD + shift + bins]

    columns = [at(0, -1 - n) for n in range(BELOW)]
    columns += [at(1, n - BESIDE) for n in range(2 * BESIDE + 1)]
    columns += [at(2, n - BEFORE) for n in range(2 * BEFORE + 1)]
    if shaped is not None:
        steps, levels = shaped
        found = np.clip(levels - steps[:, None], -MOST_PROMISE, MOST_PROMISE)
        wide = np.pad(found[:, 1], ((0, 0), (ASIDE, ASIDE)), mode="edge")
        columns += [found[:, 1], wide[:, :bins], wide[:, 2 * ASIDE :]]
        columns += [found[:, 0], found[:, 2]]
    stacked = np.stack(columns, axis=-1).reshape(frames * bins, -1)
    return (stacked / ONE).astype(np.float32)


@njit(cache=True)
def _note_features(k, logs, steps, levels, scratch):
    """Note what lies around coefficient k; ``logs`` has three rows."""
    at, row, count = PAD + k, 0, 0
    for n in range(BELOW):
        count = keep_non_zero(scratch, count, row + n, logs[0, at - 1 - n])
    row += BELOW
    for n in range(2 * BESIDE + 1):
        count = keep_non_zero(scratch, count, row + n, logs[1, at + n - BESIDE])
    row += 2 * BESIDE + 1
    for n in range(2 * BEFORE + 1):
        count = keep_non_zero(scratch, count, row + n, logs[2, at + n - BEFORE])
    row += 2 * BEFORE + 1
    if len(levels):
        low, high = max(k - ASIDE, 0), min(k + ASIDE, len(steps) - 1)
        for value in (
            promise(levels[1, k], steps[k]),
            promise(levels[1, low], steps[low]),
            promise(levels[1, high], steps[high]),
            promise(levels[0, k], steps[k]),
            promise(levels[2, k], steps[k]),
        ):
            count = keep_non_zero(scratch, count, row, value)
            row += 1
    return count


@njit(cache=True)
def _choose(net, hidden, x, price):
    """Magnitude for ``x`` >= 0 steps: least squared error + price * bits."""
    most = int(np.floor(x + 0.5))
    if most == 0:
        return 0
    # Only the two values around x can be best, and 0.
    index = logit_index(net, hidden, 0)
    best, least = 0, x * x + price * answer_bits(index, 0)
    more = 1.0 + answer_bits(index, 1)  # of the answers so far, and the sign
    m = max(most - 1, 1)
    symbol = 1
    while m <= most and symbol < SYMBOLS:
        index = logit_index(net, hidden, symbol)
        while m <= most and m < LOWEST[symbol + 1]:
            bits = more + answer_bits(index, 0) + _EXTRA[symbol]
            loss = (x - m) ** 2 + price * bits
            if loss < least:
                best, least = m, loss
            m += 1
        more += answer_bits(index, 1)
        symbol += 1
    return best if m > most else most


@njit(cache=True)
def code_frame(
    mode, coder, buffer, net, row, logs, steps, levels, exact, price, scratch
):
    """Code a frame's coefficients, low frequencies first.

    Arguments
    ---------
    mode, coder, buffer
        See `symbols` and `arithmetic`.
    net : IntegerNet
    row : np.ndarray
        The integers, int64 [bins]; filled when decoding, or where ``exact`` is given,
        and set to 0 where the envelope promises nothing (`SILENT_PROMISE`).
    logs : np.ndarray
        Logarithms of this, the last and the frame before, [3, PAD + bins + PAD]; the
        first row is filled.
    steps, levels : np.ndarray
        Of `bands.shape_frame`; [0] and [0, 0] where no envelope is sent.
    exact : np.ndarray
        Coefficients in steps, [bins], to choose the integers from; [0]: as given.
    price : float
        Squared steps that a bit may save; see `_choose`.
    scratch : Scratch

    Returns
    -------
    float
        Bits, or -1 if what is read can't have been written.
    """
    bits = 0.0
    logs[0, :] = 0.0
    for k in range(len(row)):
        if len(levels) and levels[1, k] - steps[k] < SILENT_PROMISE:
            row[k] = 0
            continue
        run_hidden(net, k, scratch, _note_features(k, logs, steps, levels, scratch))
        if len(exact):
            magnitude = _choose(net, scratch.second, abs(exact[k]), price)
            row[k] = magnitude if exact[k] >= 0 else -magnitude
        wanted = abs(row[k]) if mode != DECODE else 0
        symbol = 0
        while symbol < SYMBOLS and wanted >= LOWEST[symbol + 1]:
            symbol += 1
        symbol, spent = code_symbol(mode, coder, buffer, net, scratch.second, symbol)
        bits += spent
        found = LOWEST[symbol]
        if symbol == SYMBOLS:
            extra = code_escape(mode, coder, buffer, wanted - found)
            if extra < 0:
                return -1.0
            found += extra
            bits += escape_bits(extra)
        elif _EXTRA[symbol]:
            found += code_even(mode, coder, buffer, wanted - found, _EXTRA[symbol])
            bits += _EXTRA[symbol]
        if found:
            negative = code_even(mode, coder, buffer, 1 if row[k] < 0 else 0, 1)
            bits += 1
            if mode == DECODE:
                row[k] = -found if negative else found
            logs[0, PAD + k] = LOG_MAGNITUDE[min(found, MOST_MAGNITUDE)]
        elif mode == DECODE:
            row[k] = 0
    return bits


@njit(cache=True)
def shift(logs):
    """Make this frame the last one."""
    logs[2] = logs[1]
    logs[1] = logs[0]
