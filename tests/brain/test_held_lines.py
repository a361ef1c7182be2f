"""Lines for train loggers are written when their batch commits, and only then."""

from speechbrain.utils.train_logger import FileTrainLogger

from speechbrain_ext.brain.held_lines import HeldLines, train_loggers


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_a_file_logger_writes_at_commit_and_nothing_after_a_discard(tmp_path):
    log = FileTrainLogger(str(tmp_path / "log.txt"))
    held = HeldLines()
    held.watch([log])
    held.open()
    log.log_stats({"step": 1}, train_stats={"loss": 1.0})
    log.log_stats({"step": 2}, train_stats={"loss": 2.0})
    assert lines(tmp_path / "log.txt") == []
    held.commit()
    first = lines(tmp_path / "log.txt")
    assert ["step: 1" in first[0], "step: 2" in first[1]] == [True, True]
    held.open()
    log.log_stats({"step": 3}, train_stats={"loss": 3.0})
    held.discard()
    assert lines(tmp_path / "log.txt") == first


def test_outside_a_batch_lines_go_through_at_once_and_release_leaves_no_trace(tmp_path):
    log = FileTrainLogger(str(tmp_path / "log.txt"))
    before = dict(vars(log))
    held = HeldLines()
    held.watch([log])
    held.watch([log])  # a second fit
    log.log_stats({"step": 1}, train_stats={"loss": 1.0})
    assert len(lines(tmp_path / "log.txt")) == 1
    held.release()
    assert vars(log) == before


def test_loggers_are_found_in_lists_and_dicts_and_once_each(tmp_path):
    one = FileTrainLogger(str(tmp_path / "a"))
    two = FileTrainLogger(str(tmp_path / "b"))
    spaces = [{"x": one, "n": 3}, {"many": [two, one], "by": {"name": two}, "t": "s"}]
    assert train_loggers(spaces) == [one, two]
    assert train_loggers([{"kind": FileTrainLogger}]) == []
