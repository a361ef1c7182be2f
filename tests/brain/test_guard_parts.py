"""Small parts of the guard by themselves: re-runs alone, counts, the record on disk."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from speechbrain_ext.brain import (
    DivergenceError,
    NaNSafeBrain,
    NonFinitePolicy,
    agreement,
)
from speechbrain_ext.brain.health import Health, module_counts
from speechbrain_ext.brain.memory.streams import RandomStreams
from speechbrain_ext.brain.record import GuardRecord
from speechbrain_ext.brain.recovery import Recovery
from speechbrain_ext.brain.spikes import SpikeHistory
from tests.brain.test_transaction import batches, deliver, make, poisoned

# -- agreement ---------------------------------------------------------------------


def test_wrapped_modules_speak_to_nobody_while_one_rank_runs_alone(monkeypatch):
    wrapper = nn.parallel.DistributedDataParallel
    before = wrapper.forward, nn.SyncBatchNorm.forward
    monkeypatch.setattr(agreement, "is_distributed", lambda: True)
    wrapped = wrapper.__new__(wrapper)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Linear(2, 1)
    norm, plain = nn.SyncBatchNorm(3), nn.BatchNorm1d(3)
    x = torch.randn(5, 3)
    with agreement.local_only():
        assert torch.equal(wrapped.forward(x[:, :2]), wrapped.module(x[:, :2]))
        assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_mean, plain.running_mean)
    assert (wrapper.forward, nn.SyncBatchNorm.forward) == before


def test_wrapped_modules_speak_again_after_a_run_alone_that_raised(monkeypatch):
    monkeypatch.setattr(agreement, "is_distributed", lambda: True)
    before = nn.SyncBatchNorm.forward
    with pytest.raises(ValueError, match="alone"), agreement.local_only():
        raise ValueError("alone")
    assert nn.SyncBatchNorm.forward is before


def test_a_process_alone_changes_no_class():
    before = nn.SyncBatchNorm.forward
    with agreement.local_only():
        assert nn.SyncBatchNorm.forward is before


def test_a_vote_against_one_batch_is_forgotten_with_the_next(monkeypatch):
    votes = agreement.Agreement(0)
    monkeypatch.setattr(votes, "any", lambda flag: flag)
    votes.open()
    assert votes.vote("forward", bad=True)
    assert not votes.voted_all
    votes.open()
    assert not votes.vote("backward", bad=False)
    assert votes.voted_all


# -- counts ------------------------------------------------------------------------


def test_counts_of_an_epoch_begin_anew_and_those_of_the_run_go_on():
    health = Health()
    health.reject(explained=True)
    health.start_epoch()
    health.reject(explained=False, exception=True)
    assert (health.rejected, health.epoch["rejected"], health.epoch_rejected) == (
        2,
    ) + (1,) * 2
    assert (health.consecutive, health.unexplained, health.exceptions) == (2, 1, 1)
    health.commit()
    assert (health.consecutive, health.unexplained) == (0, 0)


def test_counts_survive_a_file_and_pass_over_names_of_other_versions():
    health = Health(committed=5, rejected=2, dumps=2)
    state = json.loads(json.dumps(health.state_dict()))
    again = Health()
    again.load_state_dict({**state, "of another version": 3})
    assert again.state_dict() == health.state_dict()


@pytest.mark.parametrize(
    ("counts", "limit"),
    [
        ({"consecutive": 3}, "max_consecutive_rejects=3"),
        ({"committed": 5, "rejected": 5}, "max_reject_rate=0.4"),
        ({"committed": 4, "rejected": 5}, None),  # too few to tell a rate
        ({"committed": 6, "rejected": 4}, None),
        ({"consecutive": 2}, None),
    ],
)
def test_a_run_stops_at_its_limits_and_not_before(counts, limit):
    policy = NonFinitePolicy(
        max_consecutive_rejects=3, max_reject_rate=0.4, min_batches_for_rate=10
    )
    health = Health(**counts)
    if limit is None:
        health.enforce(policy, "the last report")
        return
    with pytest.raises(DivergenceError) as stopped:
        health.enforce(policy, "the last report")
    assert limit in str(stopped.value)
    assert "the last report" in str(stopped.value)
    assert "analyze-nan" in str(stopped.value)


def test_what_modules_count_is_added_up_by_name():
    class Counting(nn.Module):
        def health_counts(self):
            return {"dead_codes": torch.tensor(2), "clamped": 1}

    modules = nn.ModuleList([Counting(), nn.Linear(1, 1), Counting()])
    assert module_counts(modules.modules()) == {"dead_codes": 4.0, "clamped": 2.0}


# -- the record in a checkpoint ----------------------------------------------------


def keeper(*, evaluating=False, **counts):
    guard = SimpleNamespace(
        health=Health(**counts),
        spike_history=SpikeHistory(NonFinitePolicy(spike_warmup=2)),
        brain=SimpleNamespace(is_evaluating=evaluating),
    )
    return guard, GuardRecord(guard)


def test_a_resumed_run_goes_on_with_counts_and_history(tmp_path):
    guard, record = keeper(committed=7, rejected=2, consecutive=1)
    for value in (1.0, 2.0, 3.0):
        guard.spike_history.of({"a": None}).commit(value, value)
    record.save(str(tmp_path / "record"))
    again, other = keeper()
    other.load(str(tmp_path / "record"), end_of_epoch=True)
    assert again.health.state_dict() == guard.health.state_dict()
    assert again.spike_history.state_dict() == guard.spike_history.state_dict()


def test_to_test_the_best_checkpoint_does_not_undo_what_the_run_has_seen(tmp_path):
    _, old = keeper(committed=3)
    old.save(str(tmp_path / "record"))
    guard, record = keeper(evaluating=True, committed=9, epoch_batches=4)
    record.load(str(tmp_path / "record"), end_of_epoch=True)
    assert guard.health.committed == 9


# -- the journal -------------------------------------------------------------------


class Snapshot:
    """A snapshot that is taken at once and holds nothing."""

    taken = False

    def take(self, *, looked=False):
        self.taken = True


def recording(megabytes=1e-2, every=5):
    policy = NonFinitePolicy(snapshot_every=every, journal_megabytes=megabytes)
    recovery = Recovery(SimpleNamespace(), policy, Snapshot())
    recovery.take()
    streams = RandomStreams()
    streams.take()
    return recovery, streams


def test_ranks_with_room_and_without_take_their_snapshots_together():
    def due(megabytes, *, asked):
        recovery, streams = recording(megabytes)
        seen = []
        for _ in range(6):
            seen.append(recovery.due(torch.zeros(200), asked=asked))
            recovery.record(torch.zeros(200), streams)
        return seen

    assert due(1e-3, asked=False) == due(1.0, asked=False)
    assert due(1e-3, asked=True) == due(1.0, asked=True)
    assert True in due(1e-3, asked=None)[:5]  # alone: when its own memory is full


def test_a_journal_that_lacks_a_batch_is_no_way_back_unless_it_was_rejected():
    recovery, streams = recording(1e-3)
    recovery.record(torch.zeros(100), streams)
    assert recovery.possible
    recovery.record(torch.zeros(100_000), streams)
    assert not recovery.possible
    recovery.drop_last()
    assert recovery.possible
    assert recovery.nearly_full(torch.zeros(100_000))


# -- dumps over restarts -----------------------------------------------------------


def test_the_limit_of_dumps_holds_over_restarts(tmp_path, caplog):
    def run():
        policy = NonFinitePolicy(
            quarantine=False, dump_folder=str(tmp_path), max_dumps=2
        )
        brain = make(NaNSafeBrain, extra={"nan_guard": policy})
        bad = [poisoned("nan sample") for _ in range(3)]
        brain.fit(range(1), deliver([*batches(1), *bad]))

    run()
    first = sorted(p.name for p in tmp_path.glob("nan_batch_*.pt"))
    run()
    assert len(first) == 2
    assert sorted(p.name for p in tmp_path.glob("nan_batch_*.pt")) == first
    assert "holds max_dumps=2 dumps" in caplog.text


# -- labels and modules that are compiled ------------------------------------------


class Classes(NaNSafeBrain):
    """Two items that are equal by chance in the first batch."""

    def compute_forward(self, batch, stage):
        return self.modules.net(batch["x"])

    def compute_objectives(self, logits, batch, stage):
        return nn.functional.cross_entropy(logits, batch["label"])


def classes(net=None, **options):
    torch.manual_seed(0)
    return Classes(
        {"net": net() if net else nn.Linear(4, 3)},
        lambda p: torch.optim.SGD(p, 0.1),
        hparams={"nan_guard": NonFinitePolicy(quarantine=False)},
        run_opts={"noprogressbar": True, "device": "cpu", **options},
    )


def labelled(label, length):
    return {
        "x": torch.randn(3, 4),
        "label": torch.tensor(label),
        "length": torch.tensor(length),
    }


def test_items_that_equal_the_labels_by_chance_reject_nothing():
    data = [labelled([0, 2, 1], [0, 2, 1]), labelled([0, 2, 1], [7, 9, 8])]
    brain = classes()
    brain.fit(range(2), deliver(data))
    assert (brain.health.committed, brain.health.rejected) == (4, 0)


def test_a_label_out_of_a_learned_range_is_named_on_a_cpu_too():
    data = [labelled([0, 2, 1], [5, 6, 7]), labelled([0, 3, 1], [5, 6, 7])]
    brain = classes()
    brain.fit(range(1), deliver(data))
    assert (brain.health.committed, brain.health.rejected) == (1, 1)
    assert brain.incidents[0]["cause"] == "label out of range"


def test_compiled_and_scripted_modules_are_guarded():
    bad = labelled([0, 2, 1], [5, 6, 7])
    bad["x"][1, 2] = math.nan
    data = [labelled([0, 2, 1], [5, 6, 7]), bad, labelled([1, 2, 0], [5, 6, 7])]
    seen = []

    def net():
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))

    for brain in (classes(net), classes(net, jit=True)):
        brain.fit(range(1), deliver(data))
        assert (brain.health.committed, brain.health.rejected) == (2, 1)
        seen.append(brain.modules.state_dict())
    for name, value in seen[0].items():
        assert torch.equal(value, seen[1][name]), name
