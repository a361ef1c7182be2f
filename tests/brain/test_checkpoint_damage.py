"""Resuming: no damaged checkpoint is loaded, and the next good one is."""

import logging

import pytest
import torch
from speechbrain.utils.checkpoints import METAFNAME, Checkpointer

from speechbrain_ext.brain.checkpoints.checkpoint import (
    DamagedCheckpointError,
    VerifiedCheckpointer,
    verify_folder,
)
from tests.brain.checkpoint_cases import CORRUPTIONS, KINDS, Run, outcome, same


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("kind", ["ours", "guarded stock"])
def test_each_of_eight_corruptions_leads_to_the_older_checkpoint(
    tmp_path, kind, corruption
):
    read = KINDS[kind]
    assert outcome(tmp_path, corruption, read, read) == "older one"


def test_stock_handles_one_of_the_eight(tmp_path):
    stock = KINDS["stock"]
    results = [outcome(tmp_path, c, stock, stock) for c in CORRUPTIONS]
    assert results.count("older one") == 1


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_checkpoints_that_stock_wrote_are_handled_too(tmp_path, corruption):
    result = outcome(tmp_path, corruption, Checkpointer, VerifiedCheckpointer)
    assert result == "older one"


def two(folder, **kwargs):
    """Two checkpoints, the newer one the better; their folders and states."""
    run = Run(folder, **kwargs)
    run.step(1)
    first = run.checkpointer.save_checkpoint({"loss": 2.0}).path
    states = [run.state()]
    run.step(2)
    second = run.checkpointer.save_checkpoint({"loss": 1.0}).path
    return first, second, [*states, run.state()]


def flipped(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_any_file_is_seen(tmp_path):
    _, newest, _ = two(tmp_path)
    assert verify_folder(newest) == []
    draw = torch.Generator().manual_seed(0)
    for path in sorted(newest.iterdir()):
        bits = torch.randint(path.stat().st_size * 8, (25,), generator=draw).tolist()
        for bit in bits:
            flipped(path, bit)
            assert verify_folder(newest), f"bit {bit} of {path.name}"
            flipped(path, bit)
    assert verify_folder(newest) == []


def test_the_warning_names_folder_file_fault_and_substitute(tmp_path, caplog):
    older, newest, _ = two(tmp_path)
    CORRUPTIONS["emb.ckpt cut in half"](newest)
    Run(tmp_path).checkpointer.recover_if_possible()
    (text,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert str(newest) in text
    assert "emb.ckpt" in text
    assert "bytes instead of" in text
    assert f"Used instead: {older.name} (loss 2)" in text
    assert newest.exists()


def test_one_bad_yaml_leaves_the_others_reachable_by_key(tmp_path):
    _, newest, states = two(tmp_path)
    CORRUPTIONS["CKPT.yaml empty"](newest)
    run = Run(tmp_path)
    assert len(run.checkpointer.list_checkpoints()) == 1
    assert run.checkpointer.recover_if_possible(min_key="loss").meta["loss"] == 2.0
    assert same(run.state(), states[0])


def test_a_request_by_key_falls_back_to_the_next_best(tmp_path):
    run = Run(tmp_path)
    paths = {}
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 4.0]):
        run.step(epoch)
        paths[loss] = run.checkpointer.save_checkpoint({"loss": loss}).path
    CORRUPTIONS["one bit flipped"](paths[1.0])
    fresh = Run(tmp_path).checkpointer
    assert fresh.find_checkpoint(min_key="loss").meta["loss"] == 2.0
    found = fresh.find_checkpoints(max_key="loss")
    assert [c.meta["loss"] for c in found] == [4.0, 3.0, 2.0]


@pytest.mark.parametrize("method", ["recover_if_possible", "find_checkpoint"])
def test_none_good_is_one_message_with_the_next_command(tmp_path, method):
    older, newest, _ = two(tmp_path)
    CORRUPTIONS["emb.ckpt deleted"](newest)
    CORRUPTIONS["CKPT.yaml half"](older)
    run = Run(tmp_path)
    before = run.state()
    with pytest.raises(DamagedCheckpointError) as caught:
        getattr(run.checkpointer, method)()
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "emb.ckpt: missing" in text
    assert f"{METAFNAME}: " in text
    assert "Next: " in text
    assert "rm -r" in text
    assert same(run.state(), before)


def test_nothing_of_a_damaged_checkpoint_is_loaded_on_request(tmp_path):
    _, newest, _ = two(tmp_path)
    run = Run(tmp_path)
    found = run.checkpointer.find_checkpoint()
    CORRUPTIONS["emb.ckpt emptied"](newest)
    before = run.state()
    with pytest.raises(DamagedCheckpointError, match=r"emb\.ckpt: empty"):
        run.checkpointer.load_checkpoint(found)
    assert same(run.state(), before)


def test_damage_in_the_same_process_is_seen_after_a_save(tmp_path):
    run = Run(tmp_path)
    run.step(1)
    run.checkpointer.save_checkpoint()
    good = run.state()
    run.step(2)
    newest = run.checkpointer.save_checkpoint().path
    CORRUPTIONS["one bit flipped"](newest)
    run.checkpointer.recover_if_possible()
    assert same(run.state(), good)


def test_damage_in_a_file_that_is_not_loaded_does_not_matter(tmp_path):
    _, newest, _ = two(tmp_path)
    (newest / "optimizer.ckpt").write_bytes(b"")
    only = VerifiedCheckpointer(tmp_path, {"emb": Run(tmp_path).emb})
    assert only.recover_if_possible().path == newest
    assert verify_folder(newest) == ["optimizer.ckpt: empty"]


def test_an_unsealed_checkpoint_is_loaded_and_said_to_be_unverified(tmp_path, caplog):
    _, newest, states = two(tmp_path, kind=Checkpointer)
    run = Run(tmp_path)
    assert run.checkpointer.recover_if_possible().path == newest
    assert same(run.state(), states[1])
    assert "not verified" in caplog.text


def test_no_checkpoint_at_all_is_none_as_in_stock(tmp_path):
    (tmp_path / "CKPT_notes").mkdir()
    run = Run(tmp_path)
    assert run.checkpointer.recover_if_possible() is None
    assert run.checkpointer.find_checkpoints() == []
    assert run.checkpointer.find_checkpoint(max_key="loss") is None


def test_a_file_saved_without_crc_is_not_taken_for_damaged(tmp_path):
    crc32 = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        _, newest, states = two(tmp_path, kind=Checkpointer)
    finally:
        torch.serialization.set_crc32_options(crc32)
    run = Run(tmp_path)
    assert run.checkpointer.recover_if_possible().path == newest
    assert same(run.state(), states[1])
