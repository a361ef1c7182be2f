"""Read the lines that SpeechBrain's ``FileTrainLogger`` writes, one per epoch."""

from __future__ import annotations

import os
import re
from pathlib import Path


def read_train_log(path: str | os.PathLike) -> list[dict[str, float]]:
    r"""Parse a ``train_log.txt``.

    Arguments
    ---------
    path : str or PathLike
        A file with lines like ``epoch: 1, lr: 1.00e-03 - train loss: 2.31 - valid
        snr: 9.10``.

    Returns
    -------
    list of dict
        One per line, in order: ``{"epoch": 1.0, "lr": 1e-3, "train loss": 2.31, ...}``.
        Items that are no number, and a last line that was cut off, are passed over.
        Of an epoch that was repeated after an interruption, the last line counts.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as log:
    ...     _ = log.write("epoch: 1 - train loss: 2.31, train vq: 1.00e-01\n")
    ...     log.flush()
    ...     read_train_log(log.name)
    [{'epoch': 1.0, 'train loss': 2.31, 'train vq': 0.1}]
    """
    epochs: dict[float, dict[str, float]] = {}
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        row = {}
        for item in re.split(r", | - (?=train |valid |test )", line):
            name, _, value = item.rpartition(": ")
            try:
                row[name] = float(value)
            except ValueError:
                continue
        if "epoch" in row:
            epochs.pop(row["epoch"], None)
            epochs[row["epoch"]] = row
    return list(epochs.values())
