"""A rejected batch on disk: ``nan_batch_<batch>_epoch_<epoch>.pt`` and ``.json``.

The ``.pt`` file loads with ``torch.load(path, weights_only=True)`` and holds plain
dicts, lists, tuples, numbers, text and tensors only. Schema 2:

=================  ===================================================================
``schema``         2
``batch, epoch``   int: 1-based position in its epoch, and the epoch
``cause``          str: what the guard saw, see `Verdict`
``loss``           float, and ``grad_norm``: as computed, NaN and Inf included
``precision``      str: ``fp32``, ``fp16`` or ``bf16``; None if not known
``utt_ids``        list of str, and ``paths`` (list of str, or None): as in the batch
``incident``       str: consecutive rejects of one state share it
``weights``        str: name of ``state_<incident>.pt`` beside the dump, or None
``items``          name -> tensor or plain value: the batch
``lengths``        name -> relative lengths [batch] of padded items
``structure``      how to put the batch together again: see `packing`
``statistics``     name -> see `tensor_statistics`
``random``         streams before the batch: ``torch_cpu``, ``torch_cuda``,
                   ``python``, ``numpy``
``diagnosis``      dict: cause, module, culprits, recommendation; empty if none
``report``         dict: ``inputs`` (lines), ``gradients`` (`gradient_statistics`),
                   ``buffers`` (names), and what else was found
``context``        dict: config hash, step, optimizer step, rank, recipe, task ...
``versions``       dict: speechbrain_ext, torch, speechbrain, numpy, python
``left_out``       list of str: what is not here and why (too large, no plain data)
``fingerprint``    str: two dumps of the same happening have the same one
=================  ===================================================================

The ``.json`` beside it holds the same facts without ``items``, ``lengths``,
``structure`` and ``random``, with ``report`` spread out, and ``"nan"`` or ``"inf"``
as text; it can be read without torch. ``state_<incident>.pt`` holds ``schema``,
``incident``, ``fingerprint`` and ``weights`` (name -> tensor or number): the state
before the batch. Schema 1 had no structure, weights, diagnosis and streams beside
``torch_cpu``; it is still read.

Every file is whole or not there. Dumps of ranks other than 0 are named
``..._rank<r>``. A place that holds a dump of another happening (an earlier run) keeps
it: the new one gets ``_2`` at its end. The same happening is not written twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy
import speechbrain
import torch

from speechbrain_ext import __version__
from speechbrain_ext.brain.batches import utterance_ids
from speechbrain_ext.brain.forensics.dump_reader import (
    SCHEMA,
    Dump,
    DumpError,
    dumps_in,
    read_dump,
    rebuild_batch,
)
from speechbrain_ext.brain.forensics.packing import (
    PackedBatch,
    batch_paths,
    builtin,
    num_bytes,
    pack_batch,
)
from speechbrain_ext.brain.forensics.statistics import tensor_statistics
from speechbrain_ext.brain.verdict import Verdict
from speechbrain_ext.files import atomic_path

#: A temporary file of this age was left by a process that was killed.
_STALE_SECONDS = 3600.0

__all__ = [
    "Dump",
    "DumpError",
    "dumps_in",
    "finite_or_text",
    "read_dump",
    "rebuild_batch",
    "write_dump",
]


def finite_or_text(value: Any) -> Any:
    """Make JSON of floats that JSON has no word for: ``"nan"``, ``"inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): finite_or_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_text(item) for item in value]
    return value


def plain_facts(value: Any) -> Any:
    """Make plain data of facts: what has no plain form becomes text.

    Tensors stay, detached and on the CPU; dataclasses become dicts.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {_plain_key(key): plain_facts(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain_facts, value))
    if isinstance(value, (list, set, frozenset)):
        return list(map(plain_facts, value))
    if isinstance(value, numpy.ndarray):
        return plain_facts(value.tolist())
    try:
        return builtin(value)
    except TypeError:
        return str(value)


def _plain_key(key: Any) -> Any:
    plain = plain_facts(key)
    return plain if isinstance(plain, (str, int, float, tuple)) else str(key)


def fingerprint(facts: Any, tensors: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of plain facts and of the bits of tensors."""
    digest = hashlib.sha256(json.dumps(finite_or_text(facts)).encode())
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor!r}".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        dense = tensor.detach().cpu().to_dense().contiguous().reshape(-1)
        digest.update(dense.view(torch.uint8).numpy())
    return digest.hexdigest()


def write_dump(
    folder: Path,
    batch: Any,
    verdict: Verdict,
    *,
    batch_index: int,
    epoch: int,
    diagnosis: dict[str, Any] | None = None,
    report: dict[str, Any] | None = None,
    random: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
    incident: str | None = None,
    max_megabytes: float = math.inf,
) -> Path:
    """Write one rejected batch, after its state was put back.

    Arguments
    ---------
    folder : Path
        ``debug_nan`` of the experiment; made if missing.
    batch : Any
        The batch as the Brain got it.
    verdict : Verdict
        Why it was rejected.
    batch_index, epoch : int
        1-based position in the epoch, and the epoch.
    diagnosis : dict
        ``Diagnosis.as_dict()``.
    report : dict
        Findings: ``inputs`` (lines), ``gradients`` (`gradient_statistics`),
        ``buffers`` (names), whatever else.
    random : dict
        Random streams before the batch, ``RandomStreams.state_dict()``.
    context : dict
        Where it happened: ``precision``, ``config_hash``, ``step``,
        ``optimizer_step``, ``rank``, ``recipe``, ``task``, ``sample_rate`` (Hz),
        ``label_ranges`` (item -> number of classes); each may be missing.
    weights : Mapping or None
        Name -> tensor or number: the state before the batch. Written once for each
        state of an incident; None: an earlier file of the same incident is named.
    incident : str or None
        Name of the incident; None: that of the place.
    max_megabytes : float
        Limit of batch and weights together. What does not fit is left out, the
        weights first, and ``left_out`` says so.

    Returns
    -------
    Path
        The ``.pt`` file; an existing one if it holds this very happening.

    Raises
    ------
    OSError, RuntimeError
        If it can't be written; nothing is left behind.
    """
    folder = Path(folder)
    packed = pack_batch(batch)
    context = plain_facts(context or {})
    report = plain_facts(report or {})
    rank = context.get("rank") or 0
    name = f"nan_batch_{batch_index}_epoch_{epoch}" + (f"_rank{rank}" if rank else "")
    incident = re.sub(r"[^\w.+-]+", "_", incident or name.removeprefix("nan_"))
    random = plain_facts(random or {})
    facts = {
        "schema": SCHEMA,
        "batch": int(batch_index),
        "epoch": int(epoch),
        "cause": verdict.cause,
        "loss": float(verdict.loss),
        "grad_norm": float(verdict.grad_norm),
        "precision": context.get("precision", report.get("precision")),
        "utt_ids": utterance_ids(batch),
        "paths": batch_paths(packed.items),
    }
    statistics = {
        key: tensor_statistics(item)
        for key, item in packed.items.items()
        if isinstance(item, torch.Tensor)
    }
    same = {k: context.get(k) for k in ("config_hash", "step", "optimizer_step")}
    facts["fingerprint"] = fingerprint(
        [facts, statistics, same], {"torch_cpu": random.get("torch_cpu")}
    )
    path, written = _place(folder, name, facts["fingerprint"], weights is not None)
    if written:
        return path
    left_out = list(packed.left_out)
    room = max_megabytes - packed.nbytes / 1e6
    if room < 0:
        left_out.append(_too_large("the batch's tensors", packed.nbytes, max_megabytes))
        packed = _without_tensors(packed)
        room = max_megabytes
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    state, state_is_new = _write_weights(
        folder, weights, incident + (f"_rank{rank}" if rank else ""), room, left_out
    )
    text = {
        **facts,
        "incident": incident,
        "weights": state,
        "diagnosis": plain_facts(diagnosis or {}),
        "context": context,
        "statistics": statistics,
        "versions": _versions(),
        "left_out": left_out,
    }
    packed = packed.to_memory()
    whole = {
        **text,
        "report": report,
        "items": packed.items,
        "lengths": packed.lengths,
        "structure": packed.structure,
        "random": random,
    }
    try:
        # The .pt moves into its place first: it is complete without the .json.
        with atomic_path(path.with_suffix(".json")) as temporary:
            _write_text(temporary, {**text, **report, **text})
            with atomic_path(path) as tensors:
                torch.save(whole, tensors)
    except BaseException:
        if state_is_new:
            (folder / state).unlink(missing_ok=True)
        raise
    return path


def _versions() -> dict[str, str]:
    return {
        "speechbrain_ext": __version__,
        "speechbrain": str(speechbrain.__version__),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "numpy": str(numpy.__version__),
        "python": platform.python_version(),
    }


def _write_text(path: Path, facts: dict[str, Any]) -> None:
    text = json.dumps(
        finite_or_text(facts),
        indent=1,
        ensure_ascii=False,
        allow_nan=False,
        default=lambda tensor: finite_or_text(tensor.tolist()),
    )
    path.write_text(text + "\n", encoding="utf-8")


def _too_large(what: str, nbytes: float, limit: float) -> str:
    return f"{what}: {nbytes / 1e6:.3g} MB (limit {limit:.3g} MB)"


def _without_tensors(packed: PackedBatch) -> PackedBatch:
    plain = {
        key: item
        for key, item in packed.items.items()
        if not isinstance(item, torch.Tensor)
    }
    return PackedBatch(plain, {}, packed.structure, packed.left_out)


def _place(folder: Path, name: str, mark: str, weights: bool) -> tuple[Path, bool]:
    """Where to write, and whether that very happening is there already."""
    path, number = folder / f"{name}.pt", 1
    while path.exists() or path.with_suffix(".json").exists():
        try:
            text = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            same = path.exists() and text.get("fingerprint") == mark
            held = text.get("weights")
            if same and (not weights or (held and (folder / held).exists())):
                return path, True
            if same:  # now with the weights that it lacked
                return path, False
        except (OSError, ValueError, AttributeError):
            pass  # a broken or foreign file: it stays as it is
        number += 1
        path = folder / f"{name}_{number}.pt"
    return path, False


def _write_weights(
    folder: Path,
    weights: Mapping[str, Any] | None,
    incident: str,
    room: float,
    left_out: list[str],
) -> tuple[str | None, bool]:
    """Write the weights unless they are there; return the file, and if it is new."""
    path, number, earlier = folder / f"state_{incident}.pt", 1, None
    mark = fingerprint("weights", weights) if weights is not None else None
    while path.exists():
        held = _held_fingerprint(path)
        if held is not None and held == mark:
            return path.name, False
        earlier = path.name if held else earlier
        number += 1
        path = folder / f"state_{incident}_{number}.pt"
    if weights is None:
        return earlier, False
    size = num_bytes(weights.values())
    if size > room * 1e6:
        left_out.append(_too_large("the weights before the batch", size, room))
        return None, False
    with atomic_path(path) as temporary:
        torch.save(
            {
                "schema": SCHEMA,
                "incident": incident,
                "fingerprint": mark,
                "weights": plain_facts(weights),
            },
            temporary,
        )
    return path.name, True


def _held_fingerprint(path: Path) -> str | None:
    """Fingerprint of a file of weights, without reading the weights."""
    try:
        held = torch.load(path, weights_only=True, map_location="meta", mmap=True)
        return held["fingerprint"]
    except Exception:  # cut off, or not ours
        return None


def _sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left here."""
    for pattern in (".nan_batch_*", ".state_*"):
        for path in folder.glob(pattern):
            try:
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except OSError:  # another rank was faster
                pass
