"""TensorBoard and Weights & Biases through SpeechBrain's own loggers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from speechbrain_ext.errors import UserError

_WANDB_MODES = ("disabled", "offline", "online")


def _need(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{option}: the package {package} is not installed; install it with\n"
            f"  python -m pip install {package}\nor leave {option} out."
        )


def optional_loggers(folder: Path, *, tensorboard: bool, wandb: str) -> list:
    """Make the loggers that a recipe's two lines ask for.

    Arguments
    ---------
    folder : Path
        The experiment; all logs stay inside it.
    tensorboard : bool
        Write ``<folder>/tensorboard``.
    wandb : str
        ``"disabled"``, ``"offline"`` (files in ``<folder>/wandb`` only) or
        ``"online"``.

    Returns
    -------
    list
        Objects with SpeechBrain's ``log_stats``.

    Raises
    ------
    UserError
        If a package is absent (with the command that installs it) or the mode of
        ``wandb`` is unknown.
    """
    loggers = []
    if wandb not in _WANDB_MODES:
        raise UserError(f"wandb: {wandb!r} must be one of {', '.join(_WANDB_MODES)}")
    if tensorboard:
        _need("tensorboard", "tensorboard")
        from speechbrain.utils.train_logger import TensorboardLogger

        loggers.append(TensorboardLogger(str(folder / "tensorboard")))
    if wandb != "disabled":
        _need("wandb", "wandb")
        import wandb as package
        from speechbrain.utils.train_logger import WandBLogger

        loggers.append(
            WandBLogger(
                package.init,
                project="speechbrain-ext",
                name=folder.name,
                dir=str(folder),
                mode=wandb,
            )
        )
    return loggers
