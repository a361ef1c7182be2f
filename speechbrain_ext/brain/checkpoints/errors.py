"""Why a checkpoint was not written, or can't be loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from speechbrain_ext.errors import UserError, WorkError


class NonFiniteStateError(WorkError):
    """The state to be saved holds a NaN or an Inf; nothing was written.

    Attributes
    ----------
    names : list[str]
        One line for each bad tensor.
    """

    def __init__(self, message: str = "", names: Iterable[str] = ()):
        super().__init__(message)
        self.names = list(names)


class CheckpointWriteError(WorkError):
    """A checkpoint could not be written; the earlier ones are as they were."""


class DamagedCheckpointError(UserError, RuntimeError):
    """No checkpoint that was asked for is fit to be loaded.

    A RuntimeError too, since that is what stock raises where it notices.
    """


def nonfinite_state(names: list[str], kept: str, folder: Path) -> NonFiniteStateError:
    """Say which tensors are bad, what is kept, and what to do next."""
    shown = "\n  ".join(names[:10])
    more = f"\n  ... and {len(names) - 10} more" if len(names) > 10 else ""
    evidence = folder.parent / "debug_nan"
    cause = f"; the cause: speechbrain-ext analyze-nan '{evidence}'"
    return NonFiniteStateError(
        f"the state is not finite, so no checkpoint was written ({len(names)} "
        f"tensors):\n  {shown}{more}\n  Kept: {kept}\n  Next: the same command goes "
        f"on from what is kept{cause if evidence.is_dir() else ''}",
        names,
    )


def none_good(folder: Path, damaged: dict[Path, list[str]]) -> DamagedCheckpointError:
    """Say what is wrong with each checkpoint, and what to do next."""
    lines = [
        f"  {path.name}\n    " + "\n    ".join(problems)
        for path, problems in damaged.items()
    ]
    doomed = " ".join(f"'{path}'" for path in damaged)
    return DamagedCheckpointError(
        f"no checkpoint of those asked for in {folder} can be loaded:\n"
        + "\n".join(lines)
        + "\n  Next: bring a good copy back; or give up what is damaged, after which "
        f"the same command goes on without: rm -r {doomed}"
    )


@contextlib.contextmanager
def writing(folder: Path, kept: Callable[[], str]) -> Iterator[None]:
    """Turn what a full disk or a read-only folder raises into a message.

    Arguments
    ---------
    folder : Path
        Where the checkpoints are.
    kept : Callable
        Names the newest checkpoint; asked only if something went wrong.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = getattr(error, "strerror", None) or str(error).splitlines()[0]
        # torch's own writer has no errno: a full disk is an "unexpected pos".
        by_torch = "inline_container" in text or "PytorchStreamWriter" in text
        if not isinstance(error, OSError) and not by_torch:
            raise
        raise CheckpointWriteError(
            f"{folder}: a checkpoint could not be written: {text}\n  Kept: {kept()}; "
            f"what was begun is removed\n  Next: see that there is room (df -h "
            f"'{folder}') and that it is writable, then the same command"
        ) from error
