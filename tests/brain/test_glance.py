"""What most batches cost little to be asked, and never a wrong answer."""

import pytest
import torch
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.brain.memory import identity
from speechbrain_ext.brain.memory.finite import FiniteCheck
from speechbrain_ext.brain.memory.identity import SameObjects
from speechbrain_ext.brain.memory.snapshot import StateSnapshot
from speechbrain_ext.brain.memory.transaction import Transaction

NAN, INF = float("nan"), float("inf")


class Statistics(nn.Module):
    """Buffers and a mask of every size; ``visit`` is what forward does to them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("small", torch.zeros(3))
        self.register_buffer("matrix", torch.zeros(2, 3))
        self.register_buffer("large", torch.zeros(100, 100))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("brief", torch.zeros(5, dtype=torch.bfloat16))
        self.mask = torch.zeros(4)
        self.visit = lambda net, x: None

    def forward(self, x):
        self.visit(self, x)
        return (x * self.weight).sum()


def prepared():
    """A transaction in the middle of a run, and its module."""
    net = Statistics()
    transaction = Transaction(net)
    for _ in range(2):
        transaction.begin()
        transaction.forward_state.probe()
    assert looks_clean(transaction.forward_state)
    transaction.begin()
    return net, transaction


def looks_clean(state):
    signs = state.glance()
    return signs is not None and all(torch.isfinite(sign) for sign in signs)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["small", "matrix", "large", "brief", "mask"])
@pytest.mark.parametrize(
    "write",
    [
        lambda net, name, bad: bad.copy_(bad),
        lambda net, name, bad: getattr(net, name).copy_(bad),
        lambda net, name, bad: getattr(net, name).data.copy_(bad),
        lambda net, name, bad: setattr(getattr(net, name), "data", bad),
        lambda net, name, bad: setattr(net, name, bad),
    ],
)
def test_no_way_to_write_a_bad_value_looks_clean(write, name, value):
    net, transaction = prepared()
    before = getattr(net, name).clone()
    bad = before.clone()
    bad.view(-1)[-1] = value
    write(net, name, bad)
    moved = not torch.equal(getattr(net, name), before)
    assert looks_clean(transaction.forward_state) is not moved
    transaction.rollback()
    assert torch.equal(getattr(net, name), before)


def brain_of(net):
    class Summing(NaNSafeBrain):
        def compute_forward(self, batch, stage):
            return self.modules.net(batch)

        def compute_objectives(self, predictions, batch, stage):
            return predictions.square()

    options = {"noprogressbar": True}
    return Summing({"net": net}, lambda p: torch.optim.SGD(p, 0.01), run_opts=options)


def write_huge(net, x):
    net.large.fill_(3e38)


def write_mask(net, x):
    net.mask.fill_(-INF)


@pytest.mark.parametrize("visit", [write_huge, write_mask])
def test_what_only_looks_bad_is_learned_from(visit):
    net = Statistics()
    brain = brain_of(net)
    batches = [torch.ones(2) for _ in range(4)]
    brain.fit(range(1), batches)
    net.visit = visit
    brain.fit(range(2), batches)
    assert (brain.health.committed, brain.health.rejected) == (12, 0)
    assert brain.health.replayed == 0


def test_a_bad_value_is_still_found_after_a_false_alarm():
    def write(net, x):
        write_huge(net, x)
        if (x == 4).any():
            net.small.data[1] = NAN

    net = Statistics()
    net.visit = write
    brain = brain_of(net)
    brain.fit(range(1), [torch.full((2,), float(i)) for i in range(6)])
    assert brain.health.rejected == 1
    assert torch.equal(net.small, torch.zeros(3))


def test_a_snapshot_of_huge_values_is_verified():
    net = Statistics()
    snapshot = StateSnapshot(net)
    write_huge(net, None)
    write_mask(net, None)
    for _ in range(3):
        assert snapshot.verify() == []
    net.small[0] = NAN
    assert snapshot.verify() == ["small"]


@pytest.mark.parametrize("alone", [1, 1 << 16])
def test_a_sum_is_finite_only_where_all_elements_are(alone):
    tensors = [torch.zeros(0), torch.ones(2, 3).t(), torch.ones(5), torch.ones(())]
    check = FiniteCheck(tensors, alone=alone)
    assert all(torch.isfinite(part) for part in check.sums())
    for tensor in tensors[1:]:
        first = tensor[(0,) * tensor.ndim]
        for value in (NAN, INF, -INF):
            first.fill_(value)
            assert not all(torch.isfinite(part) for part in check.sums())
        first.fill_(1.0)


@pytest.mark.parametrize("layout", ["known", "unknown"])
def test_equal_objects_are_not_the_same(layout, monkeypatch):
    if layout == "unknown":
        monkeypatch.setattr(identity, "_ITEMS", -1)
    one = [0.5]
    known = SameObjects([one, 1, None])
    assert known.are([one, 1, None])
    assert not known.are([[0.5], 1, None])
    assert not known.are([one, True, None])
    assert not known.are([one, 1])
    other = [0.5]
    ((before, now),) = known.follow([other, 1, None])
    assert before is one
    assert now is other
    assert known.follow([other, 1, None]) == []
    assert known.follow([other]) is None
    assert SameObjects().are([])
