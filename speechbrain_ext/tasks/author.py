"""What the author of a bundle knew of the training, kept when it is scored elsewhere.

Who unpacks a bundle has its weights, but not the log and dumps of their training. So
counts and settings of the training come from the author's ``results.json``. That file
and the author's card are moved to ``author/``: beside new results they would be taken
for those of the new ones. ``manifest.json`` stays, since it vouches for the weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from speechbrain_ext.files import read_json, sha256_file
from speechbrain_ext.report.facts import fact_problems
from speechbrain_ext.unpacked import MANIFEST, is_unpacked

#: Below an experiment that came as a bundle: what is not of the new results.
AUTHOR = "author"
_RESULTS, _CARD = "results.json", "README.md"
#: Conditions of the training, of which nothing is here.
_OF_TRAINING = ("train_seconds", "cost", "resumed")


def tell_author(results: dict[str, Any], folder: Path, save_folder: Path) -> None:
    """Let results of a bundle's weights tell of the training what its author did.

    Arguments
    ---------
    results : dict
        New ones, before they are written; changed in place. Where the author's are not
        there, what is not known is None and not zero.
    folder : Path
        The experiment; the author's results and card are moved to ``author/``.
    save_folder : Path
        Its checkpoints: if there are any, the weights are of this machine, and nothing
        is done.
    """
    if not is_unpacked(folder, save_folder):
        return
    told = _set_aside(folder)
    conditions, known = results["conditions"], told.get("conditions", {})
    conditions["bundle"] = {
        "digest": sha256_file(folder / MANIFEST),
        # A bundle of a bundle: the first one tells how the weights were trained.
        "command": (known.get("bundle") or {}).get("command") or told.get("command"),
    }
    conditions |= {
        key: known[key] for key in _OF_TRAINING if known.get(key) is not None
    }
    results["health"] = dict.fromkeys(results["health"]) | told.get("health", {})
    results.pop("left_out", None)
    if told.get("left_out"):
        results["left_out"] = told["left_out"]


def _set_aside(folder: Path) -> dict[str, Any]:
    """Move what is the author's to a folder of its own; return the author's results."""
    files = read_json(folder / MANIFEST).get("files")
    files = files if isinstance(files, dict) else {}
    for name in (_RESULTS, _CARD):
        if _is_authors(folder / name, files):
            (folder / AUTHOR).mkdir(exist_ok=True)
            # The results stay until the new ones take their place.
            move = shutil.copy2 if name == _RESULTS else shutil.move
            move(folder / name, folder / AUTHOR / name)
    path = folder / AUTHOR / _RESULTS
    return _checked(read_json(path)) if _is_authors(path, files) else {}


def _is_authors(path: Path, files: dict[str, Any]) -> bool:
    known = files.get(path.name)
    return (
        isinstance(known, dict)
        and path.is_file()
        and sha256_file(path) == known.get("sha256")
    )


def _checked(told: dict[str, Any]) -> dict[str, Any]:
    """Keep of a stranger's results what has the shape of ours."""
    shapes = {"command": str, "conditions": dict, "health": dict, "left_out": list}
    kept = {key: told[key] for key in shapes if isinstance(told.get(key), shapes[key])}
    if fact_problems(kept.get("conditions", {})):
        del kept["conditions"]
    health = kept.get("health", {})
    kept["health"] = {k: v for k, v in health.items() if type(v) is int and v >= 0}
    return kept
