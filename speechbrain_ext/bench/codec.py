"""Codecs on one thread: seconds to encode and to decode a second of speech."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from speechbrain_ext.bench.streaming import (
    GROUPS,
    SAMPLE_RATE,
    made_speech,
)
from speechbrain_ext.bench.timing import (
    compare,
    import_peer,
    peer_versions,
    spread,
    time_interleaved,
)
from speechbrain_ext.data.audio import resample
from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.manifest import read_manifest
from speechbrain_ext.models import TransformCodec
from speechbrain_ext.models.code_files import learn_codes
from speechbrain_ext.models.wave_codec import WaveCodec
from speechbrain_ext.quantization import AdaptiveResidualVectorQuantizer

#: Experiments whose codecs and valid files are taken, separated as in PATH; without
#: it, codecs learn from made sound in some seconds.
EXPERIMENTS = "SPEECHBRAIN_EXT_BENCH_CODECS"
ENCODEC = "EnCodec, 24 kHz, 6 kbps"
#: Most seconds per second of speech, encode and decode together.
GOALS = {WaveCodec: 0.1, TransformCodec: 0.01}
_ENCODEC_RATE = 24000
#: The rest of the quantizer of recipes/codec/transform.yaml, whose rows of codes have
#: 0.4 kbps each.
_ROWS, _CODEBOOK_SIZE, _DEPTH, _NOISE_SHAPING = 56, 256, 16, 0.35
_KBPS_OF_ROWS = {8: 20, 16: 40, 22.4: 56}


@dataclass
class Way:
    """One way to code.

    Attributes
    ----------
    encode : Callable
        ``() -> what decode takes``.
    decode : Callable
    kbps : Callable
        From what ``encode`` returned.
    goal : float or None
        See `GOALS`.
    """

    encode: Callable[[], object]
    decode: Callable[[object], object]
    kbps: Callable[[object], float]
    goal: float | None = None
    coded: object = field(default=None, init=False)


def measure(repeats: int, seconds: float = 6.0, steps: int = 60) -> dict:
    """Time every mode of our codecs, and EnCodec beside them.

    Arguments
    ---------
    repeats : int
        Rounds of `time_interleaved`.
    seconds : float
        Of the signal.
    steps : int
        Of learning contexts, where no experiments are given.

    Returns
    -------
    dict
        ``title``, ``setting``, ``peers``, ``subjects``, ``comparisons`` of both ends
        together.

    Raises
    ------
    UserError
        If EnCodec is not installed, or an experiment can't be loaded.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        codecs, wave, learned = _codecs(seconds, steps)
        ways = _ways(codecs, wave)
        calls = {}
        for name, way in ways.items():
            way.coded = way.encode()
            calls[f"{name}: encode"] = way.encode
            calls[f"{name}: decode"] = lambda way=way: way.decode(way.coded)
        with torch.inference_mode():
            times = time_interleaved(calls, repeats, warm_up=1)
    finally:
        torch.set_num_threads(threads)
    length = len(wave) / SAMPLE_RATE
    both, subjects = {}, {}
    for name, way in ways.items():
        ends = [times[f"{name}: {end}"] for end in ("encode", "decode")]
        both[name] = [sum(pair) / length for pair in zip(*ends, strict=True)]
        total = float(np.median(both[name]))
        for end, found in zip(("encode", "decode"), ends, strict=True):
            subjects[f"{name}: {end}"] = {
                "milliseconds": spread([1e3 * x / length for x in found]),
                "real-time factor": round(float(np.median(found)) / length, 4),
                "both ends": round(total, 4),
                "goal": _goal(total, way.goal),
                "kbps": round(way.kbps(way.coded), 2),
            }
    return {
        "title": "Codecs, real-time factors",
        "setting": f"{length:.1f} s of {learned}, whole; milliseconds per second of "
        "signal, of which the real-time factor is a thousandth; both ends: encode and "
        "decode together; kbps with header, of codes as they are without; EnCodec has "
        f"random weights; 1 thread, {repeats} interleaved rounds",
        "peers": peer_versions(["encodec", "numba"]),
        "subjects": subjects,
        "comparisons": [
            compare(both, name, ENCODEC) for name in ways if name != ENCODEC
        ],
    }


def _codecs(seconds: float, steps: int) -> tuple[list, np.ndarray, str]:
    """Codecs to time, a signal, and what to call it."""
    if given := os.environ.get(EXPERIMENTS):
        return _trained(given.split(os.pathsep), seconds)
    waves = [made_speech(3.0, seed) for seed in (1, 2)]
    wave_codec = WaveCodec(context_steps=steps)
    wave_codec.initialize(waves)
    quantizer = AdaptiveResidualVectorQuantizer(
        *(sum(GROUPS), _ROWS, _CODEBOOK_SIZE),
        group_sizes=GROUPS,
        depth=_DEPTH,
        noise_shaping=_NOISE_SHAPING,
        kmeans_iterations=1,
    )
    transform = TransformCodec(quantizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transform.initialize([torch.from_numpy(x).float() for x in waves], num_shifts=1)
        learn_codes(transform, waves, steps=steps)
    name = "made harmonics and noise, which all has been learned from as well"
    return [wave_codec.eval(), transform.eval()], made_speech(seconds, 0), name


def _trained(folders: list[str], seconds: float) -> tuple[list, np.ndarray, str]:
    """Codecs of experiments, and valid speech of the first."""
    from speechbrain_ext.tasks.codec.weights import load_codec

    codecs, waves = [], []
    for folder in folders:
        codec, about = load_codec(folder, stage="bench")
        codecs.append(codec)
        if not waves:
            manifest = read_manifest(Path(about["recipe"].hparams["valid_manifest"]))
            waves = [read_samples(utterance) for utterance in manifest.values()]
    wave = np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in waves])
    return codecs, wave[: round(seconds * SAMPLE_RATE)], "valid speech"


def _ways(codecs: list, wave: np.ndarray) -> dict[str, Way]:
    ways = {}
    for codec in codecs:
        if isinstance(codec, WaveCodec):
            for kbps in (8, 13):
                ways[f"WaveCodec, {kbps} kbps"] = _files(codec, wave, kbps=kbps)
            for snr in (20, 30):
                ways[f"WaveCodec, {snr} dB"] = _files(codec, wave, snr=snr)
        else:
            for kbps, rows in _KBPS_OF_ROWS.items():
                name = f"TransformCodec, {kbps} kbps of codes"
                ways[name] = _codes(codec, wave, kbps)
                ways[f"{name}, entropy-coded"] = _files(codec, wave, codebooks=rows)
    ways[ENCODEC] = _encodec(wave)
    return ways


def _goal(total: float, goal: float | None) -> str:
    if goal is None:
        return "-"
    return f"{goal:g} {'met' if total <= goal else 'not met'}"


def _files(codec: torch.nn.Module, wave: np.ndarray, **aim) -> Way:
    """Whole files, entropy-coded."""
    return Way(
        lambda: codec.compress(wave, SAMPLE_RATE, **aim),
        codec.decompress,
        lambda data: 8e-3 * len(data) / (len(wave) / SAMPLE_RATE),
        GOALS[type(codec)],
    )


def _codes(codec: TransformCodec, wave: np.ndarray, kbps: float) -> Way:
    """Codes as they are."""
    signal = torch.from_numpy(wave).float()[None]
    return Way(
        lambda: codec.encode(signal, kbps=kbps),
        lambda codes: codec.decode(codes, length=len(wave)),
        lambda codes: kbps,
        GOALS[type(codec)],
    )


def _encodec(wave: np.ndarray) -> Way:
    encodec = import_peer("encodec", "encodec")
    model = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(6.0)
    found = resample(wave, SAMPLE_RATE, _ENCODEC_RATE)
    signal = torch.from_numpy(np.asarray(found, np.float32))[None, None]

    @torch.inference_mode()
    def encode():
        return model.encode(signal)

    return Way(encode, model.decode, lambda frames: 6.0)
