"""ViSQOL, a listening model that no search and no loss here has ever seen."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np

from speechbrain_ext.scoring.signal import NotMeasured, checked_pair

#: What must be installed, of the extra "bench".
_PACKAGE = "visqol"
#: Hz; speech mode knows no other.
_SAMPLE_RATE = 16000


def visqol_is_installed() -> bool:
    """Whether `visqol` can measure here; nothing is imported."""
    return importlib.util.find_spec(_PACKAGE) is not None


def visqol(
    reference: np.ndarray, estimate: np.ndarray, sample_rate: int = _SAMPLE_RATE
) -> float:
    """ViSQOL in speech mode, about 1 (bad) to 5, and 4.5 of a perfect copy.

    Chinen et al., 2020, https://arxiv.org/abs/2004.09584; by the package
    visqol-python, whose mapping to MOS is the network that the original takes where
    ``ai-edge-litert`` is installed.

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
        or the signal is too short for it.
    """
    reference, estimate = checked_pair(reference, estimate)
    if not visqol_is_installed():
        raise NotMeasured("needs pip install 'visqol-python[accel,lattice]'")
    if sample_rate != _SAMPLE_RATE:
        raise NotMeasured(f"ViSQOL's speech mode is of 16000 Hz, not {sample_rate}")
    if not estimate.any():
        raise NotMeasured("the estimate is silent")
    try:
        found = _api().measure_from_arrays(reference, estimate, sample_rate=sample_rate)
    except (ValueError, RuntimeError, IndexError) as error:
        raise NotMeasured(f"ViSQOL: {str(error).splitlines()[0]}") from error
    return float(found.moslqo)


@functools.cache
def _api():
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="speech")
    return api
