"""All that a later batch, a checkpoint or a reader of a log could notice of a run."""

from __future__ import annotations

import random
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import numpy
import torch
import yaml
from torch import nn

#: Attributes of a Brain that are not compared: the loggers' lines and the checkpoints
#: are, by `files_of`.
NOT_STATE = {"checkpointer", "profiler", "train_logger", "train_sampler"}
#: The one file that NaNSafeBrain adds to a checkpoint. (The loader's file is not
#: compared either: it counts the batches that were delivered, bad ones too.)
OWN = "nan_guard"


def state_of(brain) -> dict:
    """Flatten everything that a run leaves: name -> tensor, number or text.

    Walks the whole object graph of the Brain, so that no list of names, which the
    code under test could share, decides what is compared.
    """
    found: dict = {}
    seen: dict[int, object] = {}  # keeps what it has seen, or an id would come again

    def walk(name: str, value) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value.detach().clone()
            if value.is_leaf and value.grad is not None:
                found[f"{name}.grad"] = value.grad.clone()
        elif isinstance(value, numpy.ndarray):
            found[name] = torch.from_numpy(value.copy())
        elif value is None or isinstance(value, (bool, int, float, str)):
            found[name] = value
        elif isinstance(value, (FunctionType, ModuleType, type)) or id(value) in seen:
            return
        elif isinstance(value, dict):
            seen[id(value)] = value
            for key, item in value.items():
                walk(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple, set)):
            seen[id(value)] = value
            found[f"{name}.len"] = len(value)
            for index, item in enumerate(value):
                walk(f"{name}.{index}", item)
        elif isinstance(value, torch.optim.Optimizer):
            seen[id(value)] = value
            walk(name, value.state_dict())
        elif isinstance(value, nn.Module):
            seen[id(value)] = value
            for key in ("_parameters", "_buffers", "_modules"):
                walk(name, dict(vars(value)[key]))
            plain = {k: v for k, v in vars(value).items() if not k.startswith("_")}
            walk(name, plain)
        elif hasattr(value, "__dict__") and (
            isinstance(value, SimpleNamespace)
            or type(value).__module__.startswith(("speechbrain.", "torch.optim"))
        ):
            seen[id(value)] = value
            walk(name, vars(value))

    for name, value in vars(brain).items():
        if name in NOT_STATE or name.startswith("_"):
            continue
        if name == "hparams":
            value = {k: v for k, v in vars(value).items() if k not in NOT_STATE}
        walk(name, value)
    walk("random", [torch.get_rng_state(), random.getstate()])
    walk("random.numpy", list(numpy.random.get_state()))
    return found


def files_of(brain, folder: Path) -> dict:
    """Flatten what a run has written: checkpoints by age, and the lines of its logs."""
    found: dict = {}
    if brain.checkpointer is not None:
        kept_ones = brain.checkpointer.list_checkpoints()
        for age, kept in enumerate(sorted(kept_ones, key=lambda kept: kept.path.name)):
            for key, value in kept.meta.items():
                if key != "unixtime":
                    found[f"checkpoint.{age}.meta.{key}"] = value
            for name, path in kept.paramfiles.items():
                if name != OWN and not name.startswith("dataloader"):
                    _flatten_file(f"checkpoint.{age}.{name}", Path(path), found)
    for path in sorted(folder.glob("*_log.txt")):
        found[path.name] = path.read_text(encoding="utf-8").replace(str(folder), "")
    return found


def _flatten_file(name: str, path: Path, found: dict) -> None:
    data = path.read_bytes()
    if data[:2] != b"PK":  # not torch.save's zip
        found[name] = yaml.safe_load(data.decode("utf-8"))
        return

    def walk(name, value):
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                walk(f"{name}.{index}", item)
        else:
            found[name] = value

    walk(name, torch.load(path, weights_only=False))


def differences(expected: dict, actual: dict) -> list[str]:
    """Names whose bits differ, NaN of the same bits being equal; [] is the promise."""
    names = [k for k in expected.keys() | actual.keys()]
    return sorted(
        name
        for name in names
        if name not in expected
        or name not in actual
        or not _equal(expected[name], actual[name])
    )


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(_bits(a), _bits(b))
        )
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    return type(a) is type(b) and a == b


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """View the memory itself: 0.0 and -0.0 differ, equal NaNs don't."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
