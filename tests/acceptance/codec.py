"""Train the codec on three corpora, and score unseen files beside Opus."""

from __future__ import annotations

import json
import os
from pathlib import Path

from speechbrain_ext.data.corpora.debian import fetch_packages
from tests.acceptance.runs import TELUGU, Claim, keep_results, run_recipe


def figures(experiment: Path) -> dict:
    """Read results.json: mean figures by system, and what was rejected."""
    results = json.loads((experiment / "results.json").read_text(encoding="utf-8"))
    systems = results["systems"]
    return {
        "ours": [s for s in systems if s["name"] == "ours"],
        "opus": [s for s in systems if s["name"] == "opus"],
        "train_seconds": results["conditions"]["train_seconds"],
        "test_files": len(systems[0]["files"]),
        "health": results["health"],
        "table": [
            {"name": s["name"], "kbps": s["kbps"]}
            | {k: s["mean"][k] for k in ("snr_db", "si_sdr_db", "pesq_wb", "stoi")}
            for s in systems
        ],
    }


def snr_at(systems: list[dict], kbps: float) -> float:
    """SNR of the highest rate that is at most ``kbps``."""
    allowed = [s for s in systems if s["kbps"] <= kbps * 1.0001]
    return max(allowed, key=lambda s: s["kbps"])["mean"]["snr_db"]


def festival() -> dict:
    """Train on 33 sentences of the diphone voice, score unseen ones."""
    command, experiment, _ = run_recipe("--corpus=festival", "--tag=festival")
    found = figures(experiment)
    keep_results(experiment)
    near_seven = min(found["opus"], key=lambda s: abs(s["kbps"] - 7.0))
    gain = snr_at(found["ours"], near_seven["kbps"]) - near_seven["mean"]["snr_db"]
    claims = [
        Claim("minutes of training", found["train_seconds"] / 60, "<=", 7.0),
        Claim("SNR dB at 8 kbps", snr_at(found["ours"], 8.0), ">=", 13.0),
        Claim("SNR dB at 16 kbps", snr_at(found["ours"], 16.0), ">=", 16.2),
        Claim(f"dB above Opus at its {near_seven['kbps']:.1f} kbps", gain, ">=", 3.3),
    ]
    return report(command, claims, found)


def human(package: str, tag: str) -> dict:
    """Train on real prompts of a Debian package through --data_folder."""
    # A folder for each: both packages have the same paths inside.
    data = TELUGU / "data" / package
    root = fetch_packages([package], data)
    folder = root / "usr" / "share" / "asterisk" / "sounds"
    command, experiment, _ = run_recipe(
        f"--data_folder={os.path.relpath(folder, TELUGU)}",
        f"--tag={tag}",
        "--num_train=33",
        "--num_valid=3",
        "--num_test=12",
    )
    found = figures(experiment)
    keep_results(experiment)
    unmeasured = sum(s["mean"]["snr_db"] is None for s in found["ours"])
    rejected = found["health"]["rejected_batches"]
    claims = [
        Claim("minutes of training", found["train_seconds"] / 60, "<=", 7.0),
        Claim("rates without an SNR", unmeasured, "<=", 0),
        Claim("rejected batches", rejected, "<=", 0),
    ]
    return report(command, claims, found)


def report(command: str, claims: list[Claim], found: dict) -> dict:
    """Return the entry of a part."""
    return {
        "command": command,
        "claims": [claim.entry() for claim in claims],
        "test_files": found["test_files"],
        "table": found["table"],
    }
