"""Streams in chunks of 20 ms: what they take, what they wait for, what packets cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from speechbrain_ext.bench.timing import peer_versions, spread, time_interleaved
from speechbrain_ext.codec.streaming import StreamDecoder, StreamEncoder
from speechbrain_ext.models import TransformCodec
from speechbrain_ext.models.wave_codec import WaveCodec
from speechbrain_ext.quantization import ResidualVectorQuantizer

SEED = 0
SAMPLE_RATE = 16000
CHUNK_SECONDS = 0.02
#: Frames of the packets whose costs are compared: one, about 0.1 s, about 1 s.
PACKETS = (1, 6, 62)
#: Groups of the quantizer of recipes/codec/transform.yaml, and its codes per frame.
GROUPS = (10, 10, 12, 14, 16, 18, 20, 24, 28, 36, 52)
_CODEBOOKS = 20


@dataclass
class Stream:
    """One way to stream.

    Attributes
    ----------
    codec : torch.nn.Module
    encoding, decoding : dict
        Options of both ends.
    whole_bytes : int or None
        Of the same coded whole, without a header; None: nothing to compare with.
    """

    codec: torch.nn.Module
    encoding: dict
    decoding: dict
    whole_bytes: int | None = None


def measure(repeats: int, seconds: float = 6.0, steps: int = 60) -> dict:
    """Time both ends of streams, chunk by chunk.

    Arguments
    ---------
    repeats : int
        Rounds of `time_interleaved`, each over the whole signal.
    seconds : float
        Of the signal.
    steps : int
        To learn the contexts in, on a signal of the same kind.

    Returns
    -------
    dict
        ``title``, ``setting``, ``peers``, ``subjects``, no ``comparisons``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        wave = made_speech(seconds, SEED)
        ends = {}
        for name, stream in make_streams(wave, steps).items():
            ends |= _both_ends(name, stream, wave)
        times = time_interleaved(
            {name: end.run for name, end in ends.items()}, repeats, warm_up=1
        )
    finally:
        torch.set_num_threads(threads)
    chunks = len(_chunks(wave))
    subjects = {
        name: {
            "milliseconds": spread([1e3 * x / chunks for x in times[name]]),
            "real-time factor": round(
                float(np.median(times[name])) / (len(wave) / SAMPLE_RATE), 4
            ),
            "1 chunk in 100 ms": round(1e3 * float(np.quantile(end.chunks, 0.99)), 2),
            "latency ms": round(end.latency_ms, 1),
            "kbps": round(end.kbps, 2),
            "of that packets": end.packets_kbps,
        }
        for name, end in ends.items()
    }
    return {
        "title": "Streams, chunks of 20 ms",
        "setting": f"{seconds:g} s of made harmonics and noise at {SAMPLE_RATE} Hz in "
        "chunks of 20 ms; milliseconds per chunk, median of "
        f"{repeats} rounds, and what 1 chunk in 100 takes at least; real-time factor "
        "below 1 is faster than speech; latency of this end alone: encoder and decoder "
        "add up; kbps of the whole stream, and how much of it the packets cost beside "
        "the same coded whole; weights have learned nothing but contexts, "
        "which changes no time; 1 thread",
        "peers": peer_versions(["torch", "numba"]),
        "subjects": subjects,
        "comparisons": [],
    }


def made_speech(seconds: float, seed: int) -> np.ndarray:
    """Harmonics of a gliding pitch that come and go, over a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(SAMPLE_RATE * seconds)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(130 + 25 * np.sin(3 * t)) / SAMPLE_RATE
    voice = sum(np.sin(n * phase) / n for n in range(1, 30))
    loud = np.clip(np.sin(2 * np.pi * 1.7 * t), 0, 1)
    breath = 0.05 * rng.standard_normal(len(t)) * np.clip(-np.sin(11 * t), 0, 1)
    return 0.08 * voice * loud + breath + 0.001 * rng.standard_normal(len(t))


def make_streams(wave: np.ndarray, steps: int) -> dict[str, Stream]:
    """Return what is measured, by name."""
    seconds = len(wave) / SAMPLE_RATE
    codec = WaveCodec(context_steps=steps)
    codec.initialize([made_speech(min(seconds, 2.0), seed) for seed in (1, 2, 3)])
    codec.eval()
    found = {}
    data, step = codec.perceptual.compress(wave, bits=8000 * seconds)
    for frames in PACKETS:
        options = {"step": step, "packet_frames": frames}
        found[f"WaveCodec, packets of {frames}"] = Stream(codec, options, {}, len(data))
    options = {"step": step, "packet_frames": 6, "restart_every": 10}
    found["WaveCodec, packets of 6, each 10th fresh"] = Stream(
        codec, options, {}, len(data)
    )
    options = {"kbps": 8, "packet_frames": 6}
    found["WaveCodec, packets of 6, held at 8 kbps"] = Stream(codec, options, {})
    options = {"step": step, "packet_frames": 1}
    found["WaveCodec, packets of 1, no post-filter"] = Stream(
        codec, options, {"post_filter": False}, len(data)
    )
    data, step = codec.fidelity.compress(wave, snr=20)
    options = {"step": step, "packet_frames": 1, "kind": "fidelity"}
    found["WaveCodec, 20 dB, packets of 1"] = Stream(codec, options, {}, len(data))
    rvq = ResidualVectorQuantizer(
        sum(GROUPS), 2 * _CODEBOOKS, 256, group_sizes=GROUPS, init="normal"
    )
    transform = TransformCodec(rvq).eval()
    frames = transform.mdct.num_frames(len(wave))
    options = {"codebooks": _CODEBOOKS, "packet_frames": 1}
    found["TransformCodec, 8 kbps of codes, packets of 1"] = Stream(
        transform, options, {}, _CODEBOOKS * frames
    )
    return found


class _End:
    """One end of a stream, to run over all chunks again and again."""

    def __init__(self, make: Callable, pieces: list, finish: Callable):
        self._make, self._pieces, self._finish = make, pieces, finish
        self.chunks: list[float] = []
        self.latency_ms = self.kbps = 0.0
        self.packets_kbps: float | str = "-"

    def run(self) -> list:
        end, found = self._make(), []
        for piece in self._pieces:
            start = time.process_time()
            found.append(end.push(piece))
            self.chunks.append(time.process_time() - start)
        self.latency_ms = end.latency_ms
        return [*found, self._finish(end)]


def _both_ends(name: str, stream: Stream, wave: np.ndarray) -> dict[str, _End]:
    codec, pieces = stream.codec, _chunks(wave)
    encoder = _End(
        lambda: StreamEncoder(codec, **stream.encoding),
        pieces,
        lambda end: end.finish(),
    )
    data = encoder.run()
    decoder = _End(
        lambda: StreamDecoder(codec, **stream.decoding), data, lambda end: end.finish()
    )
    decoder.run()
    scale = 8 / 1000 / (len(wave) / SAMPLE_RATE)
    for end in (encoder, decoder):
        end.chunks.clear()
        total = sum(map(len, data))
        end.kbps = total * scale
        if stream.whole_bytes is not None:
            end.packets_kbps = round((total - stream.whole_bytes) * scale, 2)
    return {f"{name}: encode": encoder, f"{name}: decode": decoder}


def _chunks(wave: np.ndarray) -> list[np.ndarray]:
    size = round(CHUNK_SECONDS * SAMPLE_RATE)
    return [wave[at : at + size] for at in range(0, len(wave), size)]
