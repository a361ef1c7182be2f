"""Scores: numpy in, numbers out."""

from speechbrain_ext.scoring.metrics import (
    cllr,
    det_curve,
    equal_error_rate,
    min_cllr,
    min_dcf,
    thresholds_at_far,
)
from speechbrain_ext.scoring.ranking import RankedScores
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
from speechbrain_ext.scoring.trials import (
    Trials,
    read_scores,
    read_trials,
    write_scores,
    write_trials,
)

__all__ = [
    "NotMeasured",
    "RankedScores",
    "Trials",
    "cllr",
    "det_curve",
    "equal_error_rate",
    "estoi",
    "log_spectral_distance_db",
    "mean_scores",
    "min_cllr",
    "min_dcf",
    "pesq_wb",
    "read_scores",
    "read_trials",
    "score_pair",
    "si_sdr_db",
    "snr_db",
    "stoi",
    "thresholds_at_far",
    "write_scores",
    "write_trials",
]
