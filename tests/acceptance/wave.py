"""Train the wave codec on two corpora, and hold its files against Opus."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from speechbrain_ext.data.corpora.debian import fetch_packages
from speechbrain_ext.report.codec.results import METRICS, margins_over_opus
from tests.acceptance.runs import TELUGU, Claim, keep_results, run_recipe

#: Metrics in which ours shall be ahead, at the rates of Opus nearest to these.
AHEAD = ("pesq_wb", "stoi", "estoi", "snr_db")
NEAR_KBPS = (7.0, 11.0, 13.0)
#: Prompts of the package are 64 kbit/s; these last as long as a sentence.
G722_BYTES_PER_SECOND = 8000
SECONDS = (2, 8)
PACKAGE = "asterisk-core-sounds-en-g722"
#: A draw without any file in test or valid that the settings were ever searched on.
HUMAN_SPLIT = 2


def festival() -> dict:
    """33 sentences of a diphone voice."""
    return _run(
        ["--corpus=festival"],
        "wave_festival",
        pesq={8.0: 3.8, 13.0: 4.1},
        fidelity={20.0: 7.5, 25.0: 12.1, 30.0: 17.1},
    )


def human() -> dict:
    """33 spoken prompts of a Debian package."""
    return _run(
        human_options(), "wave_human", pesq={8.0: 3.5, 13.0: 3.9}, fidelity={30.0: 16.1}
    )


def human_options() -> list[str]:
    """What run.sh takes for spoken prompts."""
    return [
        f"--data_folder={os.path.relpath(spoken_prompts(), TELUGU)}",
        *("--num_train=33", "--num_valid=3", "--num_test=12"),
        f"--split_seed={HUMAN_SPLIT}",
    ]


def spoken_prompts() -> Path:
    """Copy the prompts that are speech and of a sentence's length into a folder."""
    root = fetch_packages([PACKAGE], TELUGU / "data" / PACKAGE)
    source = root / "usr" / "share" / "asterisk" / "sounds"
    target = TELUGU / "data" / "asterisk-speech"
    low, high = SECONDS
    for path in source.rglob("*.g722"):
        seconds = path.stat().st_size / G722_BYTES_PER_SECOND
        if low <= seconds <= high and path.parent.name != "silence":
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return target


def _run(options: list[str], tag: str, pesq: dict, fidelity: dict) -> dict:
    command, experiment, _ = run_recipe("--recipe=codec/wave", *options, f"--tag={tag}")
    results = json.loads((experiment / "results.json").read_text(encoding="utf-8"))
    keep_results(experiment)
    systems = results["systems"]
    minutes = results["conditions"]["train_seconds"] / 60
    claims = [Claim("minutes of training", minutes, "<=", 7.0)]
    ours = [s for s in systems if s["name"] == "ours"]
    for kbps, bound in pesq.items():
        best = max(s["mean"]["pesq_wb"] for s in ours if s["kbps"] <= kbps)
        claims.append(Claim(f"PESQ-WB at <= {kbps:g} kbps", best, ">=", bound))
    margins = margins_over_opus(results)
    for near in NEAR_KBPS:
        row = min(margins, key=lambda row: abs(row["opus_kbps"] - near))
        for name in AHEAD:
            label = f"{METRICS[name][0]} ahead of Opus at its {row['opus_kbps']:g} kbps"
            claims.append(Claim(label, row[name], ">=", 1e-6))
    for ratio, bound in fidelity.items():
        held = next(s for s in systems if s.get("asked_snr_db") == ratio)
        claims.append(Claim(f"kbps at {ratio:g} dB", held["kbps"], "<=", bound))
        claims.append(Claim(f"dB at {ratio:g} dB", held["mean"]["snr_db"], ">=", ratio))
    return {
        "command": command,
        "claims": [claim.entry() for claim in claims],
        "test_files": len(systems[0]["files"]),
        "table": [
            {"name": s["name"], "kbps": s["kbps"]}
            | {name: s["mean"].get(name) for name in METRICS}
            for s in systems
        ],
    }
