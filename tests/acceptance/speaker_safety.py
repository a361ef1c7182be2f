"""What faults do to a speaker verifier: nothing that could not be seen."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from speechbrain_ext.chaos.faults import FAULTS
from speechbrain_ext.data.manifest import read_manifest
from speechbrain_ext.report.results import read_results
from speechbrain_ext.report.speaker.collection import run_figures
from speechbrain_ext.report.speaker.results import chosen_system
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from tests.acceptance.runs import ROOT, VOXCELEB, Claim, run_recipe
from tests.acceptance.speaker import SPLIT_SEEDS, TRAIN_SEEDS

#: A run of some seconds: too short to be good, long enough to be the same or not.
SHORT = (
    *("--number_of_epochs=2", "--crops_per_epoch=384", "--crop_seconds=1.0"),
    *("--speeds=[1.0]", "--average_checkpoints=2", "--training.warmup_steps=2"),
)


def bf16() -> dict:
    """Run the whole recipe in bfloat16."""
    options = ("--corpus=debian", "--precision=bf16", "--tag=debian_bf16")
    command, experiment, _ = run_recipe(*options, egs=VOXCELEB, afresh=False)
    results = read_results(experiment / "results.json")
    claims = [
        Claim("main EER %", 100 * main_eer(results), "<=", 8.0),
        Claim("rejected batches", results["health"]["rejected_batches"], "<=", 0),
        Claim("trials without score", results["nan_trials"]["most"], "<=", 0),
    ]
    return entry(command, claims, run=run_figures(results))


def poison() -> dict:
    """Put faulty files into a corpus of real voices: nothing may change by a bit."""
    base = VOXCELEB / "data" / "acceptance"
    clean, poisoned = base / "clean", base / "poisoned"
    shutil.rmtree(base, ignore_errors=True)
    copy_voices(clean, num_speakers=12, num_files=40)
    shutil.copytree(clean, poisoned)
    names = spoil(poisoned)
    found = {}
    for folder in (clean, poisoned):
        words = (
            *("--corpus=folder", f"--data_folder={folder.relative_to(VOXCELEB)}"),
            f"--datadir=data/acceptance/prepared_{folder.name}",
            *(f"--tag=acceptance_{folder.name}", *SHORT),
        )
        command, experiment, _ = run_recipe(*words, egs=VOXCELEB)
        found[folder.name] = experiment
    rejected = base / "prepared_poisoned" / "rejected.tsv"
    told = rejected.read_text(encoding="utf-8")
    unnamed = [name for name in names if name not in told]
    same = [
        same_embeddings(found["clean"], found["poisoned"], role)
        for role in ("test", "cohort")
    ]
    claims = [
        Claim("faulty files", len(names), ">=", 7),
        Claim("faulty files that rejected.tsv does not name", len(unnamed), "<=", 0),
        Claim("utterances with bit-equal embeddings", sum(same), ">=", 100),
        Claim("sets of embeddings that differ", same.count(0), "<=", 0),
    ]
    return entry(command, claims, rejected=told.splitlines()[1:])


def faults() -> dict:
    """Let every fault of the chaos house strike one training on real voices."""
    split, seed = SPLIT_SEEDS[0], TRAIN_SEEDS[0]
    data, tag = f"data/debian/split{split}", "debian_faults"
    experiment = VOXCELEB / "exp" / tag
    shutil.rmtree(experiment, ignore_errors=True)
    words = [
        *(sys.executable, "-m", "tests.acceptance.faulty_train"),
        str(ROOT / "recipes" / "speaker" / "ecapa_mini.yaml"),
        f"--train_manifest={VOXCELEB / data / 'train.json'}",
        f"--valid_manifest={VOXCELEB / data / 'valid.json'}",
        *(f"--output_folder={experiment}", f"--seed={seed}"),
        # The state is looked at before the next fault comes.
        "--nan_guard.snapshot_every=5",
    ]
    subprocess.run(words, cwd=ROOT, check=True)
    for script in ("embed", "score"):
        run_script(script, experiment, data)
    struck = json.loads((experiment / "faults.json").read_text())["struck"]
    visible = [one for one in struck if one["expected"] != "none"]
    results = read_results(experiment / "results.json")
    clean = {
        key: run_figures(read_results(run_of(*key) / "results.json"))["eer"]["chosen"]
        for key in ((s, t) for s in SPLIT_SEEDS for t in TRAIN_SEEDS)
    }
    claims = [
        Claim("faults that struck", sum(o["fired"] for o in struck), ">=", len(FAULTS)),
        Claim("share of them told, with the right cause", named(visible), ">=", 1.0),
    ]
    for name in ("main", "hard"):
        mine = chosen_system(results)["lists"][name]["eer"]
        of_split = [clean[split, seed][name] for seed in TRAIN_SEEDS]
        # Between seeds of one split: pooled over the splits, since two tell little.
        spread = statistics.fmean(
            statistics.variance([clean[s, t][name] for t in TRAIN_SEEDS])
            for s in SPLIT_SEEDS
        )
        error = (spread * (1 + 1 / len(of_split))) ** 0.5
        away = abs(mine - statistics.fmean(of_split)) / error
        what = f"{name} EER, from the mean of clean seeds, in standard deviations"
        claims.append(Claim(what, away, "<=", 2.0))
    return entry(
        "python -m tests.acceptance speaker_faults",
        claims,
        struck=struck,
        run=run_figures(results),
        rejected_batches=results["health"]["rejected_batches"],
    )


def named(struck: list[dict]) -> float:
    """Share of faults that were told with their own cause."""
    return sum(one["named"] for one in struck) / len(struck)


def nan_score() -> dict:
    """Spoil one embedding of a trained run: no figure may become better."""
    source = run_of(SPLIT_SEEDS[0], TRAIN_SEEDS[0])
    experiment = source.with_name("acceptance_nan")
    shutil.rmtree(experiment, ignore_errors=True)
    shutil.copytree(source, experiment)
    data = f"data/debian/split{SPLIT_SEEDS[0]}"
    path = experiment / "embeddings" / "test.npz"
    found = EmbeddingSet.load(path)
    vectors = found.vectors.copy()
    vectors[len(vectors) // 2, 0] = np.nan
    EmbeddingSet(
        *(found.ids, vectors, found.seconds, found.checkpoint, found.system),
        found.stamps,
    ).save(path)
    code = run_script("score", experiment, data, check=False)
    clean, spoiled = (read_results(e / "results.json") for e in (source, experiment))
    counted = least_change(clean, spoiled)
    asked = run_script("score", experiment, data, "--max_nan_trials=1000")
    filtered = run_script(
        *("score", experiment, data, "--nan_trials=filter", "--max_nan_trials=1000")
    )
    marked = read_results(experiment / "results.json")["nan_trials"]["policy"]
    claims = [
        Claim("exit code", code, ">=", 1),
        Claim("exit code where so many are allowed", max(asked, filtered), "<=", 0),
        Claim("least change of any EER, % points", 100 * counted, ">=", 0.0),
        Claim("utterances named", len(spoiled["nan_trials"]["named"]), ">=", 1),
        Claim("filter is marked in the results", marked == "filter", ">=", 1),
    ]
    return entry(
        "python -m tests.acceptance speaker_nan_score",
        claims,
        trials=spoiled["nan_trials"]["most"],
    )


def kill() -> dict:
    """Kill the run in each stage, at two places; run again, it ends the same."""
    stages = ("data", "prepare", "train", "embed", "score", "report")
    base = VOXCELEB / "data" / "acceptance_kill"
    shutil.rmtree(base, ignore_errors=True)

    def words(name: str, stage: str) -> list[str]:
        return [
            *("./run.sh", "--corpus=espeak", f"--datadir={base / name}", *SHORT),
            *(f"--tag=acceptance_kill_{name}", "--ckpt_interval_steps=3"),
            *(f"--stage={stage}", f"--stop_stage={stage}"),
        ]

    def whole(name: str, stage: str) -> float:
        started = time.monotonic()
        subprocess.run(words(name, stage), cwd=VOXCELEB, check=True)
        return time.monotonic() - started

    experiments = {
        name: VOXCELEB / "exp" / f"acceptance_kill_{name}"
        for name in ("whole", "early", "late")
    }
    for experiment in experiments.values():
        shutil.rmtree(experiment, ignore_errors=True)
    seconds = {stage: whole("whole", stage) for stage in stages}
    killed = 0
    for name, share in (("early", 0.4), ("late", 0.8)):
        for stage in stages:
            run = subprocess.Popen(words(name, stage), cwd=VOXCELEB)
            try:
                run.wait(share * seconds[stage])
            except subprocess.TimeoutExpired:
                kill_tree(run.pid)
                killed += run.wait() != 0
            whole(name, stage)
    expected = read_results(experiments["whole"] / "results.json")["digest"]
    ends = [read_results(experiments[n] / "results.json") for n in ("early", "late")]
    same = [
        same_embeddings(experiments["whole"], experiments[name], role)
        for name in ("early", "late")
        for role in ("test", "cohort")
    ]
    claims = [
        Claim("runs killed within a stage", killed, ">=", 10),
        Claim("ends with other figures", sum(e["digest"] != expected for e in ends),
              "<=", 0),
        Claim("sets of embeddings that differ", same.count(0), "<=", 0),
    ]  # fmt: skip
    return entry(
        "python -m tests.acceptance speaker_kill",
        claims,
        stage_seconds={stage: round(took, 1) for stage, took in seconds.items()},
    )


def entry(command: str, claims: list[Claim], **more) -> dict:
    """Return the entry of a part."""
    return {"command": command, "claims": [c.entry() for c in claims], **more}


def kill_tree(pid: int) -> None:
    """Kill a process and all that it has started, whatever group they are in."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name of a process may hold anything, but ends with the last bracket.
            parents[int(path.parent.name)] = int(
                path.read_text().rpartition(")")[2].split()[1]
            )
    doomed = [pid]
    for one in doomed:
        doomed += [child for child, parent in parents.items() if parent == one]
    for one in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def run_of(split_seed: int, seed: int) -> Path:
    """Return the experiment of one of the six runs; `speaker.speaker` makes them."""
    experiment = VOXCELEB / "exp" / f"debian_split{split_seed}_seed{seed}"
    if not (experiment / "results.json").exists():
        sys.exit(f"{experiment}: not there yet: python -m tests.acceptance speaker")
    return experiment


def run_script(name: str, experiment: Path, data: str, *options, check=True) -> int:
    """Run a script of recipes/speaker on an experiment; return its exit code."""
    script = ROOT / "recipes" / "speaker" / f"{name}.py"
    words = [sys.executable, str(script), str(experiment), f"--data={data}", *options]
    return subprocess.run(words, cwd=VOXCELEB, check=check).returncode


def main_eer(results: dict) -> float:
    """Return the main EER of the chosen backend."""
    return chosen_system(results)["lists"]["main"]["eer"]


def least_change(before: dict, after: dict) -> float:
    """Return the least difference of an EER, over systems and lists."""
    old = {system["name"]: system["lists"] for system in before["systems"]}
    return min(
        figures["eer"] - old[system["name"]][name]["eer"]
        for system in after["systems"]
        for name, figures in system["lists"].items()
    )


def same_embeddings(one: Path, other: Path, role: str) -> int:
    """Return how many utterances have equal embeddings; 0 if any differs."""
    a, b = (EmbeddingSet.load(e / "embeddings" / f"{role}.npz") for e in (one, other))
    same = a.ids == b.ids and a.vectors.tobytes() == b.vectors.tobytes()
    return len(a) if same else 0


def copy_voices(folder: Path, num_speakers: int, num_files: int) -> None:
    """Lay recordings of debian out as speaker/utterance.wav."""
    manifest = read_manifest(VOXCELEB / "data" / "debian" / "utterances.json")
    by_speaker: dict[str, list] = {}
    for one in manifest.values():
        by_speaker.setdefault(one.spk_id, []).append(one)
    enough = (s for s, mine in sorted(by_speaker.items()) if len(mine) >= num_files)
    for spk_id in islice(enough, num_speakers):
        (folder / spk_id).mkdir(parents=True)
        for one in by_speaker[spk_id][:num_files]:
            shutil.copy(one.wav, folder / spk_id)


def spoil(folder: Path) -> list[str]:
    """Put faulty files beside good ones; return their names."""
    speaker = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    rate = 16000
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, 2 * rate)
    sick = {name: noise.copy() for name in ("nan", "inf")}
    sick["nan"][rate], sick["inf"][rate] = np.nan, np.inf
    sick |= {"silent": np.zeros(2 * rate), "one_frame": noise[:1]}
    names = []
    for name, samples in sick.items():
        path = speaker / f"zz_{name}.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        names.append(path.name)
    for path, data in (
        (speaker / "zz_empty.wav", b""),
        (speaker / "zz_page.wav", b"<html>not found</html>"),
    ):
        path.write_bytes(data)
        names.append(path.name)
    # In no speaker's folder: wrongly labelled.
    soundfile.write(folder / "zz_nobody.wav", noise, rate)
    return [*names, "zz_nobody.wav"]
