"""How close a decoded waveform is to its reference, and when that can't be said.

A figure that can't be measured is never a number: the functions raise `NotMeasured`
with the reason, and `score_pair` writes ``None`` with the reason beside it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

#: Signal ratios are cut here: a perfect copy has a figure that JSON and means can hold.
LIMIT_DB = 100.0
#: Below this root-mean-square amplitude (-100 dB full scale) a signal is silent.
SILENCE = 1e-5


class NotMeasured(ValueError):  # noqa: N818 - a state to report, not an error to mend
    """A metric that has no value for this pair; the message is the reason."""


def checked_pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, ...]:
    """Both as float64, after the checks that all metrics share."""
    reference, estimate = np.asarray(reference), np.asarray(estimate)
    if reference.ndim != 1 or reference.shape != estimate.shape:
        raise ValueError(
            "scoring: reference and estimate must be [time] and of one length, got "
            f"{list(reference.shape)} and {list(estimate.shape)}"
        )
    if not reference.size:
        raise NotMeasured("the signals are empty")
    for name, wav in (("reference", reference), ("estimate", estimate)):
        bad = int(np.count_nonzero(~np.isfinite(wav)))
        if bad:
            raise NotMeasured(f"the {name} has {bad} non-finite samples")
    reference, estimate = reference.astype(np.float64), estimate.astype(np.float64)
    if math.sqrt(np.mean(reference**2)) < SILENCE:
        raise NotMeasured("the reference is silent")
    return reference, estimate


def _ratio_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), between -`LIMIT_DB` and +`LIMIT_DB`."""
    if noise <= signal * 10 ** (-LIMIT_DB / 10):
        return LIMIT_DB
    if signal <= noise * 10 ** (-LIMIT_DB / 10):
        return -LIMIT_DB
    return 10 * math.log10(signal / noise)


def snr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Signal-to-noise ratio of an estimate, the noise being all that differs.

    Arguments
    ---------
    reference, estimate : np.ndarray
        Waveforms, [time], of one length, any sample rate.

    Returns
    -------
    float
        In dB, cut at plus and minus `LIMIT_DB`.

    Raises
    ------
    NotMeasured
        If the reference is silent, or a sample of either is not finite.
    ValueError
        If the shapes don't fit.

    Example
    -------
    >>> wav = np.sin(np.arange(16000) / 20)
    >>> round(snr_db(wav, 0.9 * wav), 3)
    20.0
    """
    reference, estimate = checked_pair(reference, estimate)
    return _ratio_db(np.sum(reference**2), np.sum((reference - estimate) ** 2))


def si_sdr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio, both means removed first.

    Le Roux et al., 2019, eq. 5 (https://arxiv.org/abs/1811.02508). Arguments, cut and
    errors as in `snr_db`; a silent estimate is worth -`LIMIT_DB`.

    Example
    -------
    >>> wav = np.sin(np.arange(16000) / 20)
    >>> si_sdr_db(wav, 0.9 * wav)
    100.0
    """
    reference, estimate = checked_pair(reference, estimate)
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    energy = np.sum(reference**2)
    if math.sqrt(energy / reference.size) < SILENCE:
        raise NotMeasured("the reference is silent but for an offset")
    target = np.sum(reference * estimate) / energy * reference
    if not target.any():
        return -LIMIT_DB
    return _ratio_db(np.sum(target**2), np.sum((estimate - target) ** 2))


def pesq_wb(
    reference: np.ndarray, estimate: np.ndarray, sample_rate: int = 16000
) -> float:
    """Wide-band PESQ (ITU-T P.862.2), about 1.0 (bad) to 4.64 (transparent).

    Arguments
    ---------
    reference, estimate : np.ndarray
        Waveforms, [time], of one length, at 16 kHz.
    sample_rate : int
        In Hz; others than 16000 are not measured.

    Raises
    ------
    NotMeasured
        Besides the reasons of `snr_db`: the package is missing, the rate is another,
        the signal is shorter than a quarter of a second, or P.862 finds no speech.
    """
    reference, estimate = checked_pair(reference, estimate)
    try:
        import pesq
    except ImportError:
        raise NotMeasured("needs gcc and Python headers") from None
    if sample_rate != 16000:
        raise NotMeasured(f"PESQ-WB is defined at 16000 Hz, not at {sample_rate}")
    if not estimate.any():
        raise NotMeasured("the estimate is silent")
    try:
        return float(pesq.pesq(sample_rate, reference, estimate, "wb"))
    except pesq.PesqError as error:
        reason = error.args[0] if error.args else type(error).__name__
        if isinstance(reason, bytes):
            reason = reason.decode(errors="replace")
        raise NotMeasured(f"P.862: {reason}".rstrip("!. ")) from error


def stoi(
    reference: np.ndarray,
    estimate: np.ndarray,
    sample_rate: int = 16000,
    *,
    extended: bool = False,
) -> float:
    """Short-time objective intelligibility, 0 to 1.

    Taal et al., 2011 (https://doi.org/10.1109/TASL.2011.2114881).

    Arguments
    ---------
    reference, estimate : np.ndarray
        Waveforms, [time], of one length.
    sample_rate : int
        In Hz.
    extended : bool
        ESTOI (Jensen and Taal, 2016) instead.

    Raises
    ------
    NotMeasured
        Besides the reasons of `snr_db`: less than 30 frames of speech (0.4 s).
    """
    import pystoi

    reference, estimate = checked_pair(reference, estimate)
    # pystoi draws from numpy's global stream for ESTOI: the same figure every time,
    # and nobody else's stream moved.
    stream = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            return float(pystoi.stoi(reference, estimate, sample_rate, extended))
    except (RuntimeWarning, ValueError, IndexError) as error:
        # pystoi warns and returns 1e-5 for less than 30 frames, or stumbles over none.
        raise NotMeasured("less than 0.4 s of speech") from error
    finally:
        np.random.set_state(stream)


def estoi(
    reference: np.ndarray, estimate: np.ndarray, sample_rate: int = 16000
) -> float:
    """Measure extended short-time objective intelligibility; see `stoi`."""
    return stoi(reference, estimate, sample_rate, extended=True)


def log_spectral_distance_db(
    reference: np.ndarray,
    estimate: np.ndarray,
    sample_rate: int = 16000,
    *,
    range_db: float = 80.0,
) -> float:
    """Root-mean-square difference of the log spectra, mean over frames.

    Gray and Markel, 1976. Frames of 32 ms every 8 ms, Hann window; both spectra are
    floored ``range_db`` below the strongest bin of the reference, so that digital
    silence has no weight without end.

    Arguments
    ---------
    reference, estimate : np.ndarray
        Waveforms, [time], of one length.
    sample_rate : int
        In Hz.
    range_db : float
        Depth of the spectra that is compared.

    Returns
    -------
    float
        In dB; 0 is best. A signal shorter than a frame is continued by zeros.
    """
    from scipy.signal import ShortTimeFFT, get_window

    reference, estimate = checked_pair(reference, estimate)
    size = round(0.032 * sample_rate)
    hop = size // 4
    missing = max(0, size - reference.size)
    stft = ShortTimeFFT(get_window("hann", size), hop, sample_rate)
    powers = [
        np.abs(stft.stft(np.pad(wav, (0, missing)))) ** 2
        for wav in (reference, estimate)
    ]
    floor = powers[0].max() * 10 ** (-range_db / 10)
    logs = [10 * np.log10(np.maximum(power, floor)) for power in powers]
    return float(np.sqrt(np.mean((logs[0] - logs[1]) ** 2, axis=0)).mean())


def _visqol(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    from speechbrain_ext.scoring.visqol import visqol

    return visqol(reference, estimate, sample_rate)


#: metric name -> function of (reference, estimate, sample_rate)
METRICS = {
    "snr_db": lambda reference, estimate, _: snr_db(reference, estimate),
    "si_sdr_db": lambda reference, estimate, _: si_sdr_db(reference, estimate),
    "pesq_wb": pesq_wb,
    "stoi": stoi,
    "estoi": estoi,
    "log_spectral_distance_db": log_spectral_distance_db,
    "visqol": _visqol,
}
#: Metrics that everybody has.
USUAL_METRICS = tuple(name for name in METRICS if name != "visqol")


def score_pair(
    reference: np.ndarray,
    estimate: np.ndarray,
    sample_rate: int,
    metrics: Iterable[str] = USUAL_METRICS,
) -> dict[str, Any]:
    """Measure all metrics of one pair.

    Arguments
    ---------
    reference, estimate : np.ndarray
        Waveforms, [time], of one length.
    sample_rate : int
        In Hz.
    metrics : iterable of str
        Keys of `METRICS`.

    Returns
    -------
    dict
        Each metric's value, or None; ``not_measured`` maps the metrics without a value
        to the reason; ``non_finite_samples`` counts NaN and Inf in the estimate.

    Example
    -------
    >>> scores = score_pair(np.zeros(8000), np.ones(8000), 16000, ["snr_db"])
    >>> scores["snr_db"], scores["not_measured"]
    (None, {'snr_db': 'the reference is silent'})
    """
    scores: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name in metrics:
        try:
            scores[name] = METRICS[name](reference, estimate, sample_rate)
        except NotMeasured as reason:
            scores[name], reasons[name] = None, str(reason)
    bad = int(np.count_nonzero(~np.isfinite(estimate)))
    return {**scores, "not_measured": reasons, "non_finite_samples": bad}


def mean_scores(files: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Average the results of `score_pair`, leaving out what was not measured.

    Arguments
    ---------
    files : iterable of mapping
        Results of `score_pair` (other keys are passed over).

    Returns
    -------
    dict
        The mean of each metric, None where no file has a value; ``not_measured`` maps
        a metric to the reasons and how many files had each. An unmeasured file is never
        counted as 0.
    """
    files = list(files)
    means: dict[str, Any] = {}
    reasons: dict[str, dict[str, int]] = {}
    for name in METRICS:
        if not any(name in scores for scores in files):
            continue
        values = [scores[name] for scores in files if scores.get(name) is not None]
        means[name] = float(np.mean(values)) if values else None
        for scores in files:
            reason = scores.get("not_measured", {}).get(name)
            if reason:
                counts = reasons.setdefault(name, {})
                counts[reason] = counts.get(reason, 0) + 1
    return {**means, "not_measured": reasons}
