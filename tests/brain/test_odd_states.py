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

LIMIT = {"nan_guard": NonFinitePolicy(max_consecutive_rejects=5, quarantine=False)}


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


@pytest.mark.parametrize("clip_scope", ["first", "all"])
def test_all_optimizers_may_be_frozen(clip_scope):
    policy = {"nan_guard": NonFinitePolicy(clip_scope=clip_scope)}
    brain = make(NaNSafeBrain, extra=policy)
    type(brain).freeze_optimizers = lambda self, optimizers: {}
    brain.fit(range(1), deliver(batches(3)))
    assert (brain.health.committed, brain.optimizer_step) == (3, 3)


def test_a_brain_without_optimizer_runs_as_stock_does():
    def collected(base):
        brain = make(base)
        brain.opt_class = None
        brain.fit(range(1), deliver(batches(3)))
        return brain

    stock, ours = collected(speechbrain.Brain), collected(NaNSafeBrain)
    assert ours.health.committed == 3
    assert_same_bits(weights(stock), weights(ours))


def test_a_learning_rate_set_before_the_batch_is_put_back():
    def set_rate(self, batch, should_step):
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5

    def rates(data):
        brain = make(NaNSafeBrain)
        type(brain).on_fit_batch_start = set_rate
        brain.fit(range(1), deliver(data))
        return [group["lr"] for group in brain.optimizer.param_groups]

    data = batches(3)
    assert rates(data) == rates([*data, poisoned("nan")])


def scaled(data, *, accumulation=1):
    """GradScaler works on CPU too; stock only never switches it on there."""
    brain = make(NaNSafeBrain, grad_accumulation_factor=accumulation)
    brain.scaler = torch.GradScaler("cpu", init_scale=8.0)
    brain.fit(range(1), deliver(data))
    return brain


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_rejected_batch_leaves_the_scaler_ready(accumulation, place):
    data = batches(6)
    clean = scaled(data, accumulation=accumulation)
    dirty = [*data[:place], poisoned("nan sample"), *data[place:]]
    ours = scaled(dirty, accumulation=accumulation)
    assert ours.health.rejected == 1
    assert ours.scaler.state_dict() == clean.scaler.state_dict()
    assert_same_bits(everything(clean), everything(ours))


def test_a_scaler_backs_off_only_when_the_buffers_are_finite():
    def visit(module, x):
        if x.abs().max() > 100:
            module.kept += torch.nan

    def start(module):
        module.register_buffer("kept", torch.zeros(()))

    def objectives(self, predictions, batch, stage):
        if batch["x"].abs().max() > 100:
            predictions.register_hook(lambda grad: grad * torch.inf)
        return predictions.square().mean()

    bad = batches(1)[0]
    bad["x"] = bad["x"] * 1e3
    methods = {"compute_objectives": objectives}
    brain = build(NaNSafeBrain, Net(start, visit), methods=methods)
    brain.scaler = torch.GradScaler("cpu", init_scale=8.0)
    brain.fit(range(1), deliver([*batches(1), bad]))
    assert torch.isfinite(brain.modules.net.kept)
    assert brain.health.rejected == 1


def test_a_backoff_inside_a_window_is_counted_once():
    data = [*batches(1), poisoned("inf"), *batches(2)]
    assert scaled(data, accumulation=4).health.backoffs == 1


def test_each_optimizer_that_a_batch_steps_is_judged_and_undone():
    class Adversarial(NaNSafeBrain):
        def init_optimizers(self):
            self.optimizers_dict = {
                name: torch.optim.Adam(module.parameters(), 1e-2)
                for name, module in self.modules.items()
            }

        def fit_batch(self, batch):
            for name, optimizer in self.optimizers_dict.items():
                loss = self.modules[name](batch["x"]).square().mean()
                (loss * batch.get(name, 1.0)).backward()
                optimizer.step()
                optimizer.zero_grad()
            return loss.detach()

    def train(data):
        torch.manual_seed(0)
        brain = Adversarial(
            {"one": nn.Linear(6, 1), "two": nn.Linear(6, 1)},
            hparams=LIMIT,
            run_opts={"noprogressbar": True, "device": "cpu"},
        )
        brain.fit(range(1), deliver(data))
        return brain

    bad = batches(1)[0] | {"two": float("nan")}
    brain = train([*batches(2), bad, *batches(1)])
    assert brain.health.rejected == 1
    reference = train([*batches(2), *batches(1)])
    assert all(
        torch.equal(value, reference.modules.state_dict()[name])
        for name, value in brain.modules.state_dict().items()
    )


def test_a_fit_batch_from_a_mixin_is_guarded():
    class Mixin:
        def fit_batch(self, batch):
            loss = self.modules.net(batch["x"]).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.detach()

    class Own(Mixin, NaNSafeBrain):
        pass

    brain = Own(
        {"net": nn.Linear(6, 1)},
        lambda p: torch.optim.Adam(p, 1e-2),
        hparams=LIMIT,
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    brain.fit(range(1), deliver([*batches(1), poisoned("nan sample"), *batches(1)]))
    assert (brain.health.committed, brain.health.rejected) == (2, 1)
    assert torch.isfinite(brain.modules.net.weight).all()


def test_a_policy_of_the_wrong_type_is_named_at_once():
    with pytest.raises(TypeError, match="nan_guard must be a NonFinitePolicy"):
        make(NaNSafeBrain, extra={"nan_guard": {"max_dumps": 3}})
