"""Files of RVQ codes: what they save, how far above Opus they are, what they cost."""

from __future__ import annotations

import json
import time

import numpy as np
import torch

from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.models.code_files import learn_codes
from speechbrain_ext.tasks.codec.weights import load_codec
from speechbrain_ext.tasks.settings import manifest_at
from tests.acceptance.runs import TELUGU, Claim, run_recipe
from tests.acceptance.wave import human_options

#: Codebooks whose files are compared with their nominal rate.
CODEBOOKS = (10, 20, 30, 40)
#: Rates of Opus in kbps -> dB that ours shall be above it, in no more bytes.
AHEAD = {7.0: 5.0, 15.0: 3.5}
_SAVED, _REAL_TIME, _LEARNING_SECONDS = 0.15, 0.01, 60


def festival() -> dict:
    """33 sentences of a diphone voice."""
    return _run(["--corpus=festival"], "codes_festival")


def human() -> dict:
    """33 spoken prompts of a Debian package."""
    return _run(human_options(), "codes_human")


def _run(options: list[str], tag: str) -> dict:
    command, experiment, _ = run_recipe(*options, f"--tag={tag}")
    codec, info = load_codec(experiment, stage="acceptance")
    torch.set_num_threads(1)
    rate, claims = codec.sample_rate, []
    data = TELUGU / "data" / ("festival" if "festival" in tag else tag)
    sets = {
        name: [
            read_samples(u)
            for u in manifest_at(str(data / f"{name}.json"), rate).values()
        ]
        for name in ("train", "test")
    }
    if codec.code_model is None:
        started = time.thread_time()
        learn_codes(codec, sets["train"])
        spent = time.thread_time() - started
        claims.append(Claim("seconds to learn", spent, "<=", _LEARNING_SECONDS))
    waves = sets["test"]
    codec.decompress(codec.compress(waves[0], rate, codebooks=1))  # compiled by now
    table = []
    for number in CODEBOOKS:
        row = _measured(codec, waves, {"codebooks": number})
        nominal = codec.bitrates[number - 1]
        saved = 1 - row["kbps"] / nominal
        table.append(row | {"codebooks": number, "nominal_kbps": nominal})
        label = f"{number} codebooks"
        claims.append(Claim(f"saved, {label}", saved, ">=", _SAVED))
        both = row["encode_rtf"] + row["decode_rtf"]
        claims.append(Claim(f"real-time factor, {label}", both, "<=", _REAL_TIME))
    results = json.loads((experiment / "results.json").read_text(encoding="utf-8"))
    opus = [s for s in results["systems"] if s["name"] == "opus"]
    for near, margin in AHEAD.items():
        peer = min(opus, key=lambda s: abs(s["kbps"] - near))
        row = _measured(codec, waves, {"kbps": peer["kbps"]})
        table.append(row | {"opus_kbps": peer["kbps"]})
        gain = row["snr_db"] - peer["mean"]["snr_db"]
        label = f"dB above Opus at its {peer['kbps']:.1f} kbps"
        claims.append(Claim(label, gain, ">=", margin))
    return {
        "command": command,
        "claims": [claim.entry() for claim in claims],
        "epoch": info["epoch"],
        "table": table,
    }


def _measured(codec, waves: list[np.ndarray], aim: dict) -> dict:
    """Write whole files and read them again: rate, mean SNR, CPU seconds a second."""
    size, snrs, encoding, decoding = 0, [], 0.0, 0.0
    for wave in waves:
        started = time.thread_time()
        data = codec.compress(wave, codec.sample_rate, **aim)
        middle = time.thread_time()
        found = codec.decompress(data)[0][0]
        decoding += time.thread_time() - middle
        encoding += middle - started
        size += len(data)
        error = max(float(np.square(wave - found).sum()), 1e-12)
        snrs.append(10 * np.log10(max(float(np.square(wave).sum()), 1e-12) / error))
    seconds = sum(map(len, waves)) / codec.sample_rate
    return {
        "kbps": 8 * size / seconds / 1000,
        "snr_db": float(np.mean(snrs)),
        "encode_rtf": encoding / seconds,
        "decode_rtf": decoding / seconds,
    }
