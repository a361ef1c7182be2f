"""Saving: finite, whole or not at all, and the last good one is never deleted."""

import itertools
import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from speechbrain.utils.checkpoints import METAFNAME, Checkpointer

from speechbrain_ext.brain.checkpoints.checkpoint import (
    CheckpointWriteError,
    NonFiniteStateError,
    VerifiedCheckpointer,
    verify_folder,
)
from tests.brain.checkpoint_cases import KINDS, Run, same

NAN, INF = float("nan"), float("inf")


def spoil_parameter(run, value):
    run.emb[0].weight.data[0, 0] = value
    return "emb.0.weight"


def spoil_moment(run, value):
    run.optimizer.state[run.emb[0].weight]["exp_avg_sq"][0, 0] = value
    return "optimizer.state.0.exp_avg_sq"


def spoil_buffer(run, value):
    run.emb[1].running_var[0] = value
    return "emb.1.running_var"


@pytest.mark.parametrize("kind", ["ours", "guarded stock"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("spoil", [spoil_parameter, spoil_moment, spoil_buffer])
def test_a_nonfinite_state_is_named_and_nothing_is_written(
    tmp_path, kind, value, spoil
):
    run = Run(tmp_path, KINDS[kind])
    run.step(1)
    kept = run.checkpointer.save_checkpoint().path
    before = sorted(tmp_path.rglob("*"))
    name = spoil(run, value)
    with pytest.raises(NonFiniteStateError) as caught:
        run.checkpointer.save_and_keep_only()
    assert caught.value.exit_code == 1
    assert [line.split(":")[0] for line in caught.value.names] == [name]
    assert f"Kept: {kept}" in str(caught.value)
    assert "Next: " in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_learning_rate_that_is_nan_is_seen(tmp_path):
    run = Run(tmp_path)
    run.optimizer.param_groups[0]["lr"] = NAN
    with pytest.raises(NonFiniteStateError, match="param_groups.0.lr"):
        run.checkpointer.save_checkpoint()


def test_a_scaler_whose_scale_ran_away_is_seen(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=INF)
    checkpointer = VerifiedCheckpointer(tmp_path, {"scaler": scaler})
    with pytest.raises(NonFiniteStateError, match="scaler.scale: inf"):
        checkpointer.save_checkpoint()


def test_savers_may_write_folders_and_archives_of_any_kind(tmp_path):
    def save_folder(obj, path):
        path.mkdir()
        (path / "part").write_text("x")

    def save_numpy(obj, path):
        with open(path, "wb") as stream:
            numpy.savez(stream, a=numpy.array([NAN]))

    checkpointer = VerifiedCheckpointer(
        tmp_path,
        {"folder": object(), "numpy": object(), "script": object()},
        custom_save_hooks={
            "folder": save_folder,
            "numpy": save_numpy,
            "script": lambda obj, path: torch.jit.save(
                torch.jit.script(torch.nn.Linear(1, 1)), path
            ),
        },
    )
    path = checkpointer.save_checkpoint().path
    assert verify_folder(path) == []
    assert checkpointer.find_checkpoint().path == path
    (path / "folder.ckpt" / "part").write_text("y")
    assert len(verify_folder(path)) == 1


class Masked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("mask", torch.tensor([0.0, -INF]))
        self.register_buffer("least", torch.tensor(INF))
        self.register_buffer("scratch", torch.tensor(NAN), persistent=False)


def test_a_buffer_may_hold_what_it_held_at_first_and_nothing_worse(tmp_path):
    model = Masked()
    checkpointer = VerifiedCheckpointer(tmp_path, {"model": model})
    path = checkpointer.save_checkpoint().path
    assert verify_folder(path) == []  # without the model too
    assert VerifiedCheckpointer(tmp_path, {"model": Masked()}).recover_if_possible()
    model.mask[0] = NAN
    with pytest.raises(NonFiniteStateError, match="model.mask: NaN"):
        checkpointer.save_checkpoint()
    model.mask[0] = 0.0
    model.least.fill_(-INF)
    with pytest.raises(NonFiniteStateError, match="model.least: -Inf"):
        checkpointer.save_checkpoint()


def test_a_mask_that_forward_made_is_no_fault(tmp_path):
    model = torch.nn.Linear(1, 1)
    checkpointer = VerifiedCheckpointer(tmp_path, {"model": model})
    model.register_buffer("mask", torch.tensor([-INF]))
    assert checkpointer.save_checkpoint()
    model.register_buffer("late", torch.tensor([NAN]))
    with pytest.raises(NonFiniteStateError, match="model.late"):
        checkpointer.save_checkpoint()


def test_what_a_custom_saver_writes_is_verified_before_it_counts(tmp_path):
    checkpointer = VerifiedCheckpointer(tmp_path)
    checkpointer.add_recoverable(
        "statistics",
        {"mean": torch.tensor([NAN])},
        custom_save_hook=lambda obj, path: torch.save(obj, path),
        custom_load_hook=lambda obj, path, end: None,
    )
    with pytest.raises(NonFiniteStateError, match="statistics.mean"):
        checkpointer.save_checkpoint()
    assert list(tmp_path.iterdir()) == []


def test_half_precision_complex_sparse_and_empty_tensors_are_looked_at():
    from speechbrain_ext.brain.checkpoints.state import nonfinite_kinds

    tensors = {
        "half": torch.tensor([1.0, INF]).half(),
        "bfloat": torch.tensor([NAN]).bfloat16(),
        "float8": torch.tensor([NAN]).to(torch.float8_e5m2),
        "complex": torch.tensor([complex(0, -INF)]),
        "sparse": torch.tensor([0.0, NAN]).to_sparse(),
        "empty": torch.empty(0),
        "count": torch.tensor([3]),
        "huge": torch.tensor([1e300, -1e300], dtype=torch.float64),
    }
    found = nonfinite_kinds(tensors.items())
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "half": {"+Inf"},
        "bfloat": {"NaN"},
        "float8": {"NaN"},
        "complex": {"-Inf"},
        "sparse": {"NaN"},
    }


# -- metrics -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF, torch.tensor(NAN), None])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_nonfinite_metric_is_worst_in_any_order(tmp_path, bad, order):
    model = torch.nn.Linear(1, 1)
    checkpointer = VerifiedCheckpointer(tmp_path, {"model": model})
    for place in order:
        checkpointer.save_checkpoint({"m": [0.4, 0.5, bad][place]})
    lowest = [c.meta["m"] for c in checkpointer.find_checkpoints(min_key="m")]
    highest = [c.meta["m"] for c in checkpointer.find_checkpoints(max_key="m")]
    assert lowest[:2] == [0.4, 0.5]
    assert highest[:2] == [0.5, 0.4]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("keys", [{"min_keys": ["m"]}, {"max_keys": ["m"]}])
def test_a_nonfinite_metric_never_costs_the_best_checkpoint(tmp_path, bad, keys):
    run = Run(tmp_path)
    for metric in (0.5, bad, bad):
        run.step(1)
        run.checkpointer.save_and_keep_only({"m": metric}, keep_recent=False, **keys)
    (kept,) = run.checkpointer.list_checkpoints()
    assert kept.meta["m"] == 0.5


def test_meta_of_tensors_and_numpy_stays_readable_by_stock(tmp_path):
    meta = {
        "tensor": torch.tensor(0.25),
        "numpy": numpy.float32(0.5),
        "count": numpy.int64(3),
        "shape": (1, 2),
        "path": Path("a"),
    }
    saved = VerifiedCheckpointer(tmp_path).save_checkpoint(meta)
    expected = {
        "tensor": 0.25,
        "numpy": 0.5,
        "count": 3,
        "shape": [1, 2],
        "path": "a",
    }
    (read,) = Checkpointer(tmp_path).list_checkpoints()
    for found in (saved.meta, read.meta):
        assert {name: found[name] for name in expected} == expected


# -- what is deleted -----------------------------------------------------------------


def test_the_last_good_checkpoint_survives_any_request(tmp_path):
    run = Run(tmp_path)
    for _ in range(2):
        newest = run.checkpointer.save_checkpoint().path
    run.checkpointer.delete_checkpoints(num_to_keep=0)
    assert [c.path for c in run.checkpointer.list_checkpoints()] == [newest]
    run.checkpointer.save_and_keep_only(num_to_keep=0)
    assert len(run.checkpointer.list_checkpoints()) == 1


def test_a_damaged_best_checkpoint_does_not_cost_the_second_best(tmp_path):
    run = Run(tmp_path)
    paths = [run.checkpointer.save_checkpoint({"m": m}).path for m in (1.0, 2.0, 3.0)]
    (paths[0] / "emb.ckpt").write_bytes(b"")
    fresh = Run(tmp_path).checkpointer  # has not looked at it yet
    fresh.save_and_keep_only({"m": 4.0}, min_keys=["m"])
    kept = {c.meta["m"] for c in fresh.list_checkpoints()}
    assert kept == {1.0, 2.0, 4.0}  # the damaged one is left for a person to see
    assert fresh.recover_if_possible(min_key="m").meta["m"] == 2.0


def test_a_clean_run_keeps_the_same_checkpoints_as_stock(tmp_path):
    metrics = [3.0, 1.0, 2.0, 0.5, 4.0, 0.7]
    for options in (
        {"min_keys": ["m"]},
        {"max_keys": ["m"], "num_to_keep": 2},
        {"min_keys": ["m"], "max_keys": ["m"], "keep_recent": False},
        {"importance_keys": [lambda c: -abs(c.meta["m"] - 2.1)], "num_to_keep": 2},
    ):
        kept = []
        for kind, make in KINDS.items():
            folder = tmp_path / f"{kind}{len(list(tmp_path.iterdir()))}"
            checkpointer = make(folder, {"model": torch.nn.Linear(1, 1)})
            for metric in metrics:
                given = {
                    name: list(value) if isinstance(value, list) else value
                    for name, value in options.items()
                }
                given.setdefault("importance_keys", [])
                checkpointer.save_and_keep_only({"m": metric}, **given)
            kept.append({c.meta["m"] for c in checkpointer.list_checkpoints()})
        assert kept[0] == kept[1] == kept[2]


def test_the_lists_of_the_caller_stay_as_they_are(tmp_path):
    keys = []
    VerifiedCheckpointer(tmp_path).save_and_keep_only(importance_keys=keys)
    assert keys == []


# -- a killed process, a full disk ---------------------------------------------------


def in_child(work):
    """Run ``work`` in a forked child; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(7)
    return os.waitpid(pid, 0)[1]


def die_at(count, folder):
    """Kill this process just before its n-th change of something in ``folder``."""
    left = [count]
    changes = {"os.mkdir", "os.rename", "os.rmdir", "os.remove"}

    def hook(event, args):
        # A folder is opened without a mode: to be flushed, or to be emptied.
        writes = event == "open" and args[1] in ("w", None)
        if (writes or event in changes) and str(folder) in str(args[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize("name", [None, "latest"])
def test_killed_at_any_write_it_leaves_the_old_or_the_new_one(tmp_path, name):
    folder, template = tmp_path / "save", tmp_path / "template"
    run = Run(folder)
    run.step(1)
    run.checkpointer.save_checkpoint(name=name)
    shutil.copytree(folder, template)
    old = run.state()
    run.step(2)
    new = run.state()
    seen = set()
    for count in range(1, 200):
        shutil.rmtree(folder)
        shutil.copytree(template, folder)

        def save(count=count):
            die_at(count, folder)
            run.checkpointer.save_and_keep_only(name=name)

        finished = in_child(save) == 0
        for path in folder.glob("CKPT*"):
            assert verify_folder(path) == [], count
        for kind in ("stock", "ours"):  # stock must not find half a checkpoint either
            fresh = Run(folder, KINDS[kind])
            assert fresh.checkpointer.recover_if_possible() is not None
            assert same(fresh.state(), old) or same(fresh.state(), new), count
        seen.add("old" if same(fresh.state(), old) else "new")
        if finished:
            break
        fresh.checkpointer.save_and_keep_only(name=name)
        left = [p.name for p in folder.iterdir()]
        assert len(left) == 1, left  # and nothing of the killed save
    assert finished
    assert count > 8
    assert seen == {"old", "new"}


@pytest.mark.parametrize("by", ["torch", "text"])
def test_a_full_disk_is_one_message_and_the_old_one_stays(tmp_path, by):
    run = Run(tmp_path)
    run.step(1)
    kept = run.checkpointer.save_checkpoint().path
    before = sorted(tmp_path.rglob("*"))

    def fill(obj, path):
        if by == "torch":
            torch.save(torch.ones(5000), path)
        else:
            with open(path, "w") as stream:
                stream.write("x" * 20000)

    run.checkpointer.add_recoverable("large", object(), custom_save_hook=fill)

    def save():
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        try:
            run.checkpointer.save_and_keep_only()
        except CheckpointWriteError as error:
            text = str(error)
            good = f"Kept: {kept}" in text and "Next: " in text and "df -h" in text
            os._exit(0 if good and error.exit_code == 1 else 3)

    assert in_child(save) == 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("at", ["mkdir", "fsync", "rename"])
def test_a_read_only_folder_is_one_message_and_nothing_is_lost(
    tmp_path, monkeypatch, at
):
    run = Run(tmp_path)
    run.checkpointer.save_checkpoint()
    before = sorted(tmp_path.rglob("*"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(Path if at == "mkdir" else os, at, refuse)
    with pytest.raises(CheckpointWriteError, match="Read-only file system"):
        run.checkpointer.save_and_keep_only()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointWriteError, match="could not be written"):
        VerifiedCheckpointer(tmp_path / "file" / "save")


def test_an_error_in_a_saver_comes_through_and_leaves_nothing(tmp_path):
    def fail(obj, path):
        raise ZeroDivisionError("a bug")

    checkpointer = VerifiedCheckpointer(tmp_path, {"x": object()})
    checkpointer.custom_save_hooks["x"] = fail
    with pytest.raises(ZeroDivisionError, match="a bug"):
        checkpointer.save_checkpoint()
    assert list(tmp_path.iterdir()) == []


def test_the_seal_names_every_file_with_its_size(tmp_path):
    run = Run(tmp_path)
    path = run.checkpointer.save_checkpoint().path
    seal = json.loads((path / "VERIFIED.json").read_text())
    assert set(seal["files"]) == {p.name for p in path.iterdir()} - {"VERIFIED.json"}
    for name, entry in seal["files"].items():
        assert entry["bytes"] == (path / name).stat().st_size
    assert yaml.safe_load((path / METAFNAME).read_text())["end-of-epoch"] is True
