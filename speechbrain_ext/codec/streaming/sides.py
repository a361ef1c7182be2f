"""Which parts code which codec: what both ends of a stream decide alike."""

from __future__ import annotations

from torch import nn

from speechbrain_ext.codec.streaming.code_packets import CodeReader, CodeWriter
from speechbrain_ext.codec.streaming.wave_packets import WaveReader, WaveWriter
from speechbrain_ext.models.code_files import CODES
from speechbrain_ext.models.transform_codec import TransformCodec
from speechbrain_ext.models.wave_codec import FIDELITY, PERCEPTUAL, WaveCodec

#: Settings of a `WaveCodec` by name.
KINDS = {"perceptual": PERCEPTUAL, "fidelity": FIDELITY}


def check_codec(codec: nn.Module) -> None:
    """Refuse a codec that has no streams.

    Raises
    ------
    TypeError
    """
    if not isinstance(codec, WaveCodec | TransformCodec):
        raise TypeError(
            "stream: a WaveCodec or a TransformCodec can be streamed, got "
            f"{type(codec).__name__}"
        )


def writer_of(codec: nn.Module, kind: int) -> WaveWriter | CodeWriter:
    """Return what turns the codec's frames into packets."""
    if kind == CODES:
        return CodeWriter(codec)
    return WaveWriter(codec.fidelity if kind == FIDELITY else codec.perceptual)


def reader_of(
    codec: nn.Module, kind: int, packet_frames: int, *, post_filter: bool
) -> WaveReader | CodeReader | None:
    """Return what undoes it; None if the codec has no such kind."""
    if isinstance(codec, TransformCodec):
        return CodeReader(codec, packet_frames) if kind == CODES else None
    if kind not in KINDS.values():
        return None
    coder = codec.fidelity if kind == FIDELITY else codec.perceptual
    return WaveReader(coder, packet_frames, post_filter=post_filter)
