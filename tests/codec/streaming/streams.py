"""Codecs and helpers of the tests of streams."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import torch

from speechbrain_ext.codec.streaming import StreamDecoder, StreamEncoder
from speechbrain_ext.models import TransformCodec
from speechbrain_ext.models.wave_codec import WaveCodec
from speechbrain_ext.quantization import (
    AdaptiveResidualVectorQuantizer,
    ResidualVectorQuantizer,
)
from tests.codec.signals import speech

STEP = 700


@functools.cache
def wave_codec() -> WaveCodec:
    """A small one whose post-filter does something; nobody changes it."""
    codec = WaveCodec(hidden=8, context_steps=30, post_filter_channels=4)
    codec.initialize([speech(0.4, seed=n) for n in range(2)])
    torch.manual_seed(0)
    torch.nn.init.normal_(codec.perceptual.post_filter.last.weight, 0, 0.3)
    return codec.eval()


@functools.cache
def transform_codec(quantizer: str = "plain") -> TransformCodec:
    """A small one whose network does something; nobody changes it."""
    torch.manual_seed(0)
    sizes = {"dim": 24, "num_quantizers": 6, "codebook_size": 16}
    sizes |= {"group_sizes": [4, 8, 12]}
    if quantizer == "plain":
        rvq = ResidualVectorQuantizer(**sizes)
    else:
        rvq = AdaptiveResidualVectorQuantizer(**sizes, depth=4)
    codec = TransformCodec(rvq, hop_samples=64, width=16, decoder_blocks=2)
    codec.initialize([torch.from_numpy(speech(0.5, seed=n)).float() for n in (0, 1)])
    torch.nn.init.normal_(codec.decoder.leave.weight, 0, 1e-2)
    return codec.eval()


def cut(items, places: Iterable[int]) -> list:
    """Pieces of a sequence, cut at places of any order."""
    ends = sorted({min(place, len(items)) for place in places} | {0, len(items)})
    return [items[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


def encoded(codec, wave, places=(), **options) -> bytes:
    """The stream of a waveform that comes in pieces."""
    encoder = StreamEncoder(codec, **options)
    data = [encoder.push(piece) for piece in cut(wave, places)]
    return b"".join([*data, encoder.finish()])


def decoded(codec, data, places=(), **options) -> np.ndarray:
    """The waveform of a stream that comes in pieces."""
    decoder = StreamDecoder(codec, **options)
    found = [decoder.push(piece) for piece in cut(data, places)]
    return np.concatenate([*found, decoder.finish()])
