"""Ranges of the plain numbers of a recipe, for all tasks; known without torch.

``run.sh`` holds a recipe against them before its first stage, and training does again,
before it sets anything up. What depends on the machine or on the data is checked there
alone (`speechbrain_ext.tasks.settings`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Key -> the smallest and the largest value (None: any).
_CLOSED: dict[str, tuple[float, float | None]] = {
    "batch_size": (1, None),
    "crops_per_epoch": (1, None),
    "num_workers": (0, None),
    "num_threads": (0, None),
    "test_interval": (1, None),
    "number_of_epochs": (1, None),
    "average_checkpoints": (0, None),
    "balance": (0, 1),
    "utterance_balance": (0, 1),
    "noise_prob": (0, 1),
    "reverb_prob": (0, 1),
    "eq_prob": (0, 1),
}

#: Keys whose value must be larger than 0.
_POSITIVE = ("crop_seconds", "learning_rate", "scale")

#: A folder that is of use only with a probability.
_FOLDERS = {"noise_folder": "noise_prob", "rir_folder": "reverb_prob"}


def range_faults(values: Mapping[str, Any]) -> list[str]:
    """Name the top-level values of a recipe with which nothing can be trained.

    Arguments
    ---------
    values : Mapping[str, object]
        Key -> value; what is there and is a number is looked at.

    Returns
    -------
    list of str
        One line for each fault; empty if there is none.

    Example
    -------
    >>> range_faults({"noise_prob": 2, "batch_size": 8, "noise_folder": None})
    ['noise_prob must be in [0, 1], got 2']
    >>> len(range_faults({"rir_folder": "rooms", "reverb_prob": 0.0}))
    1
    """
    faults = []
    for name, (least, most) in _CLOSED.items():
        value = values.get(name)
        if not _is_number(value):
            continue
        if most is None and not value >= least:
            faults.append(f"{name} must be >= {least}, got {value}")
        elif most is not None and not least <= value <= most:
            faults.append(f"{name} must be in [{least}, {most}], got {value}")
    for name in _POSITIVE:
        value = values.get(name)
        if _is_number(value) and not 0 < value < float("inf"):
            faults.append(f"{name} must be > 0, got {value}")
    average, epochs = values.get("average_checkpoints"), values.get("number_of_epochs")
    if _is_number(average) and _is_number(epochs) and average > max(0, epochs):
        faults.append(
            f"average_checkpoints must be from 0 to number_of_epochs ({epochs}), got "
            f"{average}"
        )
    if str(values.get("task", "")).endswith(".speaker"):
        faults += _speaker_faults(values)
    for folder, chance in _FOLDERS.items():
        if values.get(folder) and values.get(chance) == 0:
            faults.append(
                f"{folder} {values[folder]}: nothing would be taken from it, since "
                f"{chance} is 0; give --{chance}=0.5, or no folder"
            )
    return faults


def _speaker_faults(values: Mapping[str, Any]) -> list[str]:
    faults = []
    if values.get("batch_size") == 1:
        faults.append("batch_size must be >= 2: BatchNorm has no variance of one")
    speeds, margin = values.get("speeds"), values.get("margin")
    if isinstance(speeds, (list, tuple)) and all(map(_is_number, speeds)):
        good = speeds and speeds[0] == 1 and min(speeds) > 0
        if not good or len({*speeds}) < len(speeds):
            faults.append(
                f"speeds must begin with 1.0, all > 0 and different; got {list(speeds)}"
            )
    if _is_number(margin) and not 0 <= margin <= math.pi / 2:
        faults.append(f"margin must be an angle in [0, pi/2], got {margin}")
    return faults


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
