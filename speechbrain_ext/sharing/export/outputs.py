"""What a model computes of some signals: of the experiment, and of its export."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.inference import SpeakerVerifier, SpeechCodec
from speechbrain_ext.tasks.speaker.decision import BACKENDS

Opened = SpeechCodec | list[SpeakerVerifier]


def open_model(
    source: str | os.PathLike, task: str, allow: Iterable[str] = ()
) -> Opened:
    """Open an experiment or an export folder: a codec, or both kinds of verifier."""
    options = {"device": "cpu", "allow": tuple(allow)}
    if task == "codec":
        return SpeechCodec.from_hparams(source, **options)
    return [
        SpeakerVerifier.from_hparams(source, backend=backend, **options)
        for backend in BACKENDS
    ]


def compute(
    opened: Opened, signals: Mapping[str, np.ndarray], sample_rate: int
) -> dict[str, np.ndarray]:
    """Name -> array of all that a user can ask for.

    Arguments
    ---------
    opened : SpeechCodec or list of SpeakerVerifier
        From `open_model`.
    signals : Mapping
        Name -> samples, float32 [time].
    sample_rate : int
        Theirs, Hz.
    """
    if isinstance(opened, SpeechCodec):
        return _codec(opened, signals, sample_rate)
    return _speaker(opened, signals, sample_rate)


def _codec(codec, signals, sample_rate) -> dict[str, np.ndarray]:
    found = {"sample_rate": np.array(codec.sample_rate)}
    if codec.has_files:
        found |= _files(codec, signals, sample_rate)
    if not codec.has_codes:
        return found
    found["bitrates"] = np.array(codec.bitrates)
    for name, wav in signals.items():
        for kbps in sorted({codec.bitrates[0], codec.bitrates[-1]}):
            codes = codec.encode(wav, sample_rate, kbps)
            found[f"codes.{name}.{kbps:g}"] = codes
            found[f"wav.{name}.{kbps:g}"] = codec.decode(codes)
    return found


def _files(codec, signals, sample_rate) -> dict[str, np.ndarray]:
    """Bytes, which have to be the same to the last, and what they sound like."""
    found = {"digest": np.frombuffer(codec.digest(), np.uint8)}
    aims = {"codebooks": 1} if codec.has_codes else {"kbps": 8, "snr": 20}
    short = {name: wav for name, wav in signals.items() if len(wav) <= sample_rate}
    for name, wav in short.items():
        for aim, value in aims.items():
            data = codec.compress(wav, sample_rate, **{aim: value})
            found[f"file.{name}.{aim}"] = np.frombuffer(data, np.uint8)
            found[f"decoded.{name}.{aim}"], _ = codec.decompress(data)
    return found


def _speaker(verifiers, signals, sample_rate) -> dict[str, np.ndarray]:
    found = {"sample_rate": np.array(verifiers[0].sample_rate)}
    vectors = {}
    for name, wav in signals.items():
        vectors[name] = verifiers[0].encode(wav, sample_rate)
        found[f"embedding.{name}"] = vectors[name]
    one, other, *_ = vectors.values()
    for verifier in verifiers:
        backend = verifier.decision.backend
        for rule, far in (("eer", None), ("far0.05", 0.05), ("far0.01", 0.01)):
            try:
                threshold = verifier.threshold(far)
            except UserError:  # not scored, or too few trials for that rate
                continue
            found[f"threshold.{backend}.{rule}"] = np.array(
                [threshold.value, threshold.far, threshold.frr, threshold.num_trials]
            )
        if f"threshold.{backend}.eer" in found:
            found[f"score.{backend}"] = np.array(verifier.score(one, other))
    return found
