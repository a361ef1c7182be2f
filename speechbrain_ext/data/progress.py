"""One look for all progress bars of data preparation, and lines where there is none."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import Progress

#: Without a terminal: one line in so many seconds.
LINE_SECONDS = 15.0


def progress_bar() -> Progress:
    """Return a bar on stderr that disappears when it is done.

    Where stderr is not a terminal, as in a log file, a plain line every 15 s says how
    far it is. A task may name what it counts: ``add_task(..., unit="recordings")``.
    """
    if sys.stderr.isatty():
        return Progress(console=Console(file=sys.stderr), transient=True)
    return _Lines()


def announce(text: str) -> None:
    """Print a line where there is no terminal: on one, a bar says the same."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


class _Lines(Progress):
    """Counts as a bar does, and prints lines."""

    def __init__(self):
        # No thread that refreshes: `track` then comes by `advance`, too.
        super().__init__(disable=True, auto_refresh=False)
        self._spoke = time.monotonic()

    def advance(self, task_id, advance=1) -> None:
        """Count; say it if the last line is old."""
        super().advance(task_id, advance)
        with self._lock:  # threads convert and speak
            now = time.monotonic()
            if now - self._spoke < LINE_SECONDS:
                return
            self._spoke = now
            task = self._tasks[task_id]
            unit = task.fields.get("unit", "")
            total = "?" if task.total is None else f"{task.total:.0f}"
            announce(
                f"{task.description}: {task.completed:.0f} of {total} {unit}".strip()
            )
