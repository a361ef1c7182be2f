"""The experiment folder: what was run, with which settings, on which machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    get_rank,
    if_main_process,
)

from speechbrain_ext.config import Recipe
from speechbrain_ext.config.allowlist.memory import remember
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json, write_text
from speechbrain_ext.resume.history import add_to_history, write_data_record
from speechbrain_ext.tasks.resuming import Past

#: Packages whose version can change a number.
PACKAGES = (
    "speechbrain-ext",
    "speechbrain",
    "torch",
    "torchaudio",
    "hyperpyyaml",
    "numpy",
    "scipy",
    "soundfile",
    "pesq",
    "pystoi",
    "visqol-python",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute; absent ones are left out.

    That of libsndfile is there for the Opus encoder inside it.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    with contextlib.suppress(ImportError, OSError):
        import soundfile

        found["libsndfile"] = soundfile.__libsndfile_version__
    return found


#: New files that may change a figure; others, such as a download, do not.
_CODE = (
    ":(top)speechbrain_ext",
    ":(top)recipes",
    ":(top)hparams",
    ":(top,glob)egs/*/local/**",
)


def git_state(folder: Path | None = None) -> dict[str, str | bool] | None:
    """Commit and cleanliness of the tree this package runs from; None outside git.

    Arguments
    ---------
    folder : Path or None
        In the tree; None: this package's.

    Returns
    -------
    dict or None
        ``commit``; ``dirty``: whether a file of the tree was changed, or code is there
        that is new.
    """
    command = ["git", "-C", str(folder or Path(__file__).resolve().parent)]
    new_code = ["ls-files", "--others", "--exclude-standard", "--", *_CODE]
    told = []
    for words in (
        ["rev-parse", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
        new_code,
    ):
        try:
            done = subprocess.run(
                [*command, *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        told.append(done.stdout.strip())
    commit, changed, added = told
    return {"commit": commit, "dirty": bool(changed or added)}


def environment() -> dict:
    """Gather what may explain a different number: versions, processor, threads."""
    return {
        "versions": versions(),
        "git": git_state(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor_name() -> str:
    """Model name of the processor as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def check_device(device: str) -> None:
    """Find out whether tensors can be made on a device.

    Raises
    ------
    UserError
        If not; the message holds torch's reason.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--device={device} can't be used: {reason}\n  Next: --device=cpu"
        ) from error


def usable_device(device: str | None) -> str:
    """Return a device that can be used; None: a GPU if there is one.

    Raises
    ------
    UserError
        See `check_device`.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    return device


def join_ranks(run_opts: dict) -> None:
    """Join the process group under torchrun; alone, do nothing.

    Arguments
    ---------
    run_opts : dict
        SpeechBrain's run options; without a ``distributed_backend`` NCCL is taken
        where there is a GPU for each rank, else gloo.
    """
    if get_rank() is None or torch.distributed.is_initialized():
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    backend = "nccl" if torch.cuda.device_count() >= here else "gloo"
    run_opts.setdefault("distributed_backend", backend)
    if run_opts["distributed_backend"] == "gloo":
        run_opts.setdefault("device", "cpu")
    ddp_init_group(run_opts)


def open_experiment(recipe: Recipe, past: Past) -> Path:
    """Make or continue the experiment folder of a recipe.

    Writes ``hyperparams.yaml`` (resolved, self-contained), ``env.json``, ``data.json``
    (what the manifests are), ``allow.json`` if a person allowed names beyond the list,
    ``resumed.json`` if settings changed, and opens ``log.txt``.

    Arguments
    ---------
    recipe : Recipe
        Its ``output_folder`` is the experiment.
    past : Past
        What of it differs from the last run there; `guard_resume` has let it pass.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(recipe.hparams["output_folder"])
    ddp_barrier()  # all ranks have read what the main one overwrites now
    if not if_main_process():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    add_to_history(folder, past.changes, past.epochs_done)
    write_text(folder / "hyperparams.yaml", recipe.resolved_yaml)
    if not remember(folder, recipe.allow):
        logging.getLogger(__name__).warning(
            "what --allow allowed can't be kept for the next stages: no place for a "
            "key in the home folder; see XDG_STATE_HOME"
        )
    write_data_record(folder, past.data)
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    started = {"run_opts": recipe.run_opts, "ranks": ranks}
    write_json(folder / "env.json", environment() | started)
    _log_to(folder / "log.txt")
    logger = logging.getLogger(__name__)
    logger.info("command: %s", " ".join(sys.argv))
    for change in past.changes:
        logger.info("changed: %s", change)
    return folder


def _log_to(path: Path) -> None:
    """Send everything, Python warnings too, to the log file; the console stays calm."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, "experiment", False):
            root.removeHandler(handler)
            handler.close()
    file_handler = logging.FileHandler(path, encoding="utf-8")
    file_handler.setLevel(logging.DEBUG)
    file_handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    console = logging.StreamHandler(sys.stderr)
    console.addFilter(_worth_the_console)
    console.setFormatter(logging.Formatter("%(message)s"))
    for handler in (file_handler, console):
        handler.experiment = True
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)


def _worth_the_console(record: logging.LogRecord) -> bool:
    """Pass warnings, and the line of numbers after each epoch; the log has it all."""
    if record.name == "py.warnings":
        return False
    epoch_line = record.name == "speechbrain.utils.train_logger"
    return record.levelno >= logging.WARNING or epoch_line
