"""Codecs, their discriminators, and speaker encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speechbrain_ext.models.codec import CodecResult
from speechbrain_ext.models.discriminators import (
    DiscriminatorResult,
    MultiScaleSTFTDiscriminator,
    STFTDiscriminator,
)
from speechbrain_ext.models.seanet_codec import SEANetCodec
from speechbrain_ext.models.speaker import SpeakerEncoder
from speechbrain_ext.models.transform_codec import TransformCodec

if TYPE_CHECKING:
    from speechbrain_ext.models.wave_codec import WaveCodec

__all__ = [
    "CodecResult",
    "DiscriminatorResult",
    "MultiScaleSTFTDiscriminator",
    "SEANetCodec",
    "STFTDiscriminator",
    "SpeakerEncoder",
    "TransformCodec",
    "WaveCodec",
]


def __getattr__(name: str) -> object:
    """Import `WaveCodec` when it is asked for: its compiler takes half a second."""
    if name == "WaveCodec":
        from speechbrain_ext.models.wave_codec import WaveCodec

        return WaveCodec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
