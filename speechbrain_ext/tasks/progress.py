"""A bar for what is learned before or after the training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress
from speechbrain.utils.distributed import if_main_process


@contextlib.contextmanager
def shown_progress(title: str, total: int) -> Iterator[dict]:
    """Show a bar; gives ``{"progress": callable}``, or nothing without a total.

    Arguments
    ---------
    title : str
    total : int
        How often the callable will be called; 0: it is not known, and no bar is shown.
    """
    if not total or not if_main_process():
        yield {}
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield {"progress": lambda: progress.advance(task)}
