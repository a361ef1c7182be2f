"""Tables of integers that are the same on every machine.

Encoder and decoder must agree on every probability to the last bit. What needs a
logarithm or an exponential is therefore looked up: the entries are rounded from
float64, and no entry lies so near the middle of two integers that one machine's
mathematical library could round it otherwise than another's (the tests hold it).
"""

from __future__ import annotations

import numpy as np

#: Steps of one unit in fixed-point numbers: 1 is 256.
ONE = 256
#: Logits, natural logarithms of odds, lie within +- this / `ONE` = 8.
MOST_LOGIT = 2047
#: Probabilities are integers of this scale.
PROBABILITY_ONE = 1 << 16
#: Magnitudes from here on have the logarithm of the last.
MOST_MAGNITUDE = 1023


def squash_table() -> np.ndarray:
    """Return probabilities of logits from -`MOST_LOGIT` to `MOST_LOGIT`.

    Returns
    -------
    np.ndarray
        int64, [2 * MOST_LOGIT + 1], in (0, `PROBABILITY_ONE`).

    Example
    -------
    >>> table = squash_table()
    >>> int(table[MOST_LOGIT]), bool((table + table[::-1] == PROBABILITY_ONE).all())
    (32768, True)
    """
    logits = np.arange(-MOST_LOGIT, 1) / ONE
    below = np.rint(PROBABILITY_ONE / (1 + np.exp(-logits))).astype(np.int64)
    return np.concatenate([below, PROBABILITY_ONE - below[-2::-1]])


def log_magnitude_table() -> np.ndarray:
    """Return ``log2(1 + m)`` in fixed point for m up to `MOST_MAGNITUDE`.

    Returns
    -------
    np.ndarray
        float64 that hold integers, [MOST_MAGNITUDE + 1].

    Example
    -------
    >>> log_magnitude_table()[[0, 1, 3]].tolist()
    [0.0, 256.0, 512.0]
    """
    return np.rint(ONE * np.log2(1.0 + np.arange(MOST_MAGNITUDE + 1)))
