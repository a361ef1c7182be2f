"""Put every fault into both reference models, at every place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from tests.acceptance.runs import DOCS, ROOT, Claim


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
    figures = json.loads((DOCS / "chaos.json").read_text(encoding="utf-8"))
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
