"""Codecs, their discriminators, and speaker encoders."""

from speechbrain_ext.models.codec import CodecResult
from speechbrain_ext.models.discriminators import (
    DiscriminatorResult,
    MultiScaleSTFTDiscriminator,
    STFTDiscriminator,
)
from speechbrain_ext.models.seanet_codec import SEANetCodec
from speechbrain_ext.models.speaker import SpeakerEncoder
from speechbrain_ext.models.transform_codec import TransformCodec

__all__ = [
    "CodecResult",
    "DiscriminatorResult",
    "MultiScaleSTFTDiscriminator",
    "SEANetCodec",
    "STFTDiscriminator",
    "SpeakerEncoder",
    "TransformCodec",
]
