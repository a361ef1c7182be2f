"""Signals and networks of the tests: small, and with a structure to learn."""

from __future__ import annotations

import numpy as np
import torch

from speechbrain_ext.codec import bands, coefficients, envelope
from speechbrain_ext.codec.signal import SignalCoder
from speechbrain_ext.codec.unary_net import IntegerNet, integer_net

BINS = 64
EDGES_HZ = (0, 500, 1000, 2000, 4000, 8000)
EDGES = bands.band_edges(BINS, 16000, EDGES_HZ)
NUM_BANDS = len(EDGES) - 1


def spectrum(frames: int = 30, seed: int = 0, gain: float = 0.1) -> np.ndarray:
    """Loud below, silent above, with a pause."""
    rng = np.random.default_rng(seed)
    rise = np.exp(-np.arange(BINS) / 12)
    found = gain * rng.laplace(size=(frames, BINS)) * rise
    found[frames // 2 : frames // 2 + 3] = 0
    return found


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Harmonics that come and go over a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(16000 * seconds)) / 16000
    pitch = 2 * np.pi * np.cumsum(120 + 20 * np.sin(5 * t)) / 16000
    voice = sum(np.sin(n * pitch) / n for n in range(1, 20))
    loud = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1)
    return 0.1 * voice * loud + 0.003 * rng.standard_normal(len(t))


def random_net(features: int, places: int, symbols: int, hidden: int = 8) -> IntegerNet:
    """A net that has learned nothing: its answers are anything but even."""
    draw = torch.Generator().manual_seed(features)

    def drawn(*shape):
        return torch.randint(-900, 900, shape, generator=draw)

    return integer_net(
        {
            "bias": 500 * drawn(places, hidden),
            "first": drawn(features, hidden),
            "second": drawn(hidden, hidden),
            "second_bias": 500 * drawn(hidden),
            "last": drawn(hidden, symbols),
            "last_bias": 500 * drawn(symbols),
        }
    )


def coder(*, sends_envelope: bool = True, gamma: float = 0.5) -> SignalCoder:
    """A coder of `BINS` bins."""
    features = coefficients.NEIGHBOURS + coefficients.PROMISES * sends_envelope
    return SignalCoder(
        random_net(features, BINS, coefficients.SYMBOLS),
        random_net(envelope.FEATURES, NUM_BANDS, envelope.SYMBOLS),
        bands.make_shape(EDGES, gamma, np.linspace(-6, 6, NUM_BANDS)),
        NUM_BANDS if sends_envelope else 0,
    )
