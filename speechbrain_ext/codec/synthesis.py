"""From integers back to a spectrum: values of steps, and noise where nothing was sent.

The decoder knows how much energy a band had and how much of it was sent. It fills the
bins that were quantised to zero with noise of what is missing, but never louder than
what a step could have hidden, and never more than the settings say.
"""

from __future__ import annotations

import numpy as np

from speechbrain_ext.codec.bands import FLOOR
from speechbrain_ext.codec.exact import ONE
from speechbrain_ext.codec.signal import Symbols

#: Magnitudes 1 and 2 have a value of their own, then all share one.
NUM_CENTROIDS = 3
#: Uniform noise of unit power lies within +- this.
_WIDTH = np.sqrt(3.0)


def hashed_noise(shape: tuple[int, ...], first: int = 0) -> np.ndarray:
    """Return noise that is the same on every machine: uniform, of unit power.

    Arguments
    ---------
    shape : tuple of int
    first : int
        Place of the first number; a stream goes on where it stopped.

    Returns
    -------
    np.ndarray
        float64; splitmix64 of its place (Steele et al., 2014).

    Example
    -------
    >>> noise = hashed_noise((1000, 100))
    >>> bool(abs((noise**2).mean() - 1) < 0.01 and abs(noise.mean()) < 0.01)
    True
    >>> bool((hashed_noise((5,), 3) == hashed_noise((8,))[3:]).all())
    True
    """
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.arange(first + 1, first + count + 1, dtype=np.uint64)
        x *= np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    even = (x >> np.uint64(11)).astype(np.float64) / 2.0**53
    return ((2 * even - 1) * _WIDTH).reshape(shape)


def find_centroids(exact: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return how far values lie beyond their integers: of 1, of 2, of all larger.

    Arguments
    ---------
    exact : np.ndarray
        Spectrum in steps.
    rows : np.ndarray
        Integers, of the same shape.
    """
    magnitude, found = np.abs(rows), np.zeros(NUM_CENTROIDS)
    for index in range(NUM_CENTROIDS):
        chosen = magnitude > index if index == 2 else magnitude == index + 1
        if chosen.any():
            found[index] = (np.abs(exact)[chosen] - magnitude[chosen]).mean()
    return found


def dequantise(
    symbols: Symbols,
    steps: np.ndarray,
    edges: np.ndarray,
    *,
    centroids: np.ndarray,
    fill: np.ndarray,
    fill_cap: float,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the spectrum that the symbols stand for, in two parts.

    Arguments
    ---------
    symbols : Symbols
    steps : np.ndarray
        log2 of the steps, fixed point, [frames, bins].
    edges : np.ndarray
        See `bands.band_edges`.
    centroids : np.ndarray
        See `find_centroids`.
    fill : np.ndarray
        Part of the missing amplitude that is filled in, [bands].
    fill_cap : float
        Most noise, in steps.
    first : int
        Number of the first frame, for the noise.

    Returns
    -------
    (np.ndarray, np.ndarray)
        What was sent, and the noise where nothing was; float64, [frames, bins].
    """
    rows = symbols.rows
    size = 2.0 ** (steps / ONE)
    beyond = np.concatenate([[0.0], centroids])[np.minimum(np.abs(rows), 3)]
    values = (rows + np.sign(rows) * beyond) * size
    if not symbols.envelope.shape[1] or not fill.any():
        return values, np.zeros_like(values)
    widths = np.diff(edges)
    silent = rows == 0
    had = widths * 4.0**symbols.envelope
    sent = np.add.reduceat(values**2, edges[:-1], axis=1)
    empty = np.add.reduceat(silent.astype(float), edges[:-1], axis=1)
    missing = np.sqrt(np.maximum(had - sent, 0) / np.maximum(empty, 1))
    missing[symbols.envelope <= FLOOR] = 0
    level = np.minimum(np.repeat(missing, widths, axis=1), fill_cap * size)
    noise = hashed_noise(rows.shape, first * rows.shape[1])
    return values, silent * level * np.repeat(fill, widths) * noise
