"""Scores: numpy in, numbers out."""

from speechbrain_ext.scoring.backend import Backend, BackendSettings
from speechbrain_ext.scoring.calibration import Calibration
from speechbrain_ext.scoring.choice import (
    Choice,
    choose_backend,
    cohort_trials,
    held_out_scores,
)
from speechbrain_ext.scoring.intervals import Interval, speaker_bootstrap
from speechbrain_ext.scoring.metrics import (
    cllr,
    det_curve,
    equal_error_rate,
    min_cllr,
    min_dcf,
    thresholds_at_far,
)
from speechbrain_ext.scoring.norm import (
    WCCN,
    ASNorm,
    as_norm,
    cosine_scores,
    speaker_means,
)
from speechbrain_ext.scoring.ranking import ErrorRates, Operating, RankedScores
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
    "WCCN",
    "ASNorm",
    "Backend",
    "BackendSettings",
    "Calibration",
    "Choice",
    "ErrorRates",
    "Interval",
    "NotMeasured",
    "Operating",
    "RankedScores",
    "Trials",
    "as_norm",
    "choose_backend",
    "cllr",
    "cohort_trials",
    "cosine_scores",
    "det_curve",
    "equal_error_rate",
    "estoi",
    "held_out_scores",
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
    "speaker_bootstrap",
    "speaker_means",
    "stoi",
    "thresholds_at_far",
    "write_scores",
    "write_trials",
]
