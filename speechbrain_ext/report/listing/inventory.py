"""Find recipes, experiments and results, and say how far each has come."""

from __future__ import annotations

import fcntl
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import read_json
from speechbrain_ext.report.headline import headline, peek_results
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.resume.history import read_history
from speechbrain_ext.unpacked import is_unpacked

_RESULTS = re.compile(r"Results:\s*(\S+?)\.?(?:\s|$)")
_EPOCHS = re.compile(r"^number_of_epochs: (\d+)$", re.M)


# -- recipes ---------------------------------------------------------------------------


def list_recipes(root: Path) -> list[dict[str, Any]]:
    """List the runnable recipes of a checkout.

    Returns
    -------
    list of dict
        ``name`` as ``--recipe`` takes it, ``task``, ``about`` (the first sentence of
        its header), ``results`` (path from the checkout, or None).
    """
    found = []
    for path in sorted((root / "recipes").glob("*/*.yaml")):
        header = " ".join(_header(path.read_text(encoding="utf-8")))
        results = _RESULTS.search(header)
        about = re.split(r"(?<=[.:])\s", header, maxsplit=1)[0].rstrip(".:")
        found.append(
            {
                "name": f"{path.parent.name}/{path.stem}",
                "task": path.parent.name,
                "about": about,
                "results": results[1] if results else None,
            }
        )
    return found


def _header(text: str) -> Iterator[str]:
    """Yield the lines of the comment that a file begins with."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line.lstrip("# ").strip()


# -- experiments -----------------------------------------------------------------------


def list_experiments(root: Path, here: Path) -> list[dict[str, Any]]:
    """List the experiments of a checkout, and those in and below a folder's ``exp``.

    Arguments
    ---------
    root : Path
        The checkout: ``egs/*/exp/*``.
    here : Path
        Where the user stands.

    Returns
    -------
    list of dict
        See `describe_experiment`.
    """
    folders = [*root.glob("egs/*/exp/*"), *here.glob("exp/*"), *here.glob("*"), here]
    unique = {
        folder.resolve(): folder
        for folder in sorted(folders)
        if folder.is_dir() and _is_experiment(folder)
    }
    return [describe_experiment(folder) for folder in unique.values()]


def _is_experiment(folder: Path) -> bool:
    return (folder / "hyperparams.yaml").is_file() or (
        folder / ".stages" / "train.json"
    ).is_file()


def describe_experiment(folder: Path) -> dict[str, Any]:
    """Say how far an experiment has come.

    Returns
    -------
    dict
        ``path``, ``state`` (not trained, unpacked, training, interrupted, trained,
        scored),
        ``epoch`` and ``epochs``, ``rejected_batches``, ``left_out``, ``forced``
        (whether it was gone on with by force), ``figure``, ``when`` (of the last
        change, local time), ``problem`` (what could not be read).
    """
    log = folder / "train_log.txt"
    rows = read_train_log(log) if log.exists() else []
    epoch = max((int(row["epoch"]) for row in rows), default=None)
    asked = _EPOCHS.search(_text(folder / "hyperparams.yaml"))
    epochs = int(asked[1]) if asked else None
    figure, problem, is_stale = None, None, False
    results = folder / "results.json"
    try:
        found = peek_results(results)
        figure = headline(found) if found else None
        is_stale = bool(found) and _trained_since(found, epoch)
    except UserError as error:
        problem = str(error)
    trained = any((folder / "save").glob("CKPT*"))
    latest = [p.stat().st_mtime for p in (results, log) if p.exists()]
    history = read_history(folder)
    return {
        "path": str(folder),
        "state": _state(folder, trained, bool(figure) and not is_stale, epoch, epochs),
        "epoch": epoch,
        "epochs": epochs,
        "rejected_batches": len(list((folder / "debug_nan").glob("nan_batch_*.json"))),
        "left_out": _left_out(folder),
        "forced": any(entry.get("forced") for entry in history),
        "figure": f"{figure}, before the last training" if is_stale else figure,
        "when": _time(max(latest)) if latest else None,
        "problem": problem,
    }


def _trained_since(results: Mapping[str, Any], epoch: int | None) -> bool:
    """Whether the log has epochs that the results do not know of."""
    cost = results["conditions"].get("cost")
    scored = cost.get("epochs") if isinstance(cost, dict) else None
    return None not in (scored, epoch) and scored < epoch


def _state(folder: Path, trained: bool, scored: bool, epoch, epochs) -> str:
    status = read_json(folder / ".stages" / "train.json").get("status")
    if status == "running" and _is_locked(folder / ".stages" / "lock"):
        return "training"
    if not trained and is_unpacked(folder):
        return "scored" if _scored_here(folder) else "unpacked"
    if not trained:
        return "interrupted" if epoch else "not trained"
    is_whole = status == "done" or (
        status is None and None not in (epoch, epochs) and epoch >= epochs
    )
    if not is_whole:
        return "interrupted"
    return "scored" if scored else "trained"


def _scored_here(folder: Path) -> bool:
    """Whether results.json is no longer that of the bundle."""
    records = (folder / ".stages" / f"{stage}.json" for stage in ("evaluate", "score"))
    return any(read_json(record).get("status") == "done" for record in records)


def _is_locked(path: Path) -> bool:
    """Whether a run holds the folder now."""
    try:
        with open(path, encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _left_out(folder: Path) -> int:
    """Count the utterances in quarantine."""
    entries = read_json(folder / "quarantine.json").get("utterances")
    if not isinstance(entries, dict):
        return 0
    return sum(
        not (isinstance(e, dict) and e.get("taken_back")) for e in entries.values()
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


# -- results ---------------------------------------------------------------------------


def list_results(root: Path) -> list[dict[str, Any]]:
    """List the results that a checkout keeps, ``egs/*/results/*.json``.

    Returns
    -------
    list of dict
        ``path``, ``task``, ``figure``, ``digest`` (of the figures, or of the file
        where it has none of its own), ``created``, ``problem``.
    """
    found = []
    for path in sorted(root.glob("egs/*/results/*.json")):
        entry: dict[str, Any] = dict.fromkeys(
            ("path", "task", "figure", "digest", "created", "problem")
        )
        entry["path"] = str(path.relative_to(root))
        try:
            results = peek_results(path) or {}
            entry["task"] = results.get("task")
            entry["created"] = results.get("created")
            entry["digest"] = (
                results.get("digest") or hashlib.sha256(path.read_bytes()).hexdigest()
            )
            entry["figure"] = headline(results)
        except UserError as error:
            entry["problem"] = str(error)
        found.append(entry)
    return found
