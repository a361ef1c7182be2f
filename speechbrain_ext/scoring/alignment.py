"""Find and undo the delay that a codec leaves, down to a fraction of a sample."""

from __future__ import annotations

import numpy as np
from scipy import fft
from scipy.optimize import minimize_scalar


def delay_samples(
    reference: np.ndarray, estimate: np.ndarray, *, max_delay: int = 400
) -> float:
    """How many samples the estimate lags behind the reference.

    The lag of the largest cross-correlation, refined between the samples by evaluating
    the band-limited correlation itself (no parabola).

    Arguments
    ---------
    reference, estimate : np.ndarray
        Waveforms, [time], of one length.
    max_delay : int
        Largest lag looked for, in samples, in both directions.

    Returns
    -------
    float
        Lag in samples, negative if the estimate leads; 0.0 if either is silent.
    """
    size = fft.next_fast_len(reference.size + max_delay + 1, real=True)
    cross = fft.rfft(estimate, size) * np.conj(fft.rfft(reference, size))
    # Four points per sample: on whole samples a neighbouring period of a vowel can
    # stand higher than the true peak that falls between two of them.
    correlation = fft.irfft(cross, 4 * size)
    lags = np.arange(-4 * max_delay, 4 * max_delay + 1)
    near = correlation[lags]
    if not near.any() or not np.isfinite(near).all():
        return 0.0
    start = lags[near.argmax()] / 4
    turn = 2j * np.pi * np.arange(cross.size) / size
    best = minimize_scalar(
        lambda lag: -(cross * np.exp(turn * lag)).real.sum(),
        bounds=(start - 0.25, start + 0.25),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(best.x)


def advance(wav: np.ndarray, samples: float) -> np.ndarray:
    """Shift a waveform to earlier times by any number of samples, length kept.

    Arguments
    ---------
    wav : np.ndarray
        [time].
    samples : float
        How far; negative shifts to later times. What leaves one end is lost, what
        enters at the other is silence.

    Returns
    -------
    np.ndarray
        [time], of the dtype of ``wav``.

    Example
    -------
    >>> advance(np.array([0.0, 0.0, 1.0, 0.0]), 2).round(6).tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    whole = round(samples)
    shifted = np.zeros_like(wav)
    if abs(whole) < wav.size:
        source = slice(max(0, whole), wav.size + min(0, whole))
        shifted[max(0, -whole) : wav.size + min(0, -whole)] = wav[source]
    rest = samples - whole
    if not rest or not wav.size:
        return shifted
    # Room for the ringing of the fractional shift, so that it doesn't wrap around.
    size = fft.next_fast_len(wav.size + 512, real=True)
    turn = 2j * np.pi * np.arange(size // 2 + 1) / size
    spectrum = fft.rfft(shifted, size) * np.exp(turn * rest)
    return fft.irfft(spectrum, size)[: wav.size].astype(wav.dtype)


def align(
    reference: np.ndarray, estimate: np.ndarray, *, max_delay: int = 400
) -> tuple[np.ndarray, float]:
    """Undo the delay of an estimate.

    Returns
    -------
    tuple of np.ndarray and float
        The estimate on the time axis of the reference, and the lag that it had, in
        samples.
    """
    lag = delay_samples(reference, estimate, max_delay=max_delay)
    return advance(estimate, lag), lag
