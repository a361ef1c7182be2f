"""Any audio file to samples that can be used, or the reason why not."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from speechbrain_ext.data.audio import AudioError, load_audio, resample
from speechbrain_ext.data.check import (
    find_label_fault,
    find_sample_fault,
    undecodable,
)


def load_recording(
    path: str | os.PathLike,
    sample_rate: int,
    trim: Callable[[np.ndarray, int], tuple[np.ndarray, str | None]] | None = None,
) -> np.ndarray:
    """Decode, check and resample a recording of any format, rate and channels.

    Arguments
    ---------
    path : str or PathLike
        The file.
    sample_rate : int
        Of the result, Hz.
    trim : Callable or None
        Gets samples and rate, returns what is left of them and a reason to reject or
        None; see `SpeechDetector`.

    Returns
    -------
    numpy.ndarray
        float32 [time].

    Raises
    ------
    AudioError
        With the reason; see `speechbrain_ext.data.check`.
    """
    reason = find_label_fault(path)
    if reason is not None:
        raise AudioError(path, reason)
    try:
        wav, source_rate = load_audio(path)
    except AudioError as error:
        raise AudioError(path, undecodable(error)) from error
    return usable_samples(wav, source_rate, sample_rate, trim, name=path)


def usable_samples(
    wav: np.ndarray,
    source_rate: int,
    sample_rate: int,
    trim: Callable[[np.ndarray, int], tuple[np.ndarray, str | None]] | None = None,
    *,
    name: str | os.PathLike = "waveform",
) -> np.ndarray:
    """Check and resample samples; see `load_recording`.

    Arguments
    ---------
    wav : numpy.ndarray
        float samples in [-1, 1], [time].
    source_rate, sample_rate : int
        Of ``wav`` and of the result, Hz.
    trim : Callable or None
        See `load_recording`.
    name : str or PathLike
        For the message.

    Returns
    -------
    numpy.ndarray
        float32 [time].
    """
    reason = find_sample_fault(wav, source_rate)
    if reason is None and source_rate != sample_rate:
        wav = resample(wav, source_rate, sample_rate)
        # A tone above the new band is silence in it.
        reason = find_sample_fault(wav, sample_rate)
    if reason is None and trim is not None:
        wav, reason = trim(wav, sample_rate)
    if reason is not None:
        raise AudioError(name, reason)
    return np.ascontiguousarray(wav, dtype=np.float32)
