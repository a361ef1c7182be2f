"""One look for all progress bars of data preparation."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress


def progress_bar() -> Progress:
    """Return a bar on stderr that disappears when it is done.

    Where stderr is not a terminal, as in a log file, it stays silent.
    """
    return Progress(
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
