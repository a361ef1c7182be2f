"""Read a dump of a rejected batch, or say in a sentence why it can't be read.

The schema is told in `dump`.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from speechbrain_ext import __version__
from speechbrain_ext.brain.forensics.packing import batch_paths, rebuild
from speechbrain_ext.errors import UserError

SCHEMA = 2
NAME = re.compile(r"nan_batch_(\d+)_epoch_(\d+)(?:_rank(\d+))?(?:_(\d+))?")


class DumpError(UserError):
    """A file that is no dump, or one that lacks what was asked of it."""


def dumps_in(folder: str | Path) -> list[Path]:
    """List the dumps of a folder in the order of training: epoch, batch, rank, number.

    Arguments
    ---------
    folder : str or Path
        Such as ``debug_nan`` of an experiment.

    Returns
    -------
    list of Path
        The ``.pt`` files, also those of which only the ``.json`` is there.
    """
    found = {}
    for path in Path(folder).glob("nan_batch_*"):
        match = NAME.fullmatch(path.stem)
        if match and path.suffix in (".pt", ".json"):
            batch, epoch, rank, number = (int(part or 0) for part in match.groups())
            found[path.with_suffix(".pt")] = (epoch, batch, rank, number)
    return sorted(found, key=found.__getitem__)


@dataclass(frozen=True)
class Dump:
    """One dump as read; the attributes are the keys of the module's table.

    Attributes
    ----------
    path : Path
        The ``.pt`` file.
    notes : list of str
        What is missing or unusual about its files.
    """

    path: Path
    schema: int
    batch: int
    epoch: int
    cause: str
    loss: float
    grad_norm: float
    items: dict[str, Any]
    lengths: dict[str, torch.Tensor]
    precision: str | None = None
    utt_ids: list[str] = field(default_factory=list)
    paths: list[str] | None = None
    incident: str | None = None
    weights_name: str | None = None
    structure: dict[str, Any] | None = None
    statistics: dict[str, dict] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)
    diagnosis: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    fingerprint: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the file without its suffix."""
        return self.path.stem

    def load_weights(self) -> dict[str, Any]:
        """Read the state before the batch: name -> tensor or number.

        Raises
        ------
        DumpError
            If there is none, or the file is missing or broken.
        """
        if self.weights_name is None:
            why = [line for line in self.left_out if line.startswith("the weights")]
            raise DumpError(
                f"{self.path}: written without the weights before the batch"
                + (f" ({why[0]})" if why else "")
                + "; set nan_guard.dump_weights: true and a larger "
                "nan_guard.max_dump_megabytes, and let it happen again"
            )
        path = self.path.parent / self.weights_name
        if not path.exists():
            raise DumpError(
                f"{self.path}: its weights are missing; put {path.name} back beside "
                "it (a dump is copied together with its state_*.pt)"
            )
        held = _load(path)
        if not isinstance(held, dict) or not isinstance(held.get("weights"), dict):
            raise DumpError(f"{path}: holds no weights of a dump")
        return held["weights"]


def _load(path: Path) -> Any:
    """Read a file of tensors, or say in one sentence why it can't be read."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(2)
        size = path.stat().st_size
    except OSError as error:
        raise DumpError(f"{path}: can't be read: {error.strerror}") from error
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch has many words for a broken file
        why = f"is no dump of the guard, or damaged ({size} bytes)"
        if not size:
            why = "is empty"
        elif start == b"PK" and not zipfile.is_zipfile(path):
            why = f"is cut off ({size} bytes are there); copy it again"
        elif "weights_only" in str(error).lower():
            why = "holds Python objects, so it is no dump of the guard"
        raise DumpError(f"{path}: {why}") from error


def read_dump(path: str | Path) -> Dump:
    """Read a dump; needs neither the training's code nor its data.

    Arguments
    ---------
    path : str or Path
        Its ``.pt`` or ``.json`` file.

    Returns
    -------
    Dump
        Schema 2, or schema 1 with what that had.

    Raises
    ------
    DumpError
        If there is no such file, or it is no dump, is damaged, or has another schema.
    """
    given = Path(path)
    path = given.with_suffix(".pt") if given.suffix == ".json" else given
    if path.is_dir():
        raise DumpError(f"{path}: is a folder; name a nan_batch_*.pt in it")
    if not path.exists():
        beside = given != path and given.exists()
        raise DumpError(
            f"{path}: no such file"
            + (f"; {given.name} holds only the text of it" if beside else "")
        )
    held = _load(path)
    if not isinstance(held, dict) or not {"schema", "items", "cause"} <= held.keys():
        what = "weights before a batch" if _is_state(held) else type(held).__name__
        raise DumpError(
            f"{path}: is no dump of the guard ({what}); dumps are named "
            "nan_batch_<batch>_epoch_<epoch>.pt"
        )
    if held["schema"] not in (1, SCHEMA):
        raise DumpError(
            f"{path}: has schema {held['schema']}, and speechbrain-ext {__version__} "
            f"reads 1 and {SCHEMA}; install a newer one"
        )
    notes = []
    if held["schema"] == 1:
        held = _from_schema_1(held, _read_text(path.with_suffix(".json"), notes))
        notes.append(
            "schema 1: without structure, weights and diagnosis; it can be analysed "
            "but not replayed"
        )
    elif not path.with_suffix(".json").exists():
        notes.append(f"{path.stem}.json is missing; everything is in the .pt as well")
    try:
        held["weights_name"] = held.pop("weights", None)
        known = Dump.__dataclass_fields__.keys() - {"path", "notes"}
        return Dump(path=path, notes=notes, **{k: held[k] for k in known if k in held})
    except TypeError as error:
        lacking = str(error).rpartition(":")[2].strip()
        raise DumpError(f"{path}: is damaged, it lacks {lacking}") from error


def _is_state(held: Any) -> bool:
    return isinstance(held, dict) and {"schema", "weights", "incident"} <= held.keys()


def _read_text(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append(f"{path.name} is missing: what the report said is not known")
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} can't be read ({error})")
    return {}


def _from_schema_1(held: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Bring a dump of schema 1 and its text into the form of schema 2."""
    named = ("precision", "versions", "statistics")
    report = {
        key: value
        for key, value in text.items()
        if key not in {*held, *named, "left_out"}
    }
    return {
        **held,
        **{key: text[key] for key in named if key in text},
        "left_out": [text["left_out"]] if "left_out" in text else [],
        "paths": batch_paths(held["items"]),
        "report": report,
    }


def rebuild_batch(dump: Dump) -> Any:
    """Put the batch of a dump together again.

    Arguments
    ---------
    dump : Dump
        As `read_dump` returned it.

    Returns
    -------
    Any
        The same kind of batch with the same keys, tensors on the CPU; see `rebuild`.

    Raises
    ------
    DumpError
        If the dump does not hold the whole batch.
    """
    if dump.structure is None:
        raise DumpError(
            f"{dump.path}: schema {dump.schema} does not say how its batch was built; "
            "it can be analysed (speechbrain-ext analyze-nan) but not replayed"
        )
    try:
        return rebuild(dump.structure, dump.items, dump.lengths)
    except KeyError as error:
        why = "; ".join(dump.left_out) or "damaged"
        raise DumpError(
            f"{dump.path}: item {error} of the batch is not in it ({why}); a larger "
            "nan_guard.max_dump_megabytes keeps it"
        ) from error
