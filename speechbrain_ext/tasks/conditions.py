"""What a reader must know to recompute the figures of an experiment, of any task."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import torch

from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.quarantine_file import quarantine_path, quarantine_table
from speechbrain_ext.config import Recipe, load_recipe
from speechbrain_ext.errors import UserError
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.tasks.experiment import environment

#: Options that say which part of an experiment is made.
_PARTLY = re.compile(r" --(?:(?:stop_)?stage=\S+|force(?:=true)?(?= |$))")


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
            "first: ./run.sh --stage train"
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
    return {
        "seed": recipe.hparams["seed"],
        "config_hash": recipe.config_hash,
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        **trained,
        "train_seconds": train_seconds(folder),
        "versions": found["versions"],
        "git": found["git"],
        "processor": found["processor"],
        "threads": found["threads"],
    }


def now() -> str:
    """Time of day in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def train_seconds(folder: Path) -> float | None:
    """Seconds of training, summed over the epochs in the log; None without one."""
    path = folder / "train_log.txt"
    rows = read_train_log(path) if path.exists() else []
    seconds = [row["train seconds"] for row in rows if "train seconds" in row]
    return round(sum(seconds), 1) if seconds else None


def own_command(folder: Path, otherwise: str) -> str:
    """Return the command that makes the experiment, as its run.sh says it.

    Which stages were done again last does not belong to it: alone they make nothing.
    """
    script = folder / "run.sh"
    if script.exists():
        lines = script.read_text(encoding="utf-8").splitlines()
        commands = [line for line in lines if line and not line.startswith("#")]
        if commands:
            command = commands[-1].removeprefix("exec ").removesuffix(' "$@"')
            command = _PARTLY.sub("", command)
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
