"""Start again in an experiment: what changed, whether it fits, what can be loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.config import Recipe
from speechbrain_ext.config.dotted import text_settings
from speechbrain_ext.data.manifest import Utterance, content_hash
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.resume.changes import (
    Change,
    Kind,
    data_changes,
    setting_changes,
    settle,
)
from speechbrain_ext.resume.history import read_data_record

#: Torch's reasons are cut to so many letters.
_LENGTH = 200


@dataclass(frozen=True)
class Past:
    """What an experiment's folder says of its earlier runs.

    Arguments
    ---------
    changes : list of Change
        What is different now; empty without a checkpoint.
    epochs_done : int
        Epochs in its log.
    data : dict
        What the manifests are now, for the next time.
    """

    changes: list[Change] = field(default_factory=list)
    epochs_done: int = 0
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def forced(self) -> bool:
        """Whether it goes on only because somebody wants it to."""
        return any(change.kind is Kind.SERIOUS for change in self.changes)


def look_back(
    recipe: Recipe, data: Mapping[str, Any], harmless: Mapping[str, str]
) -> Past:
    """Compare a recipe and its data with those that the experiment was trained with.

    Arguments
    ---------
    recipe : Recipe
        Its ``output_folder`` is the experiment.
    data : Mapping
        As `describe_data` returns it.
    harmless : Mapping
        Settings that may change; see `speechbrain_ext.resume.changes.HARMLESS`.
    """
    folder = Path(recipe.hparams["output_folder"])
    resolved = folder / "hyperparams.yaml"
    if not any((folder / "save").glob("CKPT*")) or not resolved.exists():
        return Past(data=dict(data))
    log = folder / "train_log.txt"
    rows = read_train_log(log) if log.exists() else []
    epochs_done = max((int(row["epoch"]) for row in rows), default=0)
    changes = setting_changes(
        text_settings(resolved.read_text(encoding="utf-8"), str(resolved)),
        text_settings(recipe.resolved_yaml, str(recipe.path)),
        harmless=harmless,
        epochs_done=epochs_done,
    )
    changes += data_changes(read_data_record(folder), data)
    return Past(changes, epochs_done, dict(data))


def describe_data(sets: Mapping[str, Mapping[str, Utterance]]) -> dict[str, Any]:
    """Return size and hash of manifests, by their keys in the recipe."""
    return {
        key: {"utterances": len(found), "hash": content_hash(found)}
        for key, found in sets.items()
    }


def guard_resume(recipe: Recipe, brain: NaNSafeBrain, past: Past, force: bool) -> None:
    """Refuse to mix two experiments; tell what changed where going on is allowed.

    Under ``force`` the Brain is told to load what can be loaded: weights, moments of
    the optimizer (with the new settings, or none if it is another optimizer); the
    epoch that was begun is begun again.

    Arguments
    ---------
    recipe : Recipe
        Of the run that starts.
    brain : NaNSafeBrain
        Made of it; nothing is loaded yet.
    past : Past
        As `look_back` returns it.
    force : bool
        ``--force_resume``.

    Raises
    ------
    UserError
        If going on is impossible, or needs ``force``.
    """
    misfits = shape_misfits(brain) if past.forced else []
    notice = settle(
        str(recipe.hparams["output_folder"]),
        past.changes,
        epochs_done=past.epochs_done,
        misfits=misfits,
        force=force,
    )
    if notice and if_main_process():
        print(notice, file=sys.stderr)
    if past.forced:
        brain.checkpointer.allow_partial_load = True
        brain.checkpointer.custom_load_hooks["optimizer"] = load_moments
        brain.checkpointer.custom_load_hooks["dataloader-TRAIN"] = _load_nothing


def shape_misfits(brain: NaNSafeBrain) -> list[str]:
    """List what of the newest checkpoint does not fit the Brain's modules.

    The modules themselves say so, by loading it: some have buffers that grow, and take
    other shapes. What they have loaded then is loaded once more by the Brain.
    """
    found = brain.checkpointer.find_checkpoint()
    if found is None:
        return []
    lines = []
    for name, module in brain.checkpointer.recoverables.items():
        path = found.paramfiles.get(name)
        if path is None or not isinstance(module, torch.nn.Module):
            continue
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a broken file is told, by its name, when it is loaded
            continue
        try:
            module.load_state_dict(saved)
        except RuntimeError as error:
            odd = [line.strip() for line in str(error).splitlines()[1:]]
            more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            lines.append(f"{name}: {_shortened(odd[0] if odd else str(error))}{more}")
    return lines


def _shortened(text: str) -> str:
    text = text.replace("torch.Size", "").removesuffix(".")
    return text if len(text) <= _LENGTH else text[:_LENGTH] + " ..."


def load_moments(optimizer: torch.optim.Optimizer, path, end_of_epoch) -> None:
    """Load an optimizer's moments but not its settings, which are the recipe's.

    ``load_state_dict`` alone would bring back the old learning rate, betas and weight
    decay. Moments of another kind of optimizer, or of other parameters, are left out.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True)
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    same_kind = [set(g) - {"params"} for g in saved["param_groups"]] == list(
        map(set, groups)
    )
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if not same_kind or sizes != [len(g["params"]) for g in saved["param_groups"]]:
        return
    optimizer.load_state_dict(saved)
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update(settings)


def _load_nothing(loader, path, end_of_epoch) -> None:
    """Begin the epoch again: its batches are others now."""
