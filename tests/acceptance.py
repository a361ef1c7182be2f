"""``make acceptance``: the long proofs; writes docs/acceptance.json.

One entry per part, with the command, the commit and the figures, and whether each
figure keeps its promise. A part that stands in the file with the present commit is
skipped; ``python -m tests.acceptance PART ...`` runs some, ``--force`` redoes them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speechbrain_ext.data.corpora.debian import fetch_packages
from speechbrain_ext.files import write_json, write_text
from speechbrain_ext.report.collection import render_collection
from speechbrain_ext.report.results import read_results
from speechbrain_ext.report.speaker.collection import run_figures

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "acceptance.json"
TELUGU = ROOT / "egs" / "telugu"
VOXCELEB = ROOT / "egs" / "voxceleb_mini"


@dataclass
class Claim:
    """A figure and the bound it has to keep."""

    name: str
    value: float
    relation: str
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the figure keeps its bound."""
        if self.relation == ">=":
            return self.value >= self.bound
        return self.value <= self.bound

    def entry(self) -> dict:
        """Return what is written."""
        return {
            "claim": f"{self.name} {self.relation} {self.bound:g}",
            "value": round(self.value, 4),
            "holds": self.holds,
        }


def run_recipe(
    *options: str, egs: Path = TELUGU, afresh: bool = True
) -> tuple[str, Path, float]:
    """Run a run.sh, ``afresh`` from nothing; returns command, experiment, seconds."""
    tag = next(o.split("=", 1)[1] for o in options if o.startswith("--tag="))
    experiment = egs / "exp" / tag
    if afresh:
        shutil.rmtree(experiment, ignore_errors=True)
    started = time.monotonic()
    subprocess.run(["./run.sh", *options], cwd=egs, check=True)
    command = f"cd egs/{egs.name} && ./run.sh " + " ".join(options)
    return (
        re.sub(re.escape(str(ROOT)) + "/?", "", command),
        experiment,
        (time.monotonic() - started),
    )


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


def keep_results(experiment: Path) -> None:
    """Copy the figures into the recipe, and make its RESULTS.md from all of them."""
    egs = experiment.parents[1]
    kept = egs / "results"
    write_text(
        kept / f"{experiment.name}.json",
        (experiment / "results.json").read_text(encoding="utf-8"),
    )
    write_text(egs / "RESULTS.md", render_collection(kept))


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


def chaos() -> dict:
    """Put all faults into both reference models; writes docs/chaos.md and .json."""
    options = ["--positions=all", "--variants=all"]
    command = ["speechbrain-ext", "chaos", "speaker", "codec", *options]
    subprocess.run(
        [sys.executable, "-m", "speechbrain_ext", *command[1:], "--write=docs"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,  # exit code 1 says what the claims below say in figures
    )
    figures = json.loads((ROOT / "docs" / "chaos.json").read_text(encoding="utf-8"))
    settings = [s for subject in figures["subjects"] for s in subject["settings"]]
    rows = [row for setting in settings for row in setting["rows"] if row["applies"]]
    ours = [row["outcomes"]["transaction"] for row in rows]
    plain = [row["outcomes"] for row in rows if "stock" in row["outcomes"]]
    flagged = [outcome for outcome in ours if outcome["flagged"]]
    clean = [setting["checks"] for setting in settings]

    def share(found: list, holds: Callable[[dict], bool]) -> float:
        return sum(map(holds, found)) / len(found)

    claims = [
        Claim("cells", len(ours), ">=", 200),
        Claim(
            "share finite to the end",
            share(ours, lambda o: o["finite"] and not o["died"]),
            ">=",
            1.0,
        ),
        Claim(
            "share of flagged cells with the bits of the reference",
            share(flagged, lambda o: o["identical"]),
            ">=",
            1.0,
        ),
        Claim(
            "share of cells as expected",
            share(rows, lambda row: row["as_expected"]),
            ">=",
            1.0,
        ),
        Claim(
            "share of causes named right",
            share(flagged, lambda o: bool(o["cause_right"])),
            ">=",
            0.95,
        ),
        Claim(
            "share of mode off with the bits of stock",
            share(plain, lambda o: bool(o["off"]["as_stock"])),
            ">=",
            1.0,
        ),
        Claim(
            "rejects in clean runs",
            sum(checks["rejected_clean"] for checks in clean),
            "<=",
            0,
        ),
    ]
    return {
        "command": " ".join(command),
        "claims": [claim.entry() for claim in claims],
        "stock": {
            "cells": len(plain),
            "identical": sum(o["stock"]["identical"] for o in plain),
        },
    }


#: Draws of test speakers, and training seeds, that the speaker figures are means of.
SPLIT_SEEDS, TRAIN_SEEDS = (1, 2, 3), (1234, 4321)


def speaker() -> dict:
    """Train and score speaker verification over splits and seeds.

    A run that is there is scored again and not trained again: six of them take long.
    """
    found = {}
    for split_seed in SPLIT_SEEDS:
        for seed in TRAIN_SEEDS:
            tag = f"debian_split{split_seed}_seed{seed}"
            command, experiment, _ = run_recipe(
                "--corpus=debian",
                f"--split_seed={split_seed}",
                f"--seed={seed}",
                f"--tag={tag}",
                egs=VOXCELEB,
                afresh=False,
            )
            keep_results(experiment)
            results = read_results(experiment / "results.json")
            found[tag] = run_figures(results)
    eer = {
        (system, name): [100 * run["eer"][system][name] for run in found.values()]
        for system in ("chosen", "cosine", "channel")
        for name in ("main", "hard")
    }
    mean = {key: sum(values) / len(values) for key, values in eer.items()}
    minutes = max(run["train_seconds"] for run in found.values()) / 60
    below = 100 * (1 - mean["chosen", "main"] / mean["channel", "main"])
    claims = [
        Claim("minutes of training, longest", minutes, "<=", 6.0),
        Claim("mean main EER %", mean["chosen", "main"], "<=", 5.0),
        Claim("highest main EER %", max(eer["chosen", "main"]), "<=", 8.0),
        Claim("mean hard EER %", mean["chosen", "hard"], "<=", 8.5),
        Claim("% below the channel baseline, main", below, ">=", 40.0),
    ]
    return {
        "command": command,
        "claims": [claim.entry() for claim in claims],
        "runs": found,
    }


def report(command: str, claims: list[Claim], found: dict) -> dict:
    """Return the entry of a part."""
    return {
        "command": command,
        "claims": [claim.entry() for claim in claims],
        "test_files": found["test_files"],
        "table": found["table"],
    }


PARTS: dict[str, Callable[[], dict]] = {
    "chaos": chaos,
    "codec_festival": festival,
    "codec_human_g722": lambda: human("asterisk-core-sounds-en-g722", "human_g722"),
    "codec_human_8khz": lambda: human("asterisk-core-sounds-en-wav", "human_8khz"),
    "speaker": speaker,
}


def commit() -> str:
    """Return the commit that is measured."""
    found = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return found.stdout.strip()


def main(argv: list[str]) -> int:
    """Run the parts that are asked for; exit code 1 if a promise is broken."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--force", action="store_true", help="redo what is there")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    done = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    for name in options.parts or PARTS:
        if done.get(name, {}).get("commit") == commit() and not options.force:
            print(f"{name}: measured at this commit already")
            continue
        entry = PARTS[name]() | {
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "cores": os.cpu_count(),
        }
        done[name] = entry
        write_json(OUTPUT, dict(sorted(done.items())))
        for claim in entry["claims"]:
            print(f"{name}: {claim['claim']}: {claim['value']} {claim['holds']}")
    broken = [n for n in done if not all(c["holds"] for c in done[n]["claims"])]
    print(f"written: {OUTPUT.relative_to(ROOT)}; broken promises: {broken or 'none'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
