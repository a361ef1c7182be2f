"""Which folder of egs/ trains which task: for messages that say where to type."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where a task is at home.

    Attributes
    ----------
    folder : str
        Of egs/, from the checkout.
    after_training : str
        The first stage of its run.sh that uses a trained model.
    """

    folder: str
    after_training: str


PLACES = {
    "codec": Place("egs/telugu", "evaluate"),
    "speaker": Place("egs/voxceleb_mini", "embed"),
}


def task_name(value: object) -> str | None:
    """Return the last word of a recipe's ``task``; None if it says nothing.

    Example
    -------
    >>> task_name("speechbrain_ext.tasks.codec"), task_name(None)
    ('codec', None)
    """
    return value.rpartition(".")[2] if isinstance(value, str) and value else None


def task_fault(name: str, found: object, wanted: str) -> str | None:
    """Say that a recipe is of another task, and where it runs; None if it is not.

    Arguments
    ---------
    name : str
        Of the recipe, for the message.
    found : object
        Its ``task``; what says none is not judged.
    wanted : str
        The task that trains here.
    """
    task = task_name(found)
    if task in (None, wanted):
        return None
    told = f"{name} is of the task {task}; here the task is {wanted}"
    if task in PLACES:
        told += f"\n  Next: run it in {PLACES[task].folder}"
    return told
