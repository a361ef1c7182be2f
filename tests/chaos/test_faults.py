"""Each fault spoils what it says, in any kind of batch, and shows again in a re-run."""

import copy

import pytest
import speechbrain
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch import nn

from speechbrain_ext.chaos.comparison import differences, nonfinite, state_of
from speechbrain_ext.chaos.faults import (
    FAULTS,
    BatchMark,
    labels_of,
    nan_in_loss,
    signal_of,
)
from speechbrain_ext.chaos.injection import Deliveries, Injection


def items(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "id": [f"utt{row}" for row in range(6)],
        "wav": torch.randn(6, 50, generator=generator),
        "wav_len": torch.full((6,), 50),
        "spk": torch.arange(6)[:, None] % 3,
    }


def padded():
    rows = items()
    names = ("id", "wav", "spk")
    values = zip(*(rows[name] for name in names), strict=True)
    return PaddedBatch([dict(zip(names, row, strict=True)) for row in values])


def as_tuple():
    rows = items()
    return rows["id"], rows["wav"], rows["spk"]


KINDS = {"dict": items, "padded": padded, "tuple": as_tuple}
DATA = {  # fault -> (elements that change, at least or exactly, value they take)
    "nan_sample": (1, torch.isnan),
    "inf_sample": (1, torch.isinf),
    "huge_sample": (1, lambda x: x == 1e30),
    "silent_utterance": (50, lambda x: x == 0),
    "silent_batch": (300, lambda x: x == 0),
    "gain": (300, lambda x: x.abs() > 1),
}


def test_the_list_has_the_fourteen_faults():
    assert len(FAULTS) == 14
    kinds = [fault.kind for fault in FAULTS.values()]
    assert (kinds.count("batch"), kinds.count("state")) == (10, 4)
    assert all(fault.causes for fault in FAULTS.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DATA)
def test_a_data_fault_changes_the_signal_and_nothing_else(kind, name):
    batch = KINDS[kind]()
    before = copy.deepcopy(batch)
    assert FAULTS[name].spoil(batch)
    count, has_value = DATA[name]
    changed = signal_of(batch) != signal_of(before)
    assert changed.sum() == count
    assert has_value(signal_of(batch)[changed]).all()
    assert torch.equal(labels_of(batch), labels_of(before))


@pytest.mark.parametrize("kind", KINDS)
def test_one_label_goes_out_of_any_range_and_lengths_are_no_labels(kind):
    batch = KINDS[kind]()
    before = labels_of(batch).clone()
    assert FAULTS["label"].spoil(batch)
    changed = labels_of(batch) != before
    assert changed.sum() == 1
    assert labels_of(batch)[changed] >= 1e6
    if kind == "dict":
        assert torch.equal(batch["wav_len"], items()["wav_len"])


def test_a_batch_without_labels_or_signal_is_told_apart_from_a_spoiled_one():
    assert not FAULTS["label"].spoil({"wav": torch.zeros(2, 3)})
    assert not FAULTS["nan_sample"].spoil({"spk": torch.zeros(2).long()})
    assert not FAULTS["nan_sample"].spoil({"wav": torch.zeros(0, 3)})


def test_a_mark_knows_its_batch_as_a_copy_in_part_and_padded_otherwise():
    mark = BatchMark(items())
    wav = items()["wav"]
    assert mark.matches(padded())
    assert mark.matches({"wav": wav[3:4]})
    assert mark.matches({"wav": nn.functional.pad(wav[1:2], (0, 20))})
    assert not mark.matches(items(seed=1))
    assert not mark.matches({"wav": torch.zeros(6, 50)})


def test_a_nan_in_the_loss_leaves_its_gradients_finite():
    weight = torch.ones(2, requires_grad=True)
    for loss in (
        weight.sum(),
        {"kept": torch.ones(()), "learned": weight.sum()},
        (torch.ones(()), weight.sum()),
    ):
        spoiled = nan_in_loss(loss)
        if not isinstance(spoiled, torch.Tensor):
            assert type(spoiled) is type(loss)
            kept, spoiled = spoiled.values() if isinstance(loss, dict) else spoiled
            assert kept == 1
        assert spoiled.isnan()
        assert torch.equal(torch.autograd.grad(spoiled, weight)[0], torch.ones(2))


class Probe(speechbrain.Brain):
    """Keeps what each backward pass left, and looks twice at every batch."""

    def compute_forward(self, batch, stage):
        return self.modules.norm(self.modules.net(batch["wav"]))

    def compute_objectives(self, predictions, batch, stage):
        return predictions.square().mean()

    def fit_batch(self, batch):
        other = items(seed=77)
        for seen in (batch, other, copy.deepcopy(batch)):
            self.optimizer.zero_grad()
            predictions = self.compute_forward(seen, speechbrain.Stage.TRAIN)
            loss = self.compute_objectives(predictions, seen, speechbrain.Stage.TRAIN)
            loss.backward()
            grads = [p.grad for p in self.modules.parameters() if p.grad is not None]
            bad = sum(int((~torch.isfinite(grad)).sum()) for grad in grads)
            self.seen.append((bool(torch.isfinite(loss)), bad))
        if not bad:
            self.optimizer.step()
        return loss.detach()


def probed(name, places=((0, 1),)):
    torch.manual_seed(0)
    modules = {"net": nn.Linear(50, 4), "norm": nn.BatchNorm1d(4)}
    modules["unused"] = nn.Linear(2, 2)
    brain = Probe(
        modules,
        lambda parameters: torch.optim.Adam(parameters, 1e-3),
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    brain.seen = []
    injection = Injection(brain, FAULTS[name])
    data = [items(seed) for seed in range(3)]
    brain.fit(range(1), Deliveries([data], injection, places=places))
    return brain, injection


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("nan_loss", (False, 0)),
        ("nan_gradient", (True, 1)),
        ("inf_gradient", (True, 1)),
    ],
)
def test_a_marked_fault_belongs_to_its_batch_in_every_re_run(name, spoiled):
    brain, injection = probed(name)
    fine = (True, 0)
    assert injection.fired
    assert brain.seen == [fine] * 3 + [spoiled, fine, spoiled] + [fine] * 3


STATES = {
    "nan_parameter": "parameter.",
    "nan_exp_avg": "moment.",
    "inf_exp_avg_sq": "moment.",
    "nan_buffer": "buffer.norm.running_var",
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_fault_strikes_one_tensor_before_its_batch(name):
    states = []

    class Watched(Probe):
        def fit_batch(self, batch):
            states.append(nonfinite(state_of(self)))
            return torch.zeros(())

    torch.manual_seed(0)
    brain = Watched(
        {"net": nn.Linear(50, 4), "norm": nn.BatchNorm1d(4)},
        lambda parameters: torch.optim.Adam(parameters, 1e-3),
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    moments = {"step": torch.ones(()), "exp_avg": torch.ones(4)}
    moments["exp_avg_sq"] = torch.ones(4)
    brain.init_optimizers()
    brain.optimizer.state[brain.modules.net.bias] = moments
    brain.init_optimizers = lambda: None  # fit would throw these moments away
    injection = Injection(brain, FAULTS[name])
    deliveries = Deliveries(
        [[items(seed) for seed in range(3)]], injection, places=((0, 1),)
    )
    brain.fit(range(1), deliveries)
    assert injection.fired
    assert [len(bad) for bad in states] == [0, 1, 1]
    assert states[1][0].startswith(STATES[name])


def test_moments_that_are_not_there_yet_cannot_be_spoiled():
    assert not probed("nan_exp_avg", places=((0, 0),))[1].fired


def test_batches_are_delivered_anew_and_removed_ones_never():
    data = [items(seed) for seed in range(3)]
    loader = Deliveries([data, data], removed=((0, 1),))
    for batch in loader:
        batch["wav"].zero_()
    again = list(loader)
    assert len(loader) == len(again) == 3
    assert all(
        torch.equal(a["wav"], items(seed)["wav"]) for seed, a in enumerate(again)
    )


def test_one_bit_in_any_corner_of_the_state_is_seen():
    brain, _ = probed("gain")
    state = state_of(brain, [1.0])
    assert {name.split(".")[0] for name in state} >= {
        *("parameter", "buffer", "moment", "group", "brain", "stage_loss", "random")
    }
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        if value.numel():
            other = value.clone()
            first = other.view(-1)[:1]
            first.copy_(torch.nextafter(first, torch.full_like(first, torch.inf)))
            assert differences(state, state | {name: other}) == [name]
    assert differences(state, state | {"brain.born": 1}) == ["brain.born"]
    shorter = {k: v for k, v in state.items() if k != "stage_loss.0"}
    assert differences(state, shorter) == ["stage_loss.0"]
