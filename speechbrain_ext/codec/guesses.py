"""How large and how good a signal gets with a step, told without coding it.

Coding is what takes time, and to keep a rate it has to be done again with every step
that is tried. Of the size, ``mean(log2(1 + (1.5 x / step)^2)) / 2``, what a coefficient
would take from a coder that knew its level, follows what a real one takes on a curve
that is much the same for all speech: a guess from it lies within 2 or 3 % of the bits,
and once a signal was coded with one step, within a part of a percent for the steps
around. Of the signal-to-noise ratio, plain rounding tells.
"""

from __future__ import annotations

import numpy as np

from speechbrain_ext.codec.bands import STEP_ZERO, STEPS_PER_OCTAVE
from speechbrain_ext.codec.coefficients import SILENT_PROMISE
from speechbrain_ext.codec.exact import ONE

#: A curve: its coefficients, and from where to where it was measured; straight beyond.
#: This one takes the measure for the size.
PLAIN_CURVE = (0.0, 1.0, 0.0, 0.0, 0.0)
_KNEE = 2 * np.log2(1.5)
#: Frames that are looked at; of a longer signal so many blocks.
_MOST_FRAMES, _BLOCKS = 8192, 8
#: Octaves of bits that one of the measure adds at least.
_LEAST_SLOPE = 0.2
_NOTHING = -40.0


class SizeCurve:
    """Guesses of log2 of the bits that a signal takes, for any step.

    Arguments
    ---------
    x : np.ndarray
        Spectrum, [frames, bins].
    steps : np.ndarray
        log2 of its steps with step `STEP_ZERO`, in fixed point, [frames, bins].
    promises : np.ndarray or None
        log2 of its envelope, in fixed point, [frames, bins]; None if none is sent.
    curve : np.ndarray
        Of `fit_curve`; `PLAIN_CURVE` while nothing was learned.
    num_frames : int
        Of the whole signal, of which ``x`` may be `some_frames`.
    """

    def __init__(
        self,
        x: np.ndarray,
        steps: np.ndarray,
        promises: np.ndarray | None,
        curve: np.ndarray,
        num_frames: int,
    ):
        self._curve = np.asarray(curve)
        self._size = x.size
        self._whole = np.log2(max(num_frames * x.shape[1], 1))
        heard = x != 0
        room = None if promises is None else (promises - steps)[heard]
        power = np.log2(np.square(x[heard])) - steps[heard] * (2 / ONE) + _KNEE
        # Coarser steps leave out more: those that speak longest come first.
        if room is not None:
            order = np.argsort(-room, kind="stable")
            room, power = room[order], power[order]
        self._room, self._power = room, power.astype(np.float32)
        self._known: dict[int, float] = {}

    def measure(self, step: int) -> float:
        """Return log2 of the bits of a coefficient, as an ideal coder might do."""
        if step not in self._known:
            octaves = (step - STEP_ZERO) / STEPS_PER_OCTAVE
            power = self._power
            if self._room is not None:
                least = SILENT_PROMISE + round(octaves * ONE)
                power = power[: np.searchsorted(-self._room, -least, side="right")]
            found = np.logaddexp2(0, power - np.float32(2 * octaves)).sum() / 2
            self._known[step] = float(np.log2(max(found / self._size, 2.0**_NOTHING)))
        return self._known[step]

    def __call__(self, step: int) -> float:
        """Return log2 of the signal's bits."""
        *curve, low, high = self._curve
        measured = self.measure(step)
        inside = float(np.clip(measured, low, high))
        slope = np.polyval(np.polyder(curve), inside)
        found = np.polyval(curve, inside) + (measured - inside) * slope
        return float(found + self._whole)


class RoundedRatio:
    """Guesses of the signal-to-noise ratio, dB, for any step: that of plain rounding.

    Arguments
    ---------
    x, steps : np.ndarray
        As `SizeCurve` takes them.
    threshold : float
        What is added before rounding down.
    """

    def __init__(self, x: np.ndarray, steps: np.ndarray, threshold: float):
        heard = x != 0
        size = np.abs(x[heard])
        self._steps = (steps[heard] / ONE).astype(np.float32)
        self._octaves = np.log2(size).astype(np.float32) - self._steps
        self._power = np.square(size)
        self._total = float(self._power.sum())
        self._threshold = threshold
        self._known: dict[int, float] = {}

    def __call__(self, step: int) -> float:
        """Return dB."""
        if step not in self._known:
            at = np.float32((step - STEP_ZERO) / STEPS_PER_OCTAVE)
            kept = self._octaves - at >= np.log2(1 - self._threshold)
            size = np.exp2(self._octaves[kept] - at)
            error = size - np.floor(size + np.float32(self._threshold))
            error = np.square(error * np.exp2(self._steps[kept] + at))
            # What is rounded to 0 is lost as it is.
            left = self._total - float(self._power[kept].sum())
            found = max(left, 0.0) + float(error.sum(dtype=np.float64))
            found = max(self._total, 1e-30) / max(found, 1e-30)
            self._known[step] = 10 * float(np.log10(found))
        return self._known[step]


def some_frames(num_frames: int) -> np.ndarray | slice:
    """Return which frames tell of a signal: all, or blocks of a long one."""
    if num_frames <= _MOST_FRAMES:
        return slice(None)
    starts = np.linspace(0, num_frames - _MOST_FRAMES // _BLOCKS, _BLOCKS).astype(int)
    return np.concatenate([np.arange(_MOST_FRAMES // _BLOCKS) + s for s in starts])


def fit_curve(measured: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Fit a curve to what signals took.

    Arguments
    ---------
    measured : np.ndarray
        Of `SizeCurve.measure`, [count].
    taken : np.ndarray
        log2 of the bits per coefficient, [count].

    Returns
    -------
    np.ndarray
        float64, like `PLAIN_CURVE`.

    Example
    -------
    >>> found = fit_curve(np.array([-3.0, -2.0, -1.0]), np.array([-2.5, -1.5, -0.5]))
    >>> [abs(x) for x in found.round(2).tolist()]
    [0.0, 1.0, 0.5, 3.0, 1.0]
    """
    low, high = float(measured.min()), float(measured.max())
    found = [0.0, 1.0, float(np.mean(taken - measured))]
    for degree in range(1, min(len(set(measured)), 3)):
        curve = np.polyfit(measured, taken, degree)
        if np.polyval(np.polyder(curve), [low, high]).min() >= _LEAST_SLOPE:
            found = [*[0.0] * (2 - degree), *curve]
    return np.array([*found, low, high])
