"""The next command to type, for an experiment that keeps its own."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from speechbrain_ext.errors import UserError

Result = TypeVar("Result")


def next_command(text: str, experiment: str | os.PathLike) -> str:
    """Put the experiment's own ``run.sh`` in the place of ``./run.sh``.

    The plain one would take the default corpus, recipe and tag; ``<experiment>/run.sh``
    has all that the last command had. Where that ended early or forced a stage, the
    command now does not.

    Arguments
    ---------
    text : str
        A message or a command with ``./run.sh --stage NAME``.
    experiment : str or PathLike
        Its folder, as the user knows it.

    Returns
    -------
    str
        The text; as it was if there is no ``run.sh`` in the folder.

    Example
    -------
    >>> next_command("train first: ./run.sh --stage train", "exp/none")
    'train first: ./run.sh --stage train'
    """
    script = Path(experiment) / "run.sh"
    try:
        last = script.read_text(encoding="utf-8", errors="replace").splitlines()[-1]
        words = shlex.split(last)
    except (OSError, ValueError, IndexError):
        return text
    path = shlex.quote(str(script))

    def replaced(found: re.Match) -> str:
        stage, rest = found["stage"], ""
        if stage and any(word.startswith("--stop_stage=") for word in words):
            rest += f" --stop_stage {stage}"
        if "--force=true" in words:
            rest += " --force=false"
        return f"{path}{f' --stage {stage}' if stage else ''}{rest}"

    return re.sub(r"\./run\.sh(?:\s+--stage\s+(?P<stage>\w+))?", replaced, text)


def tells_own_commands(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let the errors of what works on an experiment name the experiment's commands.

    Arguments
    ---------
    function : Callable
        Its first argument is the experiment's folder, or a loaded recipe.

    Returns
    -------
    Callable
        The same, with `next_command` applied to the text of every `UserError`.
    """

    @functools.wraps(function)
    def told(*args, **kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            experiment = args[0] if args else next(iter(kwargs.values()))
            hparams = getattr(experiment, "hparams", {})
            folder = hparams.get("output_folder", experiment)
            if isinstance(folder, (str, os.PathLike)) and len(error.args) == 1:
                error.args = (next_command(str(error), folder),)
            raise

    return told
