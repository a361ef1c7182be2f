"""Losses that stay finite, in float32 whatever autocast surrounds them."""

from speechbrain_ext.losses.aam import AAMSoftmax
from speechbrain_ext.losses.adversarial import (
    discriminator_accuracy,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from speechbrain_ext.losses.balancer import BalancedGradient, LossBalancer
from speechbrain_ext.losses.feature_matching import FeatureMatchingLoss
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
    "BalancedGradient",
    "FeatureMatchingLoss",
    "LossBalancer",
    "MultiResolutionMelLoss",
    "MultiResolutionSTFTLoss",
    "ReconstructionLoss",
    "ReconstructionResult",
    "SNRLoss",
    "WaveformL1Loss",
    "bounded",
    "discriminator_accuracy",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "log_magnitude",
]
