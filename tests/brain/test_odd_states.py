"""State that recipes really have: masks of -inf, lazy buffers, frozen optimizers."""

import copy

import pytest
import speechbrain
import torch
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from tests.brain.test_transaction import (
    assert_same_bits,
    batches,
    deliver,
    everything,
    make,
    poisoned,
)

LIMIT = {"nan_guard": NonFinitePolicy(max_consecutive_rejects=5)}


class Net(nn.Module):
    """Calls ``visit(self, x)`` in each forward, then a linear layer."""

    def __init__(self, start, visit):
        super().__init__()
        self.linear = nn.Linear(6, 1)
        start(self)
        self.visit = visit

    def forward(self, x):
        self.visit(self, x.detach())
        return self.linear(x)


def build(base, net, *, opt_class=None, hparams=None, methods=None, **options):
    class Regression(base):
        def compute_forward(self, batch, stage):
            return self.modules.net(batch["x"])

        def compute_objectives(self, predictions, batch, stage):
            return (predictions.squeeze(1) - batch["y"]).square().mean()

    for name, method in (methods or {}).items():
        setattr(Regression, name, method)
    torch.manual_seed(7)
    return Regression(
        {"net": net() if callable(net) and not isinstance(net, nn.Module) else net},
        opt_class or (lambda p: torch.optim.Adam(p, 1e-2)),
        hparams={**LIMIT, **(hparams or {})},
        run_opts={"noprogressbar": True, "device": "cpu", **options},
    )


def weights(brain):
    return {k: v.clone() for k, v in brain.modules.state_dict().items()}


def no_change(module, x):
    """Touch nothing."""


def with_mask(module):
    module.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
    module.best = torch.tensor(torch.inf)


def new_mask(module, x):
    """Cache an attention mask whose -inf are elsewhere in each batch."""
    seen = int(module.batches) % 4
    module.batches += 1
    module.cached = torch.zeros(4)
    module.cached[seen] = -torch.inf


def counted(module):
    module.register_buffer("batches", torch.zeros(()))
    module.cached = torch.zeros(4)


@pytest.mark.parametrize(
    ("start", "visit"), [(with_mask, no_change), (counted, new_mask)]
)
def test_infinities_that_belong_to_the_model_are_no_fault(start, visit):
    data = batches(6)
    stock = build(speechbrain.Brain, Net(start, visit))
    ours = build(NaNSafeBrain, copy.deepcopy(stock.modules.net))
    stock.fit(range(2), deliver(data))
    ours.fit(range(2), deliver(data))
    assert ours.health.rejected == 0
    assert_same_bits(weights(stock), weights(ours))


def test_a_statistic_that_turns_infinite_under_a_finite_loss_is_rejected():
    from speechbrain.processing.features import InputNormalization

    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalize = InputNormalization(norm_type="global")
            self.linear = nn.Linear(6, 1)

        def forward(self, x):
            lengths = torch.ones(1)
            return self.linear(self.normalize(x[None], lengths)[0])

    huge = batches(1, seed=3)[0]
    huge["x"] = huge["x"] * 1e30
    brain = build(NaNSafeBrain, Normalized)
    brain.fit(range(1), deliver([huge, *batches(2)]))
    assert brain.health.rejected == 1
    assert torch.isfinite(brain.modules.net.normalize.glob_std).all()


def lazy_attribute(module):
    module.ema = None


def lazy_buffer(module):
    module.register_buffer("ema", None)


def move_in_place(module, x):
    mean = x.mean(0)
    if module.ema is None:
        module.ema = mean.clone()
    else:
        module.ema.mul_(0.9).add_(mean, alpha=0.1)


@pytest.mark.parametrize("start", [lazy_attribute, lazy_buffer])
@pytest.mark.parametrize("place", [0, 2])
def test_statistics_born_in_forward_are_put_back(start, place):
    def learned(data):
        brain = build(NaNSafeBrain, Net(start, move_in_place))
        brain.fit(range(1), deliver(data))
        return brain

    data = batches(4)
    clean = learned(data)
    dirty = learned([*data[:place], poisoned("nan sample"), *data[place:]])
    assert dirty.health.rejected == 1
    assert torch.equal(clean.modules.net.ema, dirty.modules.net.ema)


def carry(module, x):
    module.hidden = (x.mean(), x.sum())


def test_a_tuple_kept_by_a_module_is_put_back():
    def start(module):
        module.hidden = (torch.zeros(()), torch.zeros(()))

    brain = build(NaNSafeBrain, Net(start, carry))
    brain.fit(range(1), deliver([*batches(2), poisoned("nan sample")]))
    assert all(torch.isfinite(part) for part in brain.modules.net.hidden)


def reset_now_and_then(module, x):
    module.calls += 1
    even = module.calls % 2 == 0
    module.hidden = x.mean() if even else None
    module.cache = [1] if even else None


def test_an_attribute_may_change_its_type_between_batches():
    def start(module):
        module.calls, module.hidden, module.cache = 0, torch.zeros(()), []

    brain = build(NaNSafeBrain, Net(start, reset_now_and_then))
    brain.fit(range(2), deliver(batches(5)))
    assert brain.health.committed == 10


def test_tensors_that_cannot_be_written_are_no_obstacle():
    def start(module):
        module.expanded = torch.zeros(1).expand(4)
        module.sparse = torch.eye(3).to_sparse()

    brain = build(NaNSafeBrain, Net(start, no_change))
    brain.fit(range(1), deliver([*batches(2), poisoned("nan sample"), *batches(1)]))
    assert (brain.health.committed, brain.health.rejected) == (3, 1)


def two_optimizers(self):
    net = self.modules.net
    self.first = torch.optim.Adam(net.first.parameters(), 1e-2)
    self.last = torch.optim.SGD([*net.norm.parameters(), *net.last.parameters()], 0.1)
    self.optimizers_dict = {"first": self.first, "last": self.last}
    self.optimizer = self.first


def thaw_later(self, optimizers):
    if self.optimizer_step < 5:
        return {"last": optimizers["last"]}
    return optimizers


def frozen(base, data, freeze):
    brain = make(base)
    type(brain).init_optimizers = two_optimizers
    type(brain).freeze_optimizers = freeze
    brain.fit(range(1), deliver(data))
    return brain


@pytest.mark.parametrize("place", [None, 0, 3])
def test_gradients_of_a_frozen_optimizer_survive_a_rejected_batch(place):
    data = batches(8)
    reference = frozen(speechbrain.Brain, data, thaw_later)
    dirty = data
    if place is not None:
        dirty = [*data[:place], poisoned("nan sample"), *data[place:]]
    ours = frozen(NaNSafeBrain, dirty, thaw_later)
    assert ours.health.rejected == (place is not None)
    assert_same_bits(everything(reference), everything(ours))
