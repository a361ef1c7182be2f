"""Speaker verification on real voices: six runs, and what each choice brought."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechbrain_ext.files import write_json, write_text
from speechbrain_ext.report.results import read_results
from speechbrain_ext.report.speaker.collection import (
    ablation_row,
    render_ablation,
    run_figures,
)
from speechbrain_ext.sharing.onnx import export_onnx
from tests.acceptance.runs import DOCS, VOXCELEB, Claim, keep_results, run_recipe

#: Draws of test speakers, and training seeds, that the speaker figures are means of.
SPLIT_SEEDS, TRAIN_SEEDS = (1, 2, 3), (1234, 4321)
#: Runs at a time; each trains on one thread.
AT_ONCE = min(2, os.cpu_count() or 1)

#: What is changed -> its options, and what to know about it. The chunks are in the
#: data, so without them another data folder is made of the same recordings.
CHANGES: dict[str, tuple[list[str], str]] = {
    "as it is": ([], ""),
    "utterances only, no chunks of short ones": (
        [
            "--chunk_seconds=0",
            "--data_folder=data/debian/raw/root",
            "--datadir=data/debian_single",
        ],
        "--chunk_seconds=0",
    ),
    "no slower and faster classes": (["--speeds=[1.0]"], ""),
    "half the steps": (["--number_of_epochs=4"], ""),
    "best epoch, no mean of the last three": (["--average_checkpoints=0"], ""),
}


def speaker() -> dict:
    """Train and score speaker verification over splits and seeds.

    A run that is there is scored again and not trained again: six of them take long.
    """
    plan = {
        f"debian_split{split_seed}_seed{seed}": [
            f"--split_seed={split_seed}",
            f"--seed={seed}",
        ]
        for split_seed in SPLIT_SEEDS
        for seed in TRAIN_SEEDS
    }
    found, furthest = {}, 0.0
    for tag, experiment in run_all(plan).items():
        keep_results(experiment)
        found[tag] = run_figures(read_results(experiment / "results.json"))
        furthest = max(furthest, export_onnx(experiment).max_abs_difference)
    eer = {
        (system, name): [100 * run["eer"][system][name] for run in found.values()]
        for system in ("chosen", "cosine", "channel")
        for name in ("main", "hard")
    }
    mean = {key: sum(values) / len(values) for key, values in eer.items()}
    # Not the longest: what else the machine does in an hour is in it.
    minutes = statistics.median(run["train_seconds"] for run in found.values()) / 60
    below = 100 * (1 - mean["chosen", "main"] / mean["channel", "main"])
    claims = [
        Claim("minutes of training, median", minutes, "<=", 6.0),
        Claim("mean main EER %", mean["chosen", "main"], "<=", 5.0),
        Claim("highest main EER %", max(eer["chosen", "main"]), "<=", 8.0),
        Claim("mean hard EER %", mean["chosen", "hard"], "<=", 8.5),
        Claim("% below the channel baseline, main", below, ">=", 40.0),
        Claim("1e-6 that ONNX is from torch at most", 1e6 * furthest, "<=", 10.0),
    ]
    return {
        "command": "python -m tests.acceptance speaker",
        "claims": [claim.entry() for claim in claims],
        "runs": found,
        "cosine": {name: mean["cosine", name] for name in ("main", "hard")},
    }


def ablation() -> dict:
    """Change one thing at a time, on inner splits; writes docs/speaker_ablation.*.

    The test speakers of the six runs above are in none of these.
    """
    plan = {
        f"inner{split_seed}_{number}": [
            f"--split_seed={split_seed}",
            "--inner_split=1",
            "--seed=1234",
            *options,
        ]
        for number, (options, _) in enumerate(CHANGES.values())
        for split_seed in SPLIT_SEEDS
    }
    found = run_all(plan)
    rows = []
    for number, (change, (options, note)) in enumerate(CHANGES.items()):
        results = [
            read_results(found[f"inner{split_seed}_{number}"] / "results.json")
            for split_seed in SPLIT_SEEDS
        ]
        shown = [option for option in options if "data/" not in option]
        rows.append(ablation_row(change, results, note or " ".join(shown)))
    write_json(DOCS / "speaker_ablation.json", {"rows": rows})
    write_text(DOCS / "speaker_ablation.md", render_ablation(rows))
    return {
        "command": "python -m tests.acceptance speaker_ablation",
        "claims": [Claim("changes measured", len(rows) - 1, ">=", 4).entry()],
        "written": "docs/speaker_ablation.md",
    }


def run_all(plan: dict[str, Sequence[str]]) -> dict[str, Path]:
    """Run the recipe on debian once for each tag, some at a time.

    Returns
    -------
    dict
        Tag -> its experiment.
    """
    # Runs of one split would wait for each other's preparation.
    prepared = set()
    for tag, options in plan.items():
        data = tuple(o for o in options if o.split("=")[0] in DATA_OPTIONS)
        if data not in prepared:
            prepared.add(data)
            once = [f"--tag={tag}", *options, "--stop_stage=prepare"]
            run_recipe("--corpus=debian", *once, egs=VOXCELEB, afresh=False)

    def run(tag: str) -> Path:
        words = ["--corpus=debian", f"--tag={tag}", *plan[tag]]
        settings = {"egs": VOXCELEB, "afresh": False, "quiet": True}
        there = (VOXCELEB / "exp" / tag / "results.json").exists()
        experiment = run_recipe(*words, **settings)[1]
        if there:  # of code that scored otherwise, perhaps
            run_recipe(*words, "--stage=score", "--force", **settings)
        print(f"done: {tag}", flush=True)
        return experiment

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(plan, pool.map(run, plan), strict=True))


#: Options of run.sh that preparation reads.
DATA_OPTIONS = (
    *("--split_seed", "--inner_split", "--chunk_seconds"),
    *("--data_folder", "--datadir"),
)
