"""Five minutes of recipes out of thin air: none does harm, none takes long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis

import tests.conftest  # noqa: F401  (hypothesis walks over SpeechBrain's lazy modules)
from speechbrain_ext.config.allowlist.draft import draft
from speechbrain_ext.config.allowlist.judge import AllowList, listed
from speechbrain_ext.config.allowlist.lists import read_names
from speechbrain_ext.config.signatures import locate
from tests.acceptance.runs import ROOT, Claim
from tests.config.malicious.fuzzing import Watch, recipes, try_recipe
from tests.config.malicious.test_malicious import STOCK, Den

SECONDS = 300


def loader(seconds: float = SECONDS) -> dict:
    """Fuzz the loader, and hold the shipped lists to what is installed."""
    wrong = _wrong_homes()  # first: it imports what the recipes name
    counts: Counter[str] = Counter()
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        den = Den(Path(folder))
        before = os.getcwd()
        os.chdir(den.folder)
        try:
            _fuzz(watch, den, counts, seconds)
        finally:
            os.chdir(before)
    claims = [
        Claim("recipes that did harm, raised or took long", counts["failed"], "<=", 0),
        Claim("recipes tried", counts["loaded"] + counts["refused"], ">=", 5 * seconds),
        Claim("recipes that loaded", counts["loaded"], ">=", 10),
        Claim("harmful recipes that stock does not run", _harmless_in_stock(), "<=", 0),
        Claim("listed names that lead elsewhere", len(wrong), "<=", 0),
        Claim("names listed and not in the sources", _strange_names(), "<=", 0),
    ]
    return {
        "command": "python -m tests.acceptance fuzz_loader",
        "claims": [claim.entry() for claim in claims],
        "failures": [text for text in counts if text.startswith("failure")],
    }


def _fuzz(watch: Watch, den: Den, counts: Counter, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            _round(watch, den, counts, end)
        except Exception as error:
            counts["failed"] += 1
            notes = " ".join(getattr(error, "__notes__", ()))
            counts[f"failure {type(error).__name__}: {error} {notes}"[:900]] += 1


def _round(watch: Watch, den: Den, counts: Counter, end: float) -> None:
    @hypothesis.settings(
        max_examples=500,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.seed(time.time_ns() % 2**32)
    @hypothesis.given(text=recipes(den.canary))
    def check(text):
        if time.monotonic() < end:
            counts[try_recipe(watch, den.folder, text)] += 1

    check()


def _harmless_in_stock() -> int:
    """Count the recipes of the corpus whose harm HyperPyYAML does not do."""
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from hyperpyyaml import load_hyperpyyaml\n"
        "load_hyperpyyaml(open('recipe.yaml'))"
    )
    harmless = 0
    for row in STOCK:
        with tempfile.TemporaryDirectory() as folder:
            den = Den(Path(folder))
            den.write(row["recipe"])
            subprocess.run(
                [sys.executable, "-c", code],
                cwd=den.folder,
                capture_output=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            harmless += not den.canary.exists()
    return harmless


def _wrong_homes() -> list[str]:
    """Import every listed name; names whose own packages are missing are left out."""
    allowed, wrong = AllowList(), []
    for tag in ("!name", "!apply"):
        for name in listed(tag):
            try:
                thing = locate(name)
            except ImportError as error:
                missing = ("please install", "no module", "failed to import")
                if not any(words in str(error).lower() for words in missing):
                    wrong.append(f"{name}: {error}")
                continue
            if fault := allowed.object_fault(tag, name, thing):
                wrong.append(f"{name}: {fault}")
    for line in wrong:
        print(line)
    return wrong


def _strange_names() -> int:
    return len(set(read_names("namespaces.txt")) - set(draft()))
