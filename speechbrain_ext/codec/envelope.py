"""Coding of the envelope: how much each band changed since the last frame.

Values are whole octaves of amplitude (6 dB). Features of band b of frame t, relative to
the same band of the last frame: the bands around it in the last frame, and in the one
before; how the bands below have changed; and the value of the last frame itself.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from speechbrain_ext.codec.bands import CEILING, FLOOR
from speechbrain_ext.codec.exact import ONE
from speechbrain_ext.codec.symbols import (
    DECODE,
    code_escape,
    code_symbol,
    escape_bits,
)
from speechbrain_ext.codec.unary_net import keep_non_zero, run_hidden

#: Bands on each side in the last frame, in the one before; bands below in this one.
BESIDE, BEFORE, BELOW = 3, 1, 3
FEATURES = 2 * BESIDE + 2 * BEFORE + 1 + BELOW + 1
#: Questions; a larger change is an escape.
SYMBOLS = 24
_PAD = 3


def place_features(num_bands: int) -> torch.Tensor:
    """Return what a band's place tells: which it is, [num_bands, num_bands]."""
    return torch.eye(num_bands, dtype=torch.float64)


@njit(cache=True)
def fold(change):
    """0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ..."""
    return 2 * change if change >= 0 else -2 * change - 1


@njit(cache=True)
def unfold(symbol):
    """Undo `fold`."""
    return symbol // 2 if symbol % 2 == 0 else -(symbol + 1) // 2


@njit(cache=True)
def _padded(envelope, t):
    """Frame t with the outermost bands repeated; silence before the first frame."""
    bands = envelope.shape[1]
    row = np.full(bands + 2 * _PAD, float(FLOOR))
    if t >= 0:
        for index in range(len(row)):
            row[index] = envelope[t, min(max(index - _PAD, 0), bands - 1)]
    return row


@njit(cache=True)
def band_features(last, before, now, band, features):
    """Fill in the features of a band, [FEATURES]; rows are padded by `_PAD`."""
    at = band + _PAD
    here = last[at]
    place = 0
    for shift in range(-BESIDE, BESIDE + 1):
        if shift:
            features[place] = last[at + shift] - here
            place += 1
    for shift in range(-BEFORE, BEFORE + 1):
        features[place] = before[at + shift] - here
        place += 1
    for shift in range(1, BELOW + 1):
        known = band - shift >= 0
        features[place] = now[at - shift] - last[at - shift] if known else 0.0
        place += 1
    features[place] = here


@njit(cache=True)
def all_features(envelope):
    """Gather features and symbols of all bands, to learn from.

    Arguments
    ---------
    envelope : np.ndarray
        int64, [frames, bands].

    Returns
    -------
    (np.ndarray, np.ndarray)
        float64 [frames * bands, FEATURES], int64 [frames * bands].
    """
    frames, bands = envelope.shape
    features = np.empty((frames * bands, FEATURES))
    symbols = np.empty(frames * bands, np.int64)
    for t in range(frames):
        last, before = _padded(envelope, t - 1), _padded(envelope, t - 2)
        now = _padded(envelope, t)
        for band in range(bands):
            index = t * bands + band
            band_features(last, before, now, band, features[index])
            symbols[index] = fold(int(now[band + _PAD] - last[band + _PAD]))
    return features, symbols


@njit(cache=True)
def code_envelope_frame(mode, coder, buffer, net, envelope, t, scratch):
    """Code a frame of the envelope, low bands first.

    Arguments
    ---------
    mode, coder, buffer
        See `symbols` and `arithmetic`.
    net : IntegerNet
    envelope : np.ndarray
        int64, [frames, bands]; row t is filled when decoding.
    t : int
    scratch : Scratch

    Returns
    -------
    float
        Bits, or -1 if what is read can't have been written.
    """
    last, before = _padded(envelope, t - 1), _padded(envelope, t - 2)
    now = np.zeros_like(last)
    features = np.empty(FEATURES)
    bits = 0.0
    for band in range(envelope.shape[1]):
        band_features(last, before, now, band, features)
        count = 0
        for index in range(FEATURES):
            count = keep_non_zero(scratch, count, index, features[index] * ONE)
        run_hidden(net, band, scratch, count)
        here = int(last[band + _PAD])
        wanted = fold(envelope[t, band] - here) if mode != DECODE else 0
        symbol, spent = code_symbol(mode, coder, buffer, net, scratch.second, wanted)
        if symbol == SYMBOLS:
            extra = code_escape(mode, coder, buffer, wanted - SYMBOLS)
            if extra < 0:
                return -1.0
            symbol += extra
            spent += escape_bits(extra)
        bits += spent
        value = here + unfold(symbol)
        if not FLOOR <= value <= CEILING:
            return -1.0
        envelope[t, band] = value
        now[band + _PAD] = value
    return bits
