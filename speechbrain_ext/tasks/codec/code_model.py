"""How likely codes are: learned after training, kept beside the checkpoints.

It belongs to the weights of one checkpoint, the best, and says so. The checkpoints stay
as training wrote them, so that a run can go on from the last.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.sharing.weights import read_weights, write_weights
from speechbrain_ext.tasks.settings import enough

FILE = "code_model.safetensors"
_PREFIX = "code_model."
_BELONGS_TO, _STEPS = "belongs_to", "steps"
#: Speech to learn from, in seconds; more changes next to nothing.
_ENOUGH_SECONDS = 1800.0


def has_codes(codec: torch.nn.Module) -> bool:
    """Whether a codec has codes of which something can be learned."""
    return hasattr(codec, "code_model")


def learn_code_model(
    codec: torch.nn.Module,
    save_folder: Path,
    train_set: Mapping[str, Utterance],
    *,
    steps: int,
    seed: int,
    shown_progress,
) -> float:
    """Learn how likely the codes of the best checkpoint are, unless that is known.

    Arguments
    ---------
    codec : torch.nn.Module
        With the weights of any checkpoint; left as it is.
    save_folder : Path
        With the checkpoints; gets `FILE`.
    train_set : Mapping[str, Utterance]
    steps : int
        Of learning; 0: nothing is learned.
    seed : int
    shown_progress : callable
        ``(title, total)`` -> context manager that gives ``{"progress": callable}``.

    Returns
    -------
    float
        Seconds that it took.
    """
    from speechbrain_ext.models.code_files import learn_codes
    from speechbrain_ext.tasks.codec.weights import load_best

    if not (steps and has_codes(codec) and if_main_process()):
        return 0.0
    started = time.monotonic()
    best = copy.deepcopy(codec).cpu().eval()
    load_best(best, save_folder)
    if best.code_model is not None and _steps_of(save_folder / FILE) == steps:
        return 0.0
    best.code_model = None
    belongs_to = _digest(best)
    waves = [read_samples(u) for u in enough(train_set, seed, _ENOUGH_SECONDS)]
    with shown_progress("learn how likely codes are", steps) as options:
        learn_codes(best, waves, steps=steps, seed=seed, **options)
    tensors = {
        name: value
        for name, value in best.state_dict().items()
        if name.startswith(_PREFIX)
    }
    tensors |= {_BELONGS_TO: belongs_to, _STEPS: torch.tensor(steps)}
    write_weights(save_folder / FILE, tensors)
    return time.monotonic() - started


def attach_code_model(codec: torch.nn.Module, save_folder: Path) -> None:
    """Give a codec what was learned of its codes, if that was of these weights."""
    path = save_folder / FILE
    if not has_codes(codec) or not path.exists():
        return
    tensors = read_weights(path)
    tensors.pop(_STEPS, None)
    if torch.equal(tensors.pop(_BELONGS_TO, torch.empty(0)), _digest(codec)):
        codec.load_state_dict({**codec.state_dict(), **tensors})


def _steps_of(path: Path) -> int | None:
    """Return the steps that a file was learned in; None if it is not there."""
    return int(read_weights(path).get(_STEPS, -1)) if path.exists() else None


def _digest(codec: torch.nn.Module) -> torch.Tensor:
    return torch.tensor(list(codec.digest()), dtype=torch.uint8)
