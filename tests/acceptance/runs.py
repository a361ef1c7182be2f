"""A run of a recipe, and what it promises."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from speechbrain_ext.files import write_text
from speechbrain_ext.report.collection import render_collection

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
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
            "value": round(float(self.value), 4),
            "holds": bool(self.holds),
        }


def run_recipe(
    *options: str, egs: Path = TELUGU, afresh: bool = True, quiet: bool = False
) -> tuple[str, Path, float]:
    """Run a run.sh; returns command, experiment, seconds.

    Arguments
    ---------
    *options : str
        Of run.sh; ``--tag=`` among them.
    egs : Path
        The recipe's folder.
    afresh : bool
        From nothing; otherwise it goes on with what is there.
    quiet : bool
        What it says goes to ``exp/<tag>.out`` instead of here.
    """
    tag = next(o.split("=", 1)[1] for o in options if o.startswith("--tag="))
    experiment = egs / "exp" / tag
    if afresh:
        shutil.rmtree(experiment, ignore_errors=True)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        out = None
        if quiet:
            experiment.parent.mkdir(parents=True, exist_ok=True)
            out = stack.enter_context(open(experiment.with_suffix(".out"), "w"))
        subprocess.run(
            ["./run.sh", *options], cwd=egs, check=True, stdout=out, stderr=out
        )
    command = f"cd egs/{egs.name} && ./run.sh " + " ".join(options)
    return (
        re.sub(re.escape(str(ROOT)) + "/?", "", command),
        experiment,
        (time.monotonic() - started),
    )


def keep_results(experiment: Path) -> None:
    """Copy the figures into the recipe, and make its RESULTS.md from all of them."""
    egs = experiment.parents[1]
    kept = egs / "results"
    write_text(
        kept / f"{experiment.name}.json",
        (experiment / "results.json").read_text(encoding="utf-8"),
    )
    write_text(egs / "RESULTS.md", render_collection(kept))
