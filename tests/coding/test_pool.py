"""Files made by several processes."""

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from speechbrain_ext.coding import pool
from speechbrain_ext.coding.plan import Job
from speechbrain_ext.coding.pool import _clear, run_jobs
from speechbrain_ext.errors import WorkError
from speechbrain_ext.files import atomic_path


@dataclass(frozen=True)
class Slow:
    """A task that writes half of a file, waits, and writes the rest; needs no torch."""

    seconds: float = 0.0
    who: str = "encode"

    def open(self):
        return self

    def __call__(self, job):
        if job.name == "dies":
            os._exit(1)
        with atomic_path(job.target) as draft, open(draft, "w") as stream:
            stream.write("half")
            stream.flush()
            threading.Event().wait(self.seconds)
            stream.write("whole")
        return job.name


def jobs(folder, count):
    return [Job(Path("x"), folder / f"{n}.sbx", str(n)) for n in range(count)]


def test_processes_make_what_one_would(tmp_path):
    todo = jobs(tmp_path, 5)
    assert set(run_jobs(Slow(), Slow(), todo, nj=2)) == set("01234")
    assert {p.read_text() for p in tmp_path.iterdir()} == {"halfwhole"}
    assert len(list(tmp_path.iterdir())) == 5


@dataclass(frozen=True)
class Deaf(Slow):
    """It hears no call to stop, and so has to be killed at its half file."""

    def __call__(self, job):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return super().__call__(job)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", [Slow, Deaf])
def test_an_interrupt_leaves_no_half_file_and_no_process(
    tmp_path, kind, times, monkeypatch
):
    monkeypatch.setattr(pool, "_PATIENCE_SECONDS", 10.0 if kind is Slow else 0.6)

    def interrupt():
        while len(list(tmp_path.iterdir())) < 2:  # both are at it
            threading.Event().wait(0.05)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.3)

    thread = threading.Thread(target=interrupt)
    # A background job of a shell ignores Ctrl-C; who sits at a terminal does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            list(run_jobs(kind(20.0), kind(), jobs(tmp_path, 5), nj=2))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one that comes too late
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


def test_what_a_process_could_not_remove_is_removed_and_nothing_else(tmp_path):
    todo = jobs(tmp_path, 2)
    left = tmp_path / ".1.abcd_123.sbx"
    others = [tmp_path / name for name in (".1.abc.sbx", ".7.abcd_123.sbx", "1.sbx")]
    for path in (left, *others):
        path.write_text("half")
    _clear(todo, time.time())
    assert sorted(tmp_path.iterdir()) == sorted(others)
    old = tmp_path / ".0.abcd_123.sbx"
    old.write_text("of another run")
    os.utime(old, (0, 0))
    _clear(todo, time.time())
    assert old.exists()


def test_a_process_that_dies_is_told(tmp_path):
    todo = [*jobs(tmp_path, 1), Job(Path("x"), tmp_path / "y", "dies")]
    with pytest.raises(WorkError, match="a process died") as told:
        list(run_jobs(Slow(), Slow(), todo, nj=2))
    assert "--skip_existing --nj 1" in str(told.value)
