"""Experiments that came as a bundle and were not trained since."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"


def is_unpacked(folder: Path, save_folder: Path | None = None) -> bool:
    """Whether the weights of an experiment are those that its bundle brought.

    Arguments
    ---------
    folder : Path
        The experiment.
    save_folder : Path or None
        Its checkpoints, which come first; None: ``save/`` in it.
    """
    if any((save_folder or folder / "save").glob("CKPT*")):
        return False
    return (folder / MANIFEST).is_file() and (folder / WEIGHTS).is_file()
