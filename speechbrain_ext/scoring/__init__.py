"""Scores: numpy in, numbers out."""

from speechbrain_ext.scoring.signal import (
    NotMeasured,
    estoi,
    log_spectral_distance_db,
    mean_scores,
    pesq_wb,
    score_pair,
    si_sdr_db,
    snr_db,
    stoi,
)

__all__ = [
    "NotMeasured",
    "estoi",
    "log_spectral_distance_db",
    "mean_scores",
    "pesq_wb",
    "score_pair",
    "si_sdr_db",
    "snr_db",
    "stoi",
]
