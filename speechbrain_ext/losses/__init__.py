"""Losses that stay finite, in float32 whatever autocast surrounds them."""

from speechbrain_ext.losses.aam import AAMSoftmax
from speechbrain_ext.losses.mel import MultiResolutionMelLoss
from speechbrain_ext.losses.stft import MultiResolutionSTFTLoss, log_magnitude
from speechbrain_ext.losses.waveform import (
    ReconstructionLoss,
    ReconstructionResult,
    SNRLoss,
    WaveformL1Loss,
    bounded,
)

__all__ = [
    "AAMSoftmax",
    "MultiResolutionMelLoss",
    "MultiResolutionSTFTLoss",
    "ReconstructionLoss",
    "ReconstructionResult",
    "SNRLoss",
    "WaveformL1Loss",
    "bounded",
    "log_magnitude",
]
