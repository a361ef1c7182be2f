"""Bands of a spectrum, and how coarse each coefficient is quantised, in integers.

The step of a coefficient follows from what encoder and decoder both know: the envelope,
and a number for the whole signal. All logarithms are to base 2, in fixed point (1 is
256), so that both sides find the same steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from speechbrain_ext.codec.exact import ONE

#: Limits of the bands at 16 kHz, Hz: narrow where hearing is fine.
EDGES_HZ = (
    *(0, 100, 200, 300, 450, 600, 800, 1000, 1300, 1650),
    *(2050, 2550, 3200, 4000, 5000, 6300, 8000),
)
#: Envelope values, rounded logarithms of amplitudes: 2^-13 is -78 dB, and silence.
FLOOR, CEILING = -13, 15
#: log2 of the step is (index - STEP_ZERO) / STEPS_PER_OCTAVE.
STEPS_PER_OCTAVE, STEP_ZERO, NUM_STEPS = 64, 14 * 64, 1024
#: Steps below 0, for quiet recordings that shall be held: a file calls them `NUM_STEPS`
#: and on.
FINER_STEPS = 10 * STEPS_PER_OCTAVE
#: An envelope promises no more than 2^+-this.
MOST_PROMISE = 8 * ONE
#: Neighbouring frames further away than this, in octaves, count as so far.
_FAR = 12


class Shape(NamedTuple):
    """Where steps follow from; arrays that compiled code takes.

    Attributes
    ----------
    below : np.ndarray
        Of each bin, the band whose middle lies below, int64 [bins].
    fraction : np.ndarray
        How near the next band's middle is, fixed point, int64 [bins].
    gamma : int
        How much of the envelope the step follows, fixed point.
    weights : np.ndarray
        log2 of each bin's step beside that, fixed point, int64 [bins].
    smooth : np.ndarray
        See `smooth_table`.
    """

    below: np.ndarray
    fraction: np.ndarray
    gamma: int
    weights: np.ndarray
    smooth: np.ndarray


def band_edges(num_bins: int, sample_rate: int, edges_hz=EDGES_HZ) -> np.ndarray:
    """Return the first bin of each band, and behind the last, int64 [bands + 1].

    Raises
    ------
    ValueError
        If a band has no bin.

    Example
    -------
    >>> band_edges(256, 16000)[[0, 1, -1]].tolist()
    [0, 3, 256]
    """
    edges = np.rint(np.asarray(edges_hz) * (2 * num_bins / sample_rate)).astype(int)
    edges[-1] = num_bins
    if (np.diff(edges) < 1).any():
        raise ValueError(
            f"bands: {num_bins} bins are too few for bands of {min(np.diff(edges_hz))} "
            f"Hz at {sample_rate} Hz; take a longer hop"
        )
    return edges


def smooth_table() -> np.ndarray:
    """Return what the frames around add to the logarithm of an amplitude of 1.

    ``log2(0.25 * 2^a + 0.5 + 0.25 * 2^b)`` in fixed point, for a and b from -12 to 12.

    Example
    -------
    >>> int(smooth_table()[12, 12])
    0
    """
    far = 2.0 ** np.arange(-_FAR, _FAR + 1)
    return np.rint(ONE * np.log2(0.25 * far[:, None] + 0.5 + 0.25 * far)).astype(int)


def make_shape(edges: np.ndarray, gamma: float, weights_db: np.ndarray) -> Shape:
    """Round a shape.

    Arguments
    ---------
    edges : np.ndarray
        See `band_edges`.
    gamma : float
        In [0, 1]: 0 gives all bins one step, 1 one signal-to-noise ratio.
    weights_db : np.ndarray
        Steps beside that in dB, [bands].
    """
    bins, bands = edges[-1], len(edges) - 1
    middles = (edges[:-1] + edges[1:] - 1) / 2
    where = np.interp(np.arange(bins), middles, np.arange(bands))
    below = np.minimum(where.astype(int), max(bands - 2, 0))
    weights = np.interp(np.arange(bins), middles, weights_db) / (20 * np.log10(2))
    return Shape(
        below,
        np.rint(ONE * (where - below)).astype(int),
        round(ONE * gamma),
        np.rint(ONE * weights).astype(int),
        smooth_table(),
    )


def measure_envelope(spectrum: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return rounded log2 of each band's root mean square, int64 [frames, bands]."""
    power = np.square(spectrum, dtype=np.float64)
    power = np.add.reduceat(power, edges[:-1], axis=1)
    rms = np.sqrt(power / np.diff(edges))
    with np.errstate(divide="ignore"):
        return np.clip(np.rint(np.log2(rms)), FLOOR, CEILING).astype(np.int64)


@njit(cache=True)
def _at_bin(values, shape, k):
    """Fixed-point value between the middles of two bands, [bands] -> bin k."""
    low = shape.below[k]
    high = min(low + 1, len(values) - 1)
    return values[low] * (ONE - shape.fraction[k]) + values[high] * shape.fraction[k]


@njit(cache=True)
def shape_frame(envelope, t, shape, step, steps, levels):
    """Find a frame's steps, and what the envelopes of three frames promise.

    Arguments
    ---------
    envelope : np.ndarray
        int64, [frames, bands]; frame t + 1 must be known, unless t is the last.
    t : int
    shape : Shape
    step : int
        Of the whole signal; see `STEPS_PER_OCTAVE`.
    steps : np.ndarray
        Filled with log2 of the steps, fixed point, int64 [bins].
    levels : np.ndarray
        Filled with log2 of the envelope of the last, this and the next frame, fixed
        point, int64 [3, bins].
    """
    last, after = max(t - 1, 0), min(t + 1, len(envelope) - 1)
    smoothed = np.empty(envelope.shape[1], np.int64)
    for band in range(envelope.shape[1]):
        here = envelope[t, band]
        a = min(max(envelope[last, band] - here, -_FAR), _FAR) + _FAR
        b = min(max(envelope[after, band] - here, -_FAR), _FAR) + _FAR
        smoothed[band] = here * ONE + shape.smooth[a, b]
    base = (step - STEP_ZERO) * (ONE // STEPS_PER_OCTAVE)
    for k in range(len(steps)):
        level = _at_bin(smoothed, shape, k) // ONE
        steps[k] = base + (shape.gamma * level) // ONE + shape.weights[k]
        levels[0, k] = _at_bin(envelope[last], shape, k)
        levels[1, k] = _at_bin(envelope[t], shape, k)
        levels[2, k] = _at_bin(envelope[after], shape, k)


@njit(cache=True)
def flat_steps(shape, step, steps):
    """Fill in the steps of every frame where no envelope is sent."""
    base = (step - STEP_ZERO) * (ONE // STEPS_PER_OCTAVE)
    for k in range(len(steps)):
        steps[k] = base + shape.weights[k]


@njit(cache=True)
def promise(level, step):
    """Fixed-point ``log2(envelope / step)``, bounded; a float for `unary_net`."""
    return float(min(max(level - step, -MOST_PROMISE), MOST_PROMISE))


@njit(cache=True)
def shape_signal(envelope, shape, step):
    """Find steps and levels of all frames: int64 [frames, bins], [frames, 3, bins]."""
    frames, bins = len(envelope), len(shape.weights)
    steps = np.empty((frames, bins), np.int64)
    levels = np.empty((frames, 3, bins), np.int64)
    for t in range(frames):
        shape_frame(envelope, t, shape, step, steps[t], levels[t])
    return steps, levels
