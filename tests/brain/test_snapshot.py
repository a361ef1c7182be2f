"""A snapshot puts the whole run back to the bit, and tells a corrupted state."""

import random

import numpy as np
import pytest
import speechbrain
import torch
from speechbrain.nnet.schedulers import NewBobScheduler, NoamScheduler
from speechbrain.utils.Accuracy import AccuracyStats
from speechbrain.utils.epoch_loop import EpochCounter
from torch import nn

from speechbrain_ext.brain.memory.snapshot import StateSnapshot
from speechbrain_ext.brain.memory.state import (
    load_named_state,
    named_state,
    optimizers_of,
    state_owners,
)
from tests.brain.test_transaction import (
    assert_same_bits,
    batches,
    deliver,
    everything,
    make,
)

NAN = float("nan")


def ready(**options):
    brain = make(speechbrain.Brain, **options)
    brain.init_optimizers()
    brain.modules.train()
    return brain


def snapshot_of(brain, extra=()):
    return StateSnapshot(
        brain.modules,
        lambda: optimizers_of(brain),
        lambda: state_owners(brain),
        lambda: extra,
    )


def run(brain, data):
    brain.stage_losses = []
    for batch in data:
        brain.step += 1
        brain.fit_batch(batch)
        random.random(), np.random.randn(), torch.rand(1)


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_restored_and_repeated_has_the_same_bits(before, accumulation):
    data = batches(6)
    brain = ready(grad_accumulation_factor=accumulation)
    snapshot = snapshot_of(brain)
    run(brain, data[:before])
    snapshot.take()
    streams = random.getstate(), str(np.random.get_state())
    moments = len(brain.optimizer.state)
    run(brain, data[before:])
    first = everything(brain)
    with torch.no_grad():  # a corruption, and moves that no batch made
        brain.modules.net.first.weight.fill_(NAN)
        brain.optimizer.param_groups[0]["lr"] = 7.0
        brain.modules.net.another = 3
    snapshot.restore()
    assert len(brain.optimizer.state) == moments  # those that came later are gone
    assert brain.optimizer.param_groups[0]["lr"] == 1e-2
    assert not hasattr(brain.modules.net, "another")
    assert (random.getstate(), str(np.random.get_state())) == streams
    run(brain, data[before:])
    assert_same_bits(first, everything(brain))


def test_schedulers_scaler_and_counters_are_put_back():
    brain = ready(extra={"noam": NoamScheduler(1e-2, 10)})
    newbob = NewBobScheduler(0.1)
    counter, accuracy = EpochCounter(9), AccuracyStats()
    scaler = torch.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    torch_scheduler = torch.optim.lr_scheduler.StepLR(brain.optimizer, 1, 0.5)
    brain.accuracy = accuracy
    extra = [newbob, counter, scaler, torch_scheduler]
    snapshot = snapshot_of(brain, extra)

    def move():
        newbob(1.0)
        next(iter(counter))
        accuracy.correct += 3
        brain.hparams.noam(brain.optimizer)
        scaler.scale(torch.ones(1))
        scaler.unscale_(brain.optimizer)
        scaler.step(brain.optimizer)
        scaler.update()
        torch_scheduler.step()

    def seen():
        noam = brain.hparams.noam
        return (
            (newbob.hyperparam_value, list(newbob.metric_values), counter.current),
            (accuracy.correct, noam.n_steps, noam.current_lr, scaler.get_scale()),
            (scaler.state_dict(), torch_scheduler.state_dict()),
            brain.optimizer.param_groups[0]["lr"],
        )

    run(brain, batches(1))
    for parameter in brain.modules.parameters():
        parameter.grad = torch.ones_like(parameter)
    move()
    before = seen()
    snapshot.take()
    move()
    move()
    assert seen() != before
    snapshot.restore()
    assert seen() == before


def poison_parameter(brain):
    brain.modules.net.first.weight[0, 0] = NAN


def poison_moment(brain):
    weight = brain.modules.net.first.weight
    brain.optimizer.state[weight]["exp_avg_sq"][1, 2] = float("inf")


def poison_buffer(brain):
    brain.modules.net.norm.running_var[3] = -float("inf")


def poison_attribute(brain):
    brain.modules.net.glob_mean = brain.modules.net.glob_mean * NAN


CORRUPTIONS = {
    "net.first.weight": poison_parameter,
    "optimizer: exp_avg_sq of net.first.weight": poison_moment,
    "net.norm.running_var": poison_buffer,
    "net.glob_mean": poison_attribute,
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_state_is_told_by_name_and_mended(name):
    brain = ready()
    brain.optimizers_dict = {"optimizer": brain.optimizer}
    run(brain, batches(2))
    snapshot = snapshot_of(brain)
    assert snapshot.verify() == []
    snapshot.take()
    before = everything(brain)
    with torch.no_grad():
        CORRUPTIONS[name](brain)
    assert snapshot.verify() == [name]
    snapshot.restore()
    assert snapshot.verify() == []
    assert_same_bits(before, everything(brain))


def test_masks_of_minus_infinity_are_well_and_a_new_nan_beside_them_is_not():
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    net.best = torch.tensor(-torch.inf)
    net.worst = torch.tensor(torch.inf)
    snapshot = StateSnapshot(net)
    assert snapshot.verify() == []
    net.best = torch.tensor([-torch.inf, 0.0])
    assert snapshot.verify() == []
    net.mask[0, 0] = NAN
    assert snapshot.verify() == ["mask"]


def test_verify_reads_the_device_once():
    brain = ready()
    run(brain, batches(1))
    snapshot = snapshot_of(brain)
    snapshot.verify()

    from tests.brain.test_forward_state import Counted

    with Counted() as counted:
        snapshot.verify()
    reads = ("_local_scalar_dense", "nonzero", "masked_select", "index")
    assert sum(counted.names.count(name) for name in reads) <= 1
    assert len(counted.names) < 2 * len(list(snapshot._named_tensors()))


def test_the_memory_is_that_of_the_state_once():
    net = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    snapshot = StateSnapshot(net, lambda: {"sgd": optimizer})
    snapshot.take()
    assert snapshot.nbytes == 2 * 100 * 4


def test_restore_without_take_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call take\(\) first"):
        StateSnapshot(nn.Linear(1, 1)).restore()


def test_named_state_goes_through_a_file_and_back(tmp_path):
    brain = ready()
    run(brain, batches(3))
    brain.modules.net.register_buffer("hidden", torch.ones(2), persistent=False)
    torch.save(named_state(brain.modules), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["net.count"] == 3
    fresh = ready()
    fresh.modules.net.register_buffer("hidden", torch.zeros(2), persistent=False)
    load_named_state(fresh.modules, state)
    again = named_state(fresh.modules)
    assert state.keys() == again.keys()
    assert all(
        torch.equal(v, again[k]) if torch.is_tensor(v) else v == again[k]
        for k, v in state.items()
    )


def test_a_state_of_other_modules_is_refused_whole():
    state = {"weight": torch.zeros(3, 3), "bias": torch.zeros(2), "a.b": 1}
    net = nn.Linear(2, 2)
    before = net.bias.detach().clone()
    with pytest.raises(ValueError, match=r"2 entries .* weight is \[3, 3\], here"):
        load_named_state(net, state)
    assert torch.equal(net.bias, before)


def test_metrics_of_a_rejected_batch_are_taken_back():
    from speechbrain.utils.metric_stats import ErrorRateStats

    from speechbrain_ext.brain import NaNSafeBrain

    class Running:
        """A user's own metric, defined beside the Brain."""

        total = 0.0

        def __init__(self):
            self.total = 0.0

    brain = make(NaNSafeBrain, extra={"running": Running()})
    brain.accuracy = AccuracyStats()
    brain.metrics = {"wer": ErrorRateStats()}
    stock = type(brain).compute_objectives

    def objectives(self, predictions, batch, stage):
        self.accuracy.total += 1
        self.hparams.running.total += 1
        self.metrics["wer"].append(["a"], [["x"]], [["x"]])
        return stock(self, predictions, batch, stage)

    type(brain).compute_objectives = objectives
    bad = batches(1)[0] | {"poison": "loss"}
    brain.fit(range(1), deliver([*batches(2), bad, *batches(1)]))
    assert brain.health.rejected == 1
    assert (brain.accuracy.total, brain.hparams.running.total) == (3, 3.0)
    assert len(brain.metrics["wer"].scores) == 3
