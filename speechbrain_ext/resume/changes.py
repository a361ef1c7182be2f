"""What is different from the last run in an experiment, and what that means.

Three answers: harmless (goes on, and says what happens then), serious (the result is
of no single configuration: goes on only under ``--force_resume``) and impossible (what
was trained does not fit, or is more than is asked for).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechbrain_ext.errors import UserError

#: Settings of any task that may change between two runs -> what happens then.
#: Where things are put (keys in folder, dir or manifest) is not compared at all; what
#: the manifests hold is.
HARMLESS = {
    "train_log": "new lines go to the new file",
    "num_workers": "the same batches, read by other processes",
    "num_threads": "the last bits of sums may differ from here on",
    "tensorboard": "events from here on",
    "wandb": "events from here on",
    "test_interval": "validated at other epochs from here on",
    "init_from": "not read: the first weights are there already",
    "ckpt_interval_minutes": "checkpoints in another rhythm",
    "ckpt_interval_steps": "checkpoints in another rhythm",
    "keep_quarantined": "from the next epoch on",
    "nan_guard.snapshot_every": "another rhythm from here on",
    "nan_guard.max_consecutive_rejects": "another limit from here on",
    "nan_guard.max_reject_rate": "another limit from here on",
    "nan_guard.rollback_after": "another limit from here on",
    "nan_guard.safer_after": "another limit from here on",
}
#: Number of epochs: more are harmless, fewer than are trained impossible.
EPOCHS = ("number_of_epochs", "epoch_counter.limit")

_ABSENT = "(absent)"


class Kind(enum.Enum):
    """What a change means for going on."""

    HARMLESS = "harmless"
    SERIOUS = "changes what is trained"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True)
class Change:
    """One setting, or one input, that is not what it was.

    Arguments
    ---------
    key : str
        Dotted key, or the key of a manifest.
    old, new : str
        As texts.
    kind : Kind
        What that means.
    note : str
        What happens then, or why not.
    """

    key: str
    old: str
    new: str
    kind: Kind
    note: str = ""

    def __str__(self) -> str:
        """Return one line: key, old and new, what it means."""
        note = f": {self.note}" if self.note else ""
        return f"{self.key}: {self.old} -> {self.new}  [{self.kind.value}{note}]"


def differing(
    old: Mapping[str, str], new: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Return key, old and new text of all that differ, in the order of ``new``.

    Example
    -------
    >>> differing({"a": "1", "b": "2"}, {"a": "1", "c": "3"})
    [('c', '(absent)', '3'), ('b', '2', '(absent)')]
    """
    keys = [*new, *(key for key in old if key not in new)]
    return [
        (key, old.get(key, _ABSENT), new.get(key, _ABSENT))
        for key in keys
        if old.get(key) != new.get(key)
    ]


def setting_changes(
    old: Mapping[str, str],
    new: Mapping[str, str],
    *,
    harmless: Mapping[str, str] = HARMLESS,
    epochs_done: int = 0,
) -> list[Change]:
    """Judge the settings that differ.

    Arguments
    ---------
    old, new : Mapping
        Dotted key -> text; see `speechbrain_ext.config.dotted`.
    harmless : Mapping
        Dotted key -> what happens then; what lies below such a key is harmless too.
    epochs_done : int
        Epochs that are trained.

    Returns
    -------
    list of Change
        In the order of ``new``.
    """
    changes = []
    for key, before, now in differing(old, new):
        if key in EPOCHS and before.isdigit() and now.isdigit():
            changes.append(_epoch_change(key, before, now, epochs_done))
            continue
        note = next((harmless[k] for k in _above(key) if k in harmless), None)
        kind = Kind.SERIOUS if note is None else Kind.HARMLESS
        changes.append(Change(key, before, now, kind, note or ""))
    return changes


def _above(key: str) -> Iterable[str]:
    """Return the key, then those of the sections that hold it."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _epoch_change(key: str, old: str, new: str, done: int) -> Change:
    if int(new) < done:
        note = f"{done} epochs are trained already"
        return Change(key, old, new, Kind.IMPOSSIBLE, note)
    note = (
        "schedules follow the new length, so the learning rate goes on where the "
        f"{'longer' if int(new) > int(old) else 'shorter'} one is at this step; a run "
        "of this length from nothing ends elsewhere"
    )
    return Change(key, old, new, Kind.HARMLESS, note)


def data_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Judge the contents of the manifests; all of them are serious.

    Arguments
    ---------
    old, new : Mapping
        Key of a manifest -> ``{"utterances": int, "hash": text}``. What ``old`` does
        not have was never recorded and is no change.
    """
    changes = []
    for key, now in new.items():
        before = old.get(key)
        if not isinstance(before, dict) or before.get("hash") == now["hash"]:
            continue
        texts = [
            f"{one.get('utterances')} utterances ({str(one['hash'])[:8]})"
            for one in (before, now)
        ]
        changes.append(Change(key, *texts, Kind.SERIOUS, "other data"))
    return changes


def settle(
    folder: str,
    changes: Sequence[Change],
    *,
    epochs_done: int,
    misfits: Sequence[str] = (),
    force: bool = False,
) -> str:
    """Decide whether to go on.

    Arguments
    ---------
    folder : str
        The experiment, for messages.
    changes : sequence of Change
        All that is different.
    epochs_done : int
        Epochs that are trained.
    misfits : sequence of str
        What of the checkpoint does not fit the model, a line each.
    force : bool
        ``--force_resume``.

    Returns
    -------
    str
        What to tell before going on; empty if nothing changed.

    Raises
    ------
    UserError
        If something serious changed without ``force``, or going on is impossible. The
        message has the difference and the next commands.
    """
    lines = [f"  {change}" for change in changes]
    impossible = bool(misfits) or any(c.kind is Kind.IMPOSSIBLE for c in changes)
    serious = any(change.kind is Kind.SERIOUS for change in changes)
    if impossible:
        raise UserError(
            "\n".join(
                [
                    f"train: {folder} cannot go on with these settings "
                    f"({_trained(epochs_done)}):",
                    *lines,
                    *(f"  {line}" for line in misfits),
                    f"  Next: {_ELSEWHERE}; --force_resume does not help here",
                ]
            )
        )
    if serious and not force:
        raise UserError(
            "\n".join(
                [
                    f"train: {folder} was trained with other settings "
                    f"({_trained(epochs_done)}):",
                    *lines,
                    f"  Next: {_ELSEWHERE}; or go on all the same, and the results "
                    "will say so (--force_resume)",
                ]
            )
        )
    if not changes:
        return ""
    how = " by --force_resume" if serious else ""
    head = f"{folder} goes on{how} with changed settings ({_trained(epochs_done)}):"
    return "\n".join([head, *lines])


_ELSEWHERE = (
    "an experiment of its own (--tag NAME), or this one from nothing (--stage train "
    "--force)"
)


def _trained(epochs: int) -> str:
    return f"{epochs} epoch{'s' * (epochs != 1)} trained"
