"""A Brain as a training would build it, without data and without training."""

from __future__ import annotations

import contextlib
import importlib
import json
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from speechbrain_ext.brain.forensics.dump import Dump
from speechbrain_ext.brain.nan_safe import NaNSafeBrain
from speechbrain_ext.errors import UserError


@contextlib.contextmanager
def our_brain(dump: Dump, device: str | None) -> Iterator[NaNSafeBrain]:
    """Build the Brain of an experiment of ours; its folder is only read.

    Raises
    ------
    UserError
        If there is no recipe beside the dump's folder.
    """
    from speechbrain_ext.config import load_recipe

    experiment = dump.path.resolve().parent.parent
    recipe_file = experiment / "hyperparams.yaml"
    if not recipe_file.exists():
        raise UserError(
            f"replay: there is no {recipe_file.name} in {experiment}; for a recipe of "
            f"your own: speechbrain-ext replay {dump.path} --script train.py ARGS"
        )
    options = _run_options(experiment, device)
    with tempfile.TemporaryDirectory(prefix="replay_") as folder:
        other = Path(folder) / "exp"
        recipe = load_recipe(
            recipe_file, {"output_folder": str(other)}, run_opts=options
        )
        task = recipe.hparams.get("task")
        if not task:
            raise UserError(
                f"replay: {recipe_file} names no task; give --script train.py ARGS"
            )
        try:
            module = importlib.import_module(f"{task}.train")
        except ModuleNotFoundError as error:
            raise UserError(f"replay: {recipe_file}: {error}") from error
        for name in getattr(module, "EXPERIMENT_FILES", ()):
            if (experiment / name).exists():
                other.mkdir(exist_ok=True)
                shutil.copy(experiment / name, other)
        yield module.make_brain(recipe)


def _run_options(experiment: Path, device: str | None) -> dict[str, Any]:
    """Read the options that the run had; on a machine without its GPU, take the CPU."""
    try:
        text = (experiment / "env.json").read_text(encoding="utf-8")
        options = dict(json.loads(text).get("run_opts") or {})
    except (OSError, ValueError):
        options = {}
    for name in ("distributed_backend", "debug", "debug_batches", "debug_epochs"):
        options.pop(name, None)
    device = device or options.get("device")
    if device and device.startswith("cuda") and not torch.cuda.is_available():
        device = "cpu"
    return options | ({"device": device} if device else {})


class _Caught(BaseException):
    """Carries the Brain out of a script at the moment it would train."""

    def __init__(self, brain: NaNSafeBrain):
        super().__init__("the script reached fit")
        self.brain = brain


def script_brain(words: list[str]) -> NaNSafeBrain:
    """Run a training script up to ``fit``, and take its Brain.

    Arguments
    ---------
    words : list of str
        The script and its arguments.

    Raises
    ------
    UserError
        If the script is not there, ends before ``fit`` of a `NaNSafeBrain`, or fails.
    """
    script = Path(words[0])
    if not script.is_file():
        raise UserError(f"replay: --script {script}: no such file")

    def caught(brain, *args, **kwargs):
        raise _Caught(brain)

    path = list(sys.path)
    try:
        with (
            mock.patch.object(NaNSafeBrain, "fit", caught),
            mock.patch.object(sys, "argv", [str(script), *words[1:]]),
            contextlib.redirect_stdout(sys.stderr),
        ):
            sys.path.insert(0, str(script.resolve().parent))
            runpy.run_path(str(script), run_name="__main__")
    except _Caught as caught_brain:
        return caught_brain.brain
    except SystemExit as stopped:
        raise UserError(
            f"replay: {script} ended with exit code {stopped.code} before it trained"
        ) from stopped
    except Exception as error:
        raise UserError(
            f"replay: {script} failed: {type(error).__name__}: {error}\n  Next: give "
            "it the arguments of the training after its name"
        ) from error
    finally:
        sys.path[:] = path
    raise UserError(
        f"replay: {script} never called fit of a NaNSafeBrain; give the script that "
        "trains"
    )
