"""What a reader must know to recompute the figures of an experiment, of any task."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import torch

from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.quarantine_file import quarantine_path, quarantine_table
from speechbrain_ext.config import Recipe, load_recipe
from speechbrain_ext.data.manifest import (
    SPLIT_NAME,
    STATE_NAME,
    read_manifest,
    total_seconds,
)
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import read_json
from speechbrain_ext.next_command import next_command
from speechbrain_ext.report.facts import corpus_in
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.resume.history import read_history
from speechbrain_ext.tasks.experiment import environment

_ONE_CALL = re.compile(r" --(?:stage|stop_stage|force|force_resume)=[\w]+(?=\s|$)")


def trained_recipe(folder: Path, stage: str) -> Recipe:
    """Load the recipe of an experiment, where the experiment lies now.

    Arguments
    ---------
    folder : Path
        The experiment; it may have been moved since.
    stage : str
        Who asks, for the message.

    Raises
    ------
    UserError
        If the folder is no experiment.
    """
    if not (folder / "hyperparams.yaml").exists():
        raise UserError(
            f"{stage}: {folder} is no experiment (no hyperparams.yaml in it); train "
            "first: " + next_command("./run.sh --stage train", folder)
        )
    return load_recipe(folder / "hyperparams.yaml", {"output_folder": str(folder)})


def model_conditions(
    recipe: Recipe, model: torch.nn.Module, folder: Path, trained: dict
) -> dict:
    """Gather what was trained, how long, with what, on what.

    Arguments
    ---------
    recipe : Recipe
        As `trained_recipe` loads it.
    model : torch.nn.Module
        What is scored.
    folder : Path
        The experiment.
    trained : dict
        What the task knows of the checkpoint.
    """
    found = environment()
    parameters = sum(p.numel() for p in model.parameters())
    weights = sum(t.numel() for t in model.state_dict().values() if torch.is_tensor(t))
    return {
        "seed": recipe.hparams["seed"],
        "config_hash": recipe.config_hash,
        "model": type(model).__name__,
        "parameters": parameters,
        # A codec learns its codebooks by moving averages: weights, but no parameters.
        "buffers": max(0, weights - parameters),
        **trained,
        "train_seconds": train_seconds(folder),
        "cost": training_cost(folder, recipe),
        "resumed": read_history(folder),
        "versions": found["versions"],
        "git": found["git"],
        "processor": found["processor"],
        "threads": found["threads"],
    }


def data_conditions(*manifests: str | Path) -> dict[str, Any]:
    """Tell what the data is and how much of it there is.

    Arguments
    ---------
    *manifests : str or Path
        One for each role, which is the file's stem.

    Returns
    -------
    dict
        What preparation kept of the corpus (see
        `speechbrain_ext.data.corpora.facts`), ``counts`` and ``seconds`` by role.
    """
    paths = [Path(path) for path in manifests]
    sets = {path.stem: read_manifest(path) for path in paths}
    return {
        **_corpus_beside(paths[-1]),
        "counts": {role: len(found) for role, found in sets.items()},
        "seconds": {role: round(total_seconds(s), 1) for role, s in sets.items()},
    }


def _corpus_beside(manifest: Path) -> dict[str, Any]:
    """Read what preparation wrote beside a manifest, or in the folder above a split."""
    folder = manifest.parent
    for path in (folder / STATE_NAME, folder / SPLIT_NAME, folder.parent / STATE_NAME):
        found = read_json(path)
        if isinstance(found.get("corpus"), dict):
            return found["corpus"]
        # Prepared before facts of the corpus were kept: the command has its name.
        if named := corpus_in(str(found.get("command") or "")):
            return {"corpus": named}
    return {}


def training_cost(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Tell on what an experiment was trained; seconds are told by `train_seconds`.

    Returns
    -------
    dict
        ``epochs`` in the log, ``device``, ``processor``, ``threads`` and, where there
        were some, ``gpu`` and ``ranks``; what is not known is None.
    """
    known = read_json(folder / "env.json")
    gpu = known.get("gpu")
    device = known.get("run_opts", {}).get("device") or ("cuda" if gpu else "cpu")
    log = folder / "train_log.txt"
    rows = read_train_log(log) if log.exists() else []
    cost = {
        "epochs": int(rows[-1]["epoch"]) if rows else None,
        "device": device if known else None,
        "processor": known.get("processor"),
        "threads": recipe.hparams.get("num_threads") or known.get("threads"),
    }
    if gpu and str(device).startswith("cuda"):
        cost["gpu"] = gpu
    if known.get("ranks", 1) > 1:
        cost["ranks"] = known["ranks"]
    return cost


def now() -> str:
    """Time of day in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def train_seconds(folder: Path) -> float | None:
    """Seconds of training, summed over the epochs in the log; None without one.

    With those of what a codec learns of its codes afterwards.
    """
    path = folder / "train_log.txt"
    rows = read_train_log(path) if path.exists() else []
    seconds = [row["train seconds"] for row in rows if "train seconds" in row]
    if not seconds:
        return None
    text = path.read_text(encoding="utf-8")
    later = re.findall(r"^epoch: codes\b.*train seconds: ([\d.e+-]+)", text, re.M)
    return round(sum(seconds) + sum(map(float, later[-1:])), 1)


def own_command(folder: Path, otherwise: str) -> str:
    """Return the command that made the experiment, as its run.sh says it.

    What chose the stages of the last call is left out: from nothing all of them run.
    """
    script = folder / "run.sh"
    if script.exists():
        lines = script.read_text(encoding="utf-8").splitlines()
        commands = [line for line in lines if line and not line.startswith("#")]
        if commands:
            command = commands[-1].removeprefix("exec ").removesuffix(' "$@"')
            command = _ONE_CALL.sub("", command)
            # Run from its own folder, so what lies below needs no absolute path.
            return command.replace(f"{folder.resolve().parent.parent}/", "")
    return otherwise


def utterances_left_out(recipe: Recipe, folder: Path) -> list[dict]:
    """List the train utterances in quarantine; see `quarantine_table`."""
    policy = recipe.hparams.get("nan_guard") or NonFinitePolicy()
    debug_folder = policy.dump_folder or folder / "debug_nan"
    return quarantine_table(quarantine_path(policy, debug_folder))


def health(folder: Path, datadir: Path) -> dict:
    """Count what went wrong on the way: files and batches."""
    rejected = datadir / "rejected.tsv"
    files = 0
    if rejected.exists():
        files = max(0, len(rejected.read_text(encoding="utf-8").splitlines()) - 1)
    return {
        "rejected_files": files,
        "rejected_batches": len(list((folder / "debug_nan").glob("nan_batch_*.json"))),
    }
