"""Bad utterances stay out, on all ranks and in later runs, and people can read why."""

import json
import os
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.sampler import (
    DistributedSamplerWrapper,
    ReproducibleRandomSampler,
)
from torch.utils.data import BatchSampler, DataLoader

from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.quarantine import (
    Quarantine,
    QuarantineAware,
    apply_quarantine,
)
from speechbrain_ext.brain.quarantine_file import (
    QuarantineError,
    quarantine_path,
    quarantine_table,
)
from speechbrain_ext.errors import UserError

RANKS = 2


def put(quarantine, *utt_ids, batch=7, dump=None):
    return quarantine.add(
        utt_ids,
        reason="wav: 3 of 16000 samples are NaN",
        cause="input non-finite",
        epoch=2,
        batch=batch,
        dump=dump,
    )


def batch_of(*utt_ids):
    return PaddedBatch(
        [{"id": u, "wav": torch.ones(4 + i)} for i, u in enumerate(utt_ids)]
    )


def test_a_later_run_leaves_out_the_same(tmp_path):
    path = tmp_path / "quarantine.json"
    assert put(Quarantine(path), "తెలుగు", "b", "b") == ["తెలుగు", "b"]
    later = Quarantine(path)
    assert later.utt_ids == {"తెలుగు", "b"}
    assert put(later, "b", "c") == ["c"]
    assert list(Quarantine(path).entries) == ["తెలుగు", "b", "c"]


def test_the_file_can_be_read_and_edited_by_a_person(tmp_path):
    path = tmp_path / "quarantine.json"
    put(Quarantine(path), "a", "తెలుగు", dump=tmp_path / "debug_nan" / "x.pt")
    text = path.read_text(encoding="utf-8")
    assert "తెలుగు" in text
    assert "--keep_quarantined=True" in text
    found = json.loads(text)
    assert found["schema"] == 1
    assert found["utterances"]["a"] == {
        "reason": "wav: 3 of 16000 samples are NaN",
        "cause": "input non-finite",
        "epoch": 2,
        "batch": 7,
        "dump": "debug_nan/x.pt",
    }
    del found["utterances"]["a"]
    found["utterances"]["by hand"] = {"reason": "crackles"}
    path.write_text(json.dumps(found))
    assert Quarantine(path).utt_ids == {"తెలుగు", "by hand"}
    assert quarantine_table(path)[1]["cause"] is None


def test_keeping_takes_back_for_good_but_new_ones_are_recorded(tmp_path):
    path = tmp_path / "quarantine.json"
    put(Quarantine(path), "a", "b")
    second = Quarantine(path, keep=True)
    assert not second.entries
    batch = batch_of("a", "b")
    assert second.mask(batch) is batch
    assert put(second, "b", batch=9) == ["b"]
    third = Quarantine(path)
    assert list(third.entries) == ["b"]
    assert third.entries["b"]["batch"] == 9
    assert [row["utt_id"] for row in quarantine_table(path)] == ["b"]


def test_keeping_is_written_also_if_nothing_new_is_found(tmp_path):
    path = tmp_path / "quarantine.json"
    put(Quarantine(path), "a")
    Quarantine(path, keep=True).sync()
    assert not Quarantine(path).entries
    assert quarantine_table(path) == []
    assert json.loads(path.read_text())["utterances"]["a"]["taken_back"] is True


def test_reading_alone_writes_nothing(tmp_path):
    path = tmp_path / "exp" / "quarantine.json"
    quarantine = Quarantine(path)
    quarantine.sync()
    assert quarantine.mask(batch_of("a")).id == ["a"]
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "JSON"),
        ('{"schema": 1, "utterances": {"a"', "JSON"),
        ("[]", "must be an object, is list"),
        ("{}", "schema must be 1, is None"),
        ('{"schema": 2, "utterances": {}}', "schema must be 1, is 2"),
        ('{"schema": 1, "utterances": ["a"]}', "object of utt_id"),
        ('{"schema": 1, "utterances": {"a": "bad"}}', "a: must be an object"),
    ],
)
def test_a_broken_file_is_told_with_the_next_command(tmp_path, text, problem):
    path = tmp_path / "quarantine.json"
    path.write_text(text)
    with pytest.raises(QuarantineError, match=problem) as caught:
        Quarantine(path)
    assert f"mv {path} {path}.broken" in str(caught.value)
    assert isinstance(caught.value, UserError)
    assert caught.value.exit_code == 2


def test_a_crash_while_writing_leaves_the_earlier_list(tmp_path, monkeypatch):
    path = tmp_path / "quarantine.json"
    quarantine = Quarantine(path)
    put(quarantine, "a")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        put(quarantine, "b")
    assert list(Quarantine(path).entries) == ["a"]


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    path = tmp_path / "quarantine.json"
    quarantine = Quarantine(path)

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert put(quarantine, "a") == ["a"]
    assert "No space left on device" in caplog.text
    assert quarantine.mask(batch_of("a", "b")).id == ["b"]
    quarantine.sync()  # there is space again
    assert list(Quarantine(path).entries) == ["a"]


def test_a_batch_on_its_way_is_masked():
    quarantine = Quarantine(None)
    put(quarantine, "b", "x")
    rest = quarantine.mask(batch_of("a", "b", "c", "b"))
    assert rest.id == ["a", "c"]
    assert rest.wav.data.shape == (2, 6)
    clean = batch_of("a", "c")
    assert quarantine.mask(clean) is clean
    assert quarantine.mask(batch_of("b", "x")) is None


def test_batches_without_ids_pass_and_those_that_can_not_be_cut_are_left_out(caplog):
    quarantine = Quarantine(None)
    put(quarantine, "b")
    plain = (torch.ones(2, 3), torch.ones(2))
    assert quarantine.mask(plain) is plain
    odd = {"id": ["a", "b", "c"], "wav": torch.ones(50, 3)}
    assert quarantine.mask(odd) is quarantine.mask(odd) is None
    assert caplog.text.count("can't be cut") == 1


def test_an_empty_list_costs_nothing():
    quarantine, batch = Quarantine(None), batch_of(*map(str, range(64)))
    started = time.perf_counter()
    for _ in range(10_000):
        quarantine.mask(batch)
    assert time.perf_counter() - started < 0.1  # 10 us each; about 0.05 us measured


class Aware(torch.utils.data.Sampler):
    def __init__(self):
        self.told = None

    def set_quarantined(self, utt_ids):
        self.told = utt_ids

    def __iter__(self):
        return iter(range(4))

    def __len__(self):
        return 4


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sampler: sampler,
        lambda sampler: BatchSampler(sampler, 2, False),
        lambda sampler: DistributedSamplerWrapper(sampler, num_replicas=2, rank=0),
        lambda sampler: DataLoader(range(4), sampler=sampler),
        lambda sampler: DataLoader(
            range(4), batch_sampler=BatchSampler(sampler, 2, False)
        ),
    ],
)
def test_a_sampler_is_told_also_inside_its_wrappers(wrap):
    quarantine, sampler = Quarantine(None), Aware()
    put(quarantine, "a", "b")
    assert isinstance(sampler, QuarantineAware)
    assert apply_quarantine(wrap(sampler), quarantine)
    assert sampler.told == frozenset({"a", "b"})


@pytest.mark.parametrize(
    "sampler", [None, [1, 2], ReproducibleRandomSampler(range(4)), DataLoader(range(4))]
)
def test_a_sampler_that_can_not_be_told_is_no_error(sampler):
    assert not apply_quarantine(sampler, Quarantine(None))


def test_the_list_lies_where_the_policy_says_else_beside_the_dumps(tmp_path):
    policy = NonFinitePolicy()
    assert quarantine_path(policy, None) is None
    assert quarantine_path(policy, tmp_path / "debug_nan") == tmp_path / (
        "quarantine.json"
    )
    policy = NonFinitePolicy(quarantine_file="elsewhere.json")
    assert quarantine_path(policy, None).name == "elsewhere.json"


def run_rank(rank, folder):
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)  # as torchrun does
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    quarantine = Quarantine(f"{folder}/quarantine.json")
    put(quarantine, "both", f"only{rank}", batch=rank)
    if rank:
        put(quarantine, "late")
    quarantine.sync()
    first = list(quarantine.entries)
    kept = Quarantine(f"{folder}/quarantine.json", keep=True)
    put(kept, f"again{rank}")
    kept.sync()
    dist.barrier()
    if rank:  # this one ends without another word
        kept.add(["last"], reason="", cause="", epoch=1, batch=1, everywhere=True)
    saved = [first, quarantine.entries["both"]["batch"], list(kept.entries)]
    with open(f"{folder}/rank{rank}.json", "w") as stream:
        json.dump(saved, stream)
    dist.destroy_process_group()


def test_two_ranks_end_with_the_union_in_one_order(tmp_path):
    # Forked: two more imports of torch would take most of the time.
    mp.start_processes(
        run_rank, args=(str(tmp_path),), nprocs=RANKS, start_method="fork"
    )
    first, second = (
        json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(RANKS)
    )
    assert first[:2] == second[:2]
    assert first[0] == ["both", "only0", "only1", "late"]
    assert first[1] == 0
    assert first[2] == ["again0", "again1"]
    assert second[2] == [*first[2], "last"]
    assert list(Quarantine(tmp_path / "quarantine.json").entries) == second[2]
