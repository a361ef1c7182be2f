"""Many files: one after the other or in processes, with a bar, until Ctrl-C."""

from __future__ import annotations

import contextlib
import glob
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from speechbrain_ext.coding.plan import Job
from speechbrain_ext.data.progress import progress_bar
from speechbrain_ext.errors import WorkError

if TYPE_CHECKING:
    from speechbrain_ext.coding.work import Done, Task

#: After Ctrl-C a process may take so long to clear up what it was writing.
_PATIENCE_SECONDS = 10.0


def run_jobs(
    task: Task, work: Callable[[Job], Done], jobs: Sequence[Job], nj: int = 1
) -> Iterator[Done]:
    """Work on all jobs; yields what became of each, as it is known.

    Arguments
    ---------
    task : Task
        What other processes are told.
    work : callable
        The same, in this process.
    jobs : sequence of Job
    nj : int
        Processes; 1: no others.

    Raises
    ------
    WorkError
        If a process dies.
    KeyboardInterrupt
        No process is left then, and no file half written.
    """
    nj = min(nj, len(jobs))
    made = map(work, jobs) if nj <= 1 else _in_processes(task, jobs, nj)
    with progress_bar() as progress:
        bar = progress.add_task(task.who, total=len(jobs), unit="files")
        for done in made:
            progress.advance(bar)
            yield done


def _in_processes(task: Task, jobs: Sequence[Job], nj: int) -> Iterator[Done]:
    context, since = multiprocessing.get_context("spawn"), time.time()
    before, started = set(multiprocessing.active_children()), set()
    with ProcessPoolExecutor(
        nj, mp_context=context, initializer=_start, initargs=(task,)
    ) as pool:
        try:
            with _deaf():
                try:
                    futures = [pool.submit(_work_on, job) for job in jobs]
                finally:
                    started = set(multiprocessing.active_children()) - before
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkError(
                f"{task.who}: a process died, perhaps for want of memory; finished "
                "files are whole\n  Next: the same with --skip_existing --nj 1"
            ) from error
        except BaseException:
            with _deaf():  # to Ctrl-C again: it would leave processes
                _stop(started)
                _clear(jobs, since)
            raise


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Hear no Ctrl-C; nor do processes that are started: this one stops them itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _stop(processes) -> None:
    """Let processes remove what they were writing, and end.

    Their sentinels are watched, they are not joined: the pool's own thread does that,
    and of two that wait for one process the later takes it for alive.
    """
    for process in processes:
        process.terminate()
    alive, until = {p.sentinel: p for p in processes}, time.time() + _PATIENCE_SECONDS
    while alive and (ended := wait(alive, max(0.0, until - time.time()))):
        for sentinel in ended:
            del alive[sentinel]
    for process in alive.values():
        process.kill()
    for sentinel in alive:
        wait([sentinel])


def _clear(jobs: Sequence[Job], since: float) -> None:
    """Remove drafts that a process was stopped at before it could remove them.

    It has made the file and not yet entered what removes it: a moment, but on a busy
    machine it may be put to sleep just there.
    """
    for job in jobs:
        if job.target is None:
            continue
        name = f".{glob.escape(job.target.stem)}.????????{job.target.suffix}"
        for draft in job.target.parent.glob(name):
            with contextlib.suppress(OSError):
                if draft.stat().st_mtime >= since - 1:
                    draft.unlink()


# -- in each process -----------------------------------------------------------------

_state: dict = {"work": None, "busy": False}


def _start(task: Task) -> None:
    def stop(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pool may tell it twice
        if not _state["busy"]:
            os._exit(1)
        raise SystemExit(1)  # unwinds through what removes a draft

    signal.signal(signal.SIGTERM, stop)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the other cores have files of their own
    _state["work"] = task.open()


def _work_on(job: Job) -> Done:
    _state["busy"] = True
    try:
        return _state["work"](job)
    except SystemExit:  # a pool would take it for a result, and go on
        os._exit(1)
    finally:
        _state["busy"] = False
