"""Two ranks: one writes, both hear how it ended, and nobody waits for ever."""

import datetime
import multiprocessing
import os
import pickle

import pytest
import torch
from speechbrain.utils.checkpoints import (
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from speechbrain_ext.brain.checkpoints.checkpoint import VerifiedCheckpointer

SECONDS = 20


def rank_main(rank, folder, work):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=SECONDS),
    )
    try:
        result = work(rank, folder)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    (folder / f"result{rank}").write_bytes(pickle.dumps(result))
    os._exit(0)


def on_two_ranks(folder, work):
    """Run ``work(rank, folder)`` in two forked processes; returns both results."""
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=rank_main, args=(rank, folder, work))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
    results = [folder / f"result{rank}" for rank in range(2)]
    assert all(path.exists() for path in results), "a rank hangs"
    return [pickle.loads(path.read_bytes()) for path in results]


@register_checkpoint_hooks
class FailsOnMain:
    """A recoverable whose saver, as register_checkpoint_hooks has it, runs on main."""

    @mark_as_saver
    def save(self, path):
        raise OSError(28, "No space left on device")

    @mark_as_loader
    def load(self, path, end_of_epoch):
        raise NotImplementedError


def prepared(folder, **more):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    return model, VerifiedCheckpointer(folder / "save", {"model": model, **more})


def test_one_writes_and_both_read(tmp_path):
    def work(rank, folder):
        model, checkpointer = prepared(folder)
        for loss in (1.0, 2.0):
            saved = checkpointer.save_and_keep_only({"loss": loss}, num_to_keep=1)
            saved = checkpointer.save_checkpoint({"loss": loss})
            assert (saved is None) == (rank == 1)
        model.weight.data.zero_()
        found = checkpointer.recover_if_possible()
        checkpointer.agree_on_recovery()
        return found.path.name, bool(model.weight.abs().sum() > 0)

    first, second = on_two_ranks(tmp_path, work)
    assert first == second
    assert first[1]


def fail_on_rank_1(obj, path):
    if os.environ["RANK"] == "1":
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("at", ["main", "hook on all ranks", "rank 1", "first write"])
def test_a_failing_write_ends_both_ranks_alike(tmp_path, at):
    def work(rank, folder):
        _, checkpointer = prepared(folder)
        checkpointer.save_checkpoint({"loss": 1.0})
        if at == "main":
            checkpointer.add_recoverable("x", FailsOnMain())
        elif at == "hook on all ranks":
            checkpointer.add_recoverable(
                "x", object(), custom_save_hook=lambda o, p: FailsOnMain.save(o, p)
            )
        elif at == "rank 1":
            checkpointer.add_recoverable("x", object(), custom_save_hook=fail_on_rank_1)
        else:

            def full(*args):
                raise OSError(28, "No space left on device")

            checkpointer._save_checkpoint_metafile = full
        checkpointer.save_and_keep_only({"loss": 2.0})

    results = on_two_ranks(tmp_path, work)
    for result in results:
        assert result.startswith("CheckpointWriteError: ")
        assert "No space left on device" in result
    (kept,) = (tmp_path / "save").iterdir()
    assert kept.name.startswith("CKPT+")


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_a_state_that_is_bad_on_one_rank_is_refused_on_both(tmp_path, bad_rank):
    def work(rank, folder):
        model, checkpointer = prepared(folder)
        if rank == bad_rank:
            model.weight.data[0, 0] = torch.nan
        checkpointer.save_checkpoint()

    for result in on_two_ranks(tmp_path, work):
        assert result.startswith("NonFiniteStateError: ")
        assert ("rank 1: model.weight: NaN" in result) == (bad_rank == 1)
    assert list((tmp_path / "save").iterdir()) == []


def test_ranks_that_resumed_from_different_checkpoints_are_told(tmp_path):
    def work(rank, folder):
        _, checkpointer = prepared(folder)
        checkpointer.save_checkpoint({"loss": 1.0}, name="a")
        checkpointer.save_checkpoint({"loss": 2.0}, name="b")
        key = {"max_key": "loss"} if rank else {"min_key": "loss"}
        checkpointer.recover_if_possible(**key)  # waits for nobody
        checkpointer.agree_on_recovery()

    for result in on_two_ranks(tmp_path, work):
        assert result.startswith("WorkError: ")
        assert "CKPT+a, CKPT+b" in result


def test_a_broken_key_function_ends_both_ranks(tmp_path):
    def work(rank, folder):
        _, checkpointer = prepared(folder)
        checkpointer.save_and_keep_only(importance_keys=[lambda c: c.meta["none"]])

    assert on_two_ranks(tmp_path, work) == ["KeyError: 'none'"] * 2


def test_stock_tells_the_other_rank_nothing(tmp_path):
    def work(rank, folder):
        Checkpointer(folder / "save", {"x": FailsOnMain()}).save_checkpoint()

    results = on_two_ranks(tmp_path, work)
    assert "No space left" in results[0]
    assert "No space left" not in results[1]
