"""How a run of any task goes, from a loaded recipe to a trained Brain."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType

import yaml
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.config import Recipe
from speechbrain_ext.errors import UserError
from speechbrain_ext.task_folders import task_fault
from speechbrain_ext.tasks.brain import TaskBrain
from speechbrain_ext.tasks.experiment import join_ranks, open_experiment
from speechbrain_ext.tasks.loggers import optional_loggers
from speechbrain_ext.tasks.resuming import describe_data, guard_resume, look_back
from speechbrain_ext.tasks.settings import manifests


def carry_out(
    recipe: Recipe, task: ModuleType, *, force_resume: bool = False
) -> TaskBrain:
    """Train a recipe; goes on where an earlier run stopped.

    Arguments
    ---------
    recipe : Recipe
        Of the task.
    task : module
        With ``check_settings``, ``HARMLESS``, ``make_brain``, ``make_loaders`` and
        ``first_weights``; see `speechbrain_ext.tasks.codec.train`.
    force_resume : bool
        Go on in an experiment that was trained with other settings or data, with what
        can be loaded; its results will say so.

    Returns
    -------
    TaskBrain
        After its last epoch.

    Raises
    ------
    ManifestError
        If a manifest or one of its files is missing or changed.
    UserError
        If a setting is out of its range, the device is not there, or the experiment
        was trained with other settings or data (see `speechbrain_ext.resume`).
    DivergenceError
        If too many batches were rejected.
    """
    hparams = recipe.hparams
    wanted = task.__name__.split(".")[-2]
    if fault := task_fault(str(recipe.path), hparams.get("task"), wanted):
        raise UserError(f"train: {fault}")
    task.check_settings(hparams, recipe.run_opts)
    join_ranks(recipe.run_opts)
    train_set, valid_set = manifests(hparams)
    data = describe_data({"train_manifest": train_set, "valid_manifest": valid_set})
    past = look_back(recipe, data, task.HARMLESS)
    brain = task.make_brain(recipe)
    guard_resume(recipe, brain, past, force_resume)
    train_loader, valid_loader = task.make_loaders(recipe, train_set, valid_set)
    # Nothing is written before all of this is known to fit.
    folder = open_experiment(recipe, past)
    brain.write_beside(folder)
    hparams["train_loggers"] += optional_loggers(
        folder, tensorboard=hparams["tensorboard"], wandb=hparams["wandb"]
    )
    brain.checkpointer.add_recoverable("dataloader-TRAIN", train_loader)
    if brain.checkpointer.find_checkpoint() is None:
        task.first_weights(brain, train_set)
    try:
        if epochs_trained(brain.checkpointer) < hparams["epoch_counter"].limit:
            brain.announce(train_loader)
        elif if_main_process():
            last = hparams["epoch_counter"].limit
            print(f"already trained: epoch {last} of {last} is done", file=sys.stderr)
        brain.fit(hparams["epoch_counter"], train_loader, valid_loader)
        brain.finish(valid_loader, train_set)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(where_it_goes_on(brain.checkpointer)) from None
    return brain


def epochs_trained(checkpointer: Checkpointer) -> int:
    """Return how many epochs the last checkpoint holds as a whole; 0 if unknown."""
    found = checkpointer.find_checkpoint()
    if found is None or not found.meta.get("end-of-epoch", True):
        return 0
    try:
        return int((found.path / "epoch_counter.ckpt").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def where_it_goes_on(checkpointer: Checkpointer) -> str:
    """Say from where an interrupted training will go on: its last checkpoint."""
    found = checkpointer.find_checkpoint()
    if found is None:
        return "goes on from the beginning: there is no checkpoint yet"
    epoch = found.meta.get("epoch")
    step = 0
    with contextlib.suppress(OSError, ValueError, KeyError):
        epoch = int((found.path / "epoch_counter.ckpt").read_text(encoding="utf-8"))
    with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
        notes = yaml.safe_load((found.path / "brain.ckpt").read_text(encoding="utf-8"))
        step = notes.get("step", 0)
    place = f"epoch {epoch}" if epoch is not None else found.path.name
    place += ", complete" if found.meta.get("end-of-epoch", True) else f", step {step}"
    return f"goes on from the last checkpoint: {place}"
