"""What is known about a code before it is read: features of its cell and those around.

A cell is a group of dimensions in a frame (see `places`). Rows are coded one after the
other over the whole utterance, so a code sees its cell's earlier codes and those of
all cells around, in frames to come as well. Of a cell's codes count how many there are
and the energies of their vectors, added up: a centroid is orthogonal to what it leaves
over, on average. All are integers looked up by codes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from speechbrain_ext.codec.exact import ONE

#: Parts of a group whose energies are told apart.
PARTS = 4
#: Frames and groups around, kept as silence beyond the edges.
PAD = 2
#: A feature is this much per octave of energy, of 3 dB; per code; per row; and per
#: step of a priority.
PER_OCTAVE, PER_LEVEL, PER_ROW, PER_STEP = ONE // 4, ONE // 4, ONE // 16, 2
#: Mean energy of a cell as an integer; less than one step is silence.
MEAN_ENERGY = 1 << 24
_MANTISSA = 6
_LOG_MANTISSA = np.rint(
    PER_OCTAVE * np.log2(1 + np.arange(1 << _MANTISSA) / (1 << _MANTISSA))
).astype(np.int64)
#: Features of a code, filled up with zeros to a multiple of four: of this cell, the
#: frames beside, those beyond, the groups beside, the corners, and others.
FEATURES = -(-((PARTS + 2) + 2 * (PARTS + 2) + 2 * 2 + 2 * 3 + 4 + 3) // 4) * 4


@njit(cache=True)
def loudness(energy):
    """log2 of an integer > 0 in steps of `PER_OCTAVE`, cut to 6 bits of mantissa."""
    octave, rest = 0, energy
    for step in (32, 16, 8, 4, 2, 1):
        if rest >> step:
            rest >>= step
            octave += step
    if octave >= _MANTISSA:
        rest = energy >> (octave - _MANTISSA)
    else:
        rest = energy << (_MANTISSA - octave)
    return PER_OCTAVE * octave + _LOG_MANTISSA[rest - (1 << _MANTISSA)]


@njit(cache=True)
def new_cells(num_frames, groups):
    """Return what is known of all cells before the first row.

    Returns
    -------
    (np.ndarray, np.ndarray, np.ndarray, np.ndarray)
        Energies of parts and their sum, int64 [frames, groups, PARTS + 1]; their
        loudness, float64 of the same shape with `PAD` frames and groups around;
        levels as features, float64 and padded alike; last codes, -1 where there is
        none, int64 [frames, groups].
    """
    padded = (num_frames + 2 * PAD, groups + 2 * PAD)
    return (
        np.zeros((num_frames, groups, PARTS + 1), np.int64),
        np.zeros((*padded, PARTS + 1)),
        np.zeros(padded),
        np.full((num_frames, groups), -1),
    )


@njit(cache=True)
def add_code(cells, frame, group, code, added):
    """Let a cell know a code of its own, whose energies are ``added``."""
    energies, louds, levels, last = cells
    for part in range(PARTS + 1):
        energies[frame, group, part] += added[part]
        louds[frame + PAD, group + PAD, part] = loudness(
            energies[frame, group, part] + 1
        )
    levels[frame + PAD, group + PAD] += PER_LEVEL
    last[frame, group] = code


@njit(cache=True)
def cell_features(cells, row, frame, group, last_energy, priority, features):
    """Fill in the features of a code, float64 [FEATURES] that hold integers.

    Arguments
    ---------
    cells : tuple
        See `new_cells`.
    row, frame, group : int
        Of the code.
    last_energy : int
        Of the cell's last code; 0 if it has none.
    priority : int
        Of the cell; 0 where places are fixed.
    features : np.ndarray
    """
    _, louds, levels, _ = cells
    t, g = frame + PAD, group + PAD
    place = 0
    for shift in (0, -1, 1):
        for part in range(PARTS + 1):
            features[place] = louds[t + shift, g, part]
            place += 1
    features[place] = loudness(last_energy + 1)
    features[place + 1] = levels[t - 1, g]
    features[place + 2] = levels[t + 1, g]
    features[place + 3] = louds[t - 2, g, PARTS]
    features[place + 4] = levels[t - 2, g]
    features[place + 5] = louds[t + 2, g, PARTS]
    features[place + 6] = levels[t + 2, g]
    features[place + 7] = louds[t, g - 1, PARTS]
    features[place + 8] = louds[t, g - 1, PARTS - 1]
    features[place + 9] = levels[t, g - 1]
    features[place + 10] = louds[t, g + 1, PARTS]
    features[place + 11] = louds[t, g + 1, 0]
    features[place + 12] = levels[t, g + 1]
    features[place + 13] = louds[t - 1, g - 1, PARTS]
    features[place + 14] = louds[t - 1, g + 1, PARTS]
    features[place + 15] = louds[t + 1, g - 1, PARTS]
    features[place + 16] = louds[t + 1, g + 1, PARTS]
    features[place + 17] = louds[t, PAD, PARTS]
    features[place + 18] = row * PER_ROW
    features[place + 19] = priority * PER_STEP


def code_energies(vectors: np.ndarray) -> np.ndarray:
    """Return the energies of the parts of code vectors and their sum.

    Arguments
    ---------
    vectors : np.ndarray
        [codebook_size, width].

    Returns
    -------
    np.ndarray
        float64, [codebook_size, PARTS + 1].

    Example
    -------
    >>> code_energies(np.array([[1.0, 2, 3, 0, 0, 1]])).tolist()
    [[5.0, 9.0, 0.0, 1.0, 15.0]]
    """
    parts = np.array_split(np.square(vectors, dtype=np.float64), PARTS, axis=1)
    sums = [part.sum(1) for part in parts]
    return np.stack([*sums, sum(sums)], axis=1)
