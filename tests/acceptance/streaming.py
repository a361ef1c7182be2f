"""Stream the test files of a corpus, and hold the streams against the whole files."""

from __future__ import annotations

import time

import numpy as np
import torch

from speechbrain_ext.codec.container import BitstreamError
from speechbrain_ext.codec.streaming import StreamDecoder, StreamEncoder
from speechbrain_ext.codec.streaming.frames import FrameAnalyser
from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.manifest import read_manifest
from speechbrain_ext.models import TransformCodec
from speechbrain_ext.models.wave_codec import WaveCodec
from speechbrain_ext.quantization import ResidualVectorQuantizer
from tests.acceptance.runs import TELUGU, Claim, run_recipe

CORPUS = "festival"
CHUNK = 320
PACKETS = (1, 6, 62)
DAMAGED = 1000
CONTEXT_STEPS = 300
#: A quantizer whose codes are frames, at 8 kbps.
_GROUPS, _CODEBOOKS = (60, 60, 120), 20


def streaming() -> dict:
    """Equality, damage and speed; codecs are initialized, not trained."""
    data = TELUGU / "data" / CORPUS
    if not (data / "train.json").exists():
        run_recipe(f"--corpus={CORPUS}", "--tag=streaming", "--stop_stage=prepare")
    learned, unseen = (
        [read_samples(x) for x in read_manifest(data / f"{role}.json").values()]
        for role in ("train", "test")
    )
    torch.manual_seed(0)
    wave = WaveCodec(context_steps=CONTEXT_STEPS)
    wave.initialize(learned)
    # A post-filter that does something, though it has learned nothing.
    torch.nn.init.normal_(wave.perceptual.post_filter.last.weight, 0, 0.05)
    rvq = ResidualVectorQuantizer(240, _CODEBOOKS, 256, group_sizes=_GROUPS)
    transform = TransformCodec(rvq)
    transform.initialize([torch.from_numpy(x).float() for x in learned], num_shifts=1)
    torch.nn.init.normal_(transform.decoder.leave.weight, 0, 1e-2)
    claims, slowest, frames_of_all, other = [], 0.0, 0, 0
    for name, codec in (
        ("perceptual", wave.eval()),
        ("fidelity", wave),
        ("codes", transform.eval()),
    ):
        furthest = 0.0
        for signal in unseen:
            for frames in PACKETS:
                if name == "codes":
                    expected, options, number = _of_codes(codec, signal, frames)
                    other += number
                    frames_of_all += codec.mdct.num_frames(len(signal))
                else:
                    expected, options = _whole(codec, name, signal)
                found, seconds = _streamed(codec, signal, options, frames)
                furthest = max(furthest, float(np.abs(found - expected).max()))
                slowest = max(slowest, seconds / (len(signal) / 16000))
        given = ", given the codes" if name == "codes" else ""
        label = f"largest difference to the whole, {name}{given}"
        claims.append(Claim(label, furthest, "<=", 1e-4))
    claims.append(
        Claim("real-time factor, slowest file, both ends", slowest, "<=", 1.0)
    )
    claims.append(
        Claim("damaged streams unnoticed", _unnoticed(wave, unseen[0]), "<=", 0)
    )
    return {
        "command": "python -m tests.acceptance streaming",
        "claims": [claim.entry() for claim in claims],
        "test_files": len(unseen),
        "packet_frames": PACKETS,
        # Searched in float32: near ties can fall otherwise in a product of few rows.
        "code_frames_per_million_with_another_code": round(1e6 * other / frames_of_all),
    }


def _whole(codec, name: str, signal) -> tuple[np.ndarray, dict]:
    """What the codec makes of the whole file, and how the stream gets the same."""
    coder = getattr(codec, name)
    seconds = len(signal) / 16000
    aim = {"bits": 8000 * seconds} if name == "perceptual" else {"snr": 20.0}
    data, step = coder.compress(signal, **aim)
    return coder.decompress(data, step, len(signal)), {"step": step, "kind": name}


def _of_codes(codec, signal, frames: int) -> tuple[np.ndarray, dict, int]:
    """What the whole file's decoder makes of a stream's codes; frames with others."""
    analyser = FrameAnalyser(codec.mdct)
    found = analyser.push(signal.astype(np.float32)) + analyser.finish()
    latents = codec.to_latents(torch.from_numpy(np.stack(found))[None])
    parts = [codec.quantizer.encode(x, _CODEBOOKS) for x in latents.split(frames, 1)]
    codes = torch.cat(parts, dim=2)
    whole = codec.encode(torch.from_numpy(signal).float()[None])
    made = codec.decode(codes, length=len(signal))[0].numpy()
    return made, {"codebooks": _CODEBOOKS}, int((codes != whole).any(1).sum())


def _streamed(codec, signal, options: dict, frames: int) -> tuple[np.ndarray, float]:
    """Both ends in chunks of 20 ms on one thread; returns samples, and CPU seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    try:
        encoder = StreamEncoder(codec, packet_frames=frames, **options)
        decoder = StreamDecoder(codec)
        found = []
        for at in range(0, len(signal), CHUNK):
            found.append(decoder.push(encoder.push(signal[at : at + CHUNK])))
        found += [decoder.push(encoder.finish()), decoder.finish()]
    finally:
        torch.set_num_threads(threads)
    return np.concatenate(found), time.process_time() - start


def _unnoticed(codec, signal) -> int:
    """Streams with flips, cuts or random bytes that end without an error."""
    rng, unnoticed = np.random.default_rng(0), 0
    encoder = StreamEncoder(codec, kbps=8)
    data = encoder.push(signal[:16000]) + encoder.finish()
    for number in range(DAMAGED):
        spoiled = bytearray(data)
        place = int(rng.integers(len(data)))
        if number % 3 == 0:
            spoiled[place] ^= 1 << rng.integers(8)
        elif number % 3 == 1:
            del spoiled[place:]
        else:
            spoiled[place : place + 40] = rng.bytes(40)
        decoder = StreamDecoder(codec)
        try:
            decoder.push(bytes(spoiled))
            decoder.finish()
        except BitstreamError:
            continue
        unnoticed += 1
    return unnoticed
