"""Long work says where it is, also in a log file."""

import io
import types

import pytest

from speechbrain_ext.data import progress


@pytest.fixture
def shown(monkeypatch):
    """What is printed with a clock that goes on by a second at each look."""
    stream, clock = io.StringIO(), iter(range(10_000))
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stream))
    stand_in = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(progress, "time", stand_in)
    return stream


def test_without_a_terminal_there_is_a_line_every_15_seconds(shown):
    with progress.progress_bar() as bar:
        task = bar.add_task("prepare", total=100, unit="recordings")
        for _ in range(100):
            bar.advance(task)
    lines = shown.getvalue().splitlines()
    assert lines[0].startswith("prepare: ")
    assert lines[0].endswith(" of 100 recordings")
    counts = [int(line.split()[1]) for line in lines]
    assert counts == sorted(set(counts))
    assert 2 <= len(lines) <= 100 * 3 / 15


def test_tracked_work_is_told_too_and_short_work_is_silent(shown):
    with progress.progress_bar() as bar:
        assert list(bar.track(range(3), description="joining")) == [0, 1, 2]
        assert shown.getvalue() == ""
        list(bar.track(range(40), description="joining"))
    assert "joining: " in shown.getvalue()


def test_on_a_terminal_there_is_a_bar_and_no_line(shown, monkeypatch):
    monkeypatch.setattr(shown, "isatty", lambda: True)
    progress.announce("a line")
    assert shown.getvalue() == ""
    assert not progress.progress_bar().disable
