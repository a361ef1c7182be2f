"""What the main process achieved, or why it failed, reaches every rank.

Stock SpeechBrain waits in a broadcast that a main process which raised never makes.
Here every rank ends with the same result or the same exception.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TypeVar

import torch
from speechbrain.utils.distributed import (
    MainProcessContext,
    ddp_broadcast,
    ddp_prevent_block,
    if_main_process,
    main_process_only,
)

T = TypeVar("T")

#: All functions made by one decorator share its inner function's code.
_MAIN_ONLY_CODE = main_process_only(lambda: None).__code__


def on_main(work: Callable[[], T]) -> T:
    """Run ``work`` on the main process; its result or exception is everybody's.

    Arguments
    ---------
    work : Callable
        Takes nothing; what it returns must be picklable.

    Returns
    -------
    object
        What ``work`` returned, on all ranks.
    """
    if ddp_prevent_block():  # alone, or the other ranks are not here
        return work()
    result, error = None, None
    if if_main_process():
        try:
            with MainProcessContext():
                result = work()
        except Exception as caught:
            error = caught
    result, travelled = ddp_broadcast((result, error and _portable(error)))
    if error is not None:
        raise error
    if travelled is not None:
        raise travelled
    return result


def agree(error: Exception | None) -> None:
    """Raise on all ranks if one of them brings an error; its own comes first."""
    if not ddp_prevent_block():
        errors = _gather(error and _portable(error))
        error = error or next((e for e in errors if e is not None), None)
    if error is not None:
        raise error


def gather_lines(lines: list[str]) -> list[str]:
    """Join the lines of all ranks; those of ranks above 0 are marked."""
    if ddp_prevent_block():
        return lines
    joined = []
    for rank, part in enumerate(_gather(lines)):
        joined += [f"rank {rank}: {line}" if rank else line for line in part]
    return joined


def main_only_part(hook: Callable) -> Callable | None:
    """Return what a hook does on the main process, or None if it runs on all ranks.

    ``main_process_only`` broadcasts after its function; if that raises, the other
    ranks wait for ever. Its function alone can be called under `on_main`'s care.
    """
    if getattr(hook, "__code__", None) is _MAIN_ONLY_CODE:
        return hook.__wrapped__
    return None


def _gather(value) -> list:
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _portable(error: Exception) -> Exception:
    """Return the exception if it can be pickled, else one that says the same."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
