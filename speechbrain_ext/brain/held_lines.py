"""Lines for train loggers wait until the batch that wrote them commits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any


def train_loggers(spaces: Iterable[dict]) -> list[object]:
    """Find objects with a ``log_stats`` method, lists and dicts of them included.

    Arguments
    ---------
    spaces : Iterable[dict]
        Name -> object, such as ``vars(brain)`` and ``vars(brain.hparams)``.
    """
    found: dict[int, object] = {}
    for space in spaces:
        for value in list(space.values()):
            inner = value.values() if isinstance(value, dict) else value
            for one in inner if isinstance(value, (list, tuple, dict)) else [value]:
                if callable(getattr(one, "log_stats", None)) and not isinstance(
                    one, type
                ):
                    found[id(one)] = one
    return list(found.values())


class HeldLines:
    """Holds calls of ``log_*`` methods while a batch is open.

    A batch that is put back must not have written a line; one that commits writes its
    lines then, in the order of the calls. A held call returns None at once, as the
    loggers of SpeechBrain do.

    Example
    -------
    >>> class Printer:
    ...     def log_stats(self, meta):
    ...         print(meta)
    >>> printer, held = Printer(), HeldLines()
    >>> held.watch([printer])
    >>> held.open()
    >>> printer.log_stats({"step": 1})
    >>> held.discard()
    >>> held.open()
    >>> printer.log_stats({"step": 2})
    >>> held.commit()
    {'step': 2}
    >>> held.release()
    """

    def __init__(self):
        self._watched: list[tuple[object, str]] = []
        self._held: list[tuple[object, Callable[[], Any]]] | None = None

    def watch(self, loggers: Iterable[object]) -> None:
        """Stand in front of the public ``log_*`` methods of these objects."""
        for one in loggers:
            for name in dir(type(one)):
                method = getattr(one, name, None)
                if not name.startswith("log_") or not callable(method):
                    continue
                if getattr(method, "holds_lines", False):
                    continue
                try:
                    setattr(one, name, self._holder(one, method))
                except (AttributeError, TypeError):  # slots: goes through at once
                    continue
                self._watched.append((one, name))

    def _holder(self, one: object, method: Callable) -> Callable:
        @functools.wraps(method)
        def hold(*args, **kwargs):
            if self._held is None:
                return method(*args, **kwargs)
            self._held.append((one, functools.partial(method, *args, **kwargs)))
            return None

        hold.holds_lines = True
        return hold

    def release(self) -> None:
        """Give the objects their own methods back."""
        for one, name in self._watched:
            vars(one).pop(name, None)
        self._watched.clear()
        self._held = None

    def open(self) -> None:
        """Hold from here on."""
        self._held = []

    def commit(self, wanted: Callable[[object], bool] | None = None) -> None:
        """Write what was held, and hold no more.

        Arguments
        ---------
        wanted : Callable or None
            Says of a logger whether its lines are written; None: of all.
        """
        held, self._held = self._held, None
        for one, call in held or ():
            if wanted is None or wanted(one):
                call()

    def discard(self) -> None:
        """Forget what was held, and hold no more."""
        self._held = None
