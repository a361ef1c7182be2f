"""A rejected batch leaves no trace; a clean run has the bits of stock Brain."""

import copy

import pytest
import speechbrain
import torch
from torch import nn
from torch.utils.data import DataLoader

from speechbrain_ext.brain import DivergenceError, NaNSafeBrain, NonFinitePolicy


class EmaNorm(nn.Module):
    """BatchNorm, an EMA in a plain attribute, dropout: all that forward moves."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(8, 1)
        self.glob_mean = torch.zeros(6)
        self.count = 0

    def forward(self, x):
        if self.training:
            self.count += 1
            self.glob_mean = self.glob_mean + (x.detach().mean(0) - self.glob_mean) / (
                self.count
            )
            self.seen = x.shape[0]  # an attribute born in forward
        return self.last(self.drop(self.norm(self.first(x - self.glob_mean))))


def make(base, *, extra=None, **options):
    class Regression(base):
        def compute_forward(self, batch, stage):
            return self.modules.net(batch["x"].clone())

        def compute_objectives(self, predictions, batch, stage):
            loss = (predictions.squeeze(1) - batch["y"]).square().mean()
            if batch.get("poison") == "loss":
                loss = loss + torch.tensor(float("nan"))
            if batch.get("poison") in ("nan", "inf", "1e25"):
                value = float(batch["poison"])
                predictions.register_hook(lambda grad: grad * value)
            return loss

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == speechbrain.Stage.TRAIN:
                self.stage_losses = getattr(self, "stage_losses", []) + [stage_loss]

    torch.manual_seed(7)
    return Regression(
        {"net": EmaNorm()},
        lambda p: torch.optim.Adam(p, 1e-2),
        hparams={
            "nan_guard": NonFinitePolicy(max_consecutive_rejects=5, quarantine=False),
            **(extra or {}),
        },
        run_opts={"noprogressbar": True, "device": "cpu", **options},
    )


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "id": [f"utt{i}_{row}" for row in range(5)],
            "x": torch.randn(5, 6, generator=generator),
            "y": torch.randn(5, generator=generator),
        }
        for i in range(count)
    ]


def poisoned(kind):
    batch = batches(1, seed=99)[0]
    if kind == "nan sample":
        batch["x"][2, 3] = float("nan")
    elif kind == "inf sample":
        batch["x"][2, 3] = float("inf")
    elif kind == "huge sample":
        batch["x"][2] = 1e30
    else:
        batch["poison"] = kind
    return batch


FAULTS = ["nan sample", "inf sample", "huge sample", "loss", "nan", "inf"]


def everything(brain):
    """All state a later batch could feel, as one flat dict of tensors and numbers."""
    net = brain.modules.net
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    state |= {"glob_mean": net.glob_mean, "count": net.count, "seen": net.seen}
    for index, moments in brain.optimizer.state_dict()["state"].items():
        state |= {f"adam.{index}.{k}": v for k, v in moments.items()}
    state["random"] = torch.get_rng_state()
    state["optimizer_step"] = brain.optimizer_step
    state["stage_losses"] = torch.tensor(brain.stage_losses)
    return state


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    different = [
        k
        for k in a
        if not (torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k])
    ]
    assert not different


def as_loader(data):
    """A loader that delivers these batches as they are, in order."""
    return deliver(data)


def deliver(data):
    """Hand over the batches one by one as they are."""
    return DataLoader(copy.deepcopy(data), batch_size=None)


def trained(base, data, epochs=2, **options):
    brain = make(base, **options)
    brain.fit(range(epochs), deliver(data))
    return brain


@pytest.mark.smoke
@pytest.mark.parametrize("accumulation", [1, 4])
def test_clean_run_has_the_bits_of_stock(accumulation):
    data = batches(8)
    options = {"grad_accumulation_factor": accumulation}
    stock = everything(trained(speechbrain.Brain, data, **options))
    ours = trained(NaNSafeBrain, data, **options)
    assert_same_bits(stock, everything(ours))
    assert ours.health.rejected == 0


@pytest.mark.smoke
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("place", [0, 3, 8])
def test_rejected_batch_leaves_no_trace(kind, place):
    data = batches(8)
    reference = everything(trained(speechbrain.Brain, data))
    ours = trained(NaNSafeBrain, data[:place] + [poisoned(kind)] + data[place:])
    assert ours.health.rejected == 2  # once an epoch
    assert_same_bits(reference, everything(ours))


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("place", [0, 1, 3, 5])
def test_only_the_poisoned_micro_batch_of_a_window_is_dropped(kind, place):
    data = batches(8)
    options = {"grad_accumulation_factor": 4}
    reference = everything(trained(speechbrain.Brain, data, **options))
    dirty = data[:place] + [poisoned(kind)] + data[place:]
    ours = trained(NaNSafeBrain, dirty, **options)
    assert ours.health.rejected == 2
    assert_same_bits(reference, everything(ours))


def test_two_rejects_in_a_row_leave_no_trace():
    data = batches(6)
    reference = everything(trained(speechbrain.Brain, data))
    dirty = data[:2] + [poisoned("nan"), poisoned("nan sample")] + data[2:]
    assert_same_bits(reference, everything(trained(NaNSafeBrain, dirty)))


def test_norm_overflow_of_finite_gradients_is_rejected_and_named(caplog):
    data = batches(3)
    reference = everything(trained(speechbrain.Brain, data, epochs=1))
    ours = trained(NaNSafeBrain, data + [poisoned("1e25")], epochs=1)
    assert_same_bits(reference, everything(ours))
    assert "norm overflow" in caplog.text


def test_a_systematic_fault_stops_the_run():
    data = [poisoned("nan sample") for _ in range(20)]
    brain = make(NaNSafeBrain)
    with pytest.raises(DivergenceError, match="5 batches in a row"):
        brain.fit(range(1), deliver(data))
    assert brain.health.rejected == 5


def test_too_high_a_rate_stops_the_run_although_never_in_a_row():
    policy = NonFinitePolicy(max_reject_rate=0.3, min_batches_for_rate=10)
    data = [
        b
        for pair in zip(batches(20), [poisoned("nan")] * 20, strict=True)
        for b in pair
    ]
    brain = make(NaNSafeBrain, extra={"nan_guard": policy})
    with pytest.raises(DivergenceError, match="max_reject_rate"):
        brain.fit(range(1), deliver(data))
    assert brain.health.committed + brain.health.rejected == 10


def test_policy_names_each_broken_limit():
    with pytest.raises(ValueError, match=r"max_dumps must be >= 0.*"):
        NonFinitePolicy(max_dumps=-1, clip_scope="both")


def test_clip_scope_all_clips_the_joint_norm():
    brain = make(NaNSafeBrain, extra={"nan_guard": NonFinitePolicy(clip_scope="all")})
    net = brain.modules.net
    brain.opt_class = lambda _: torch.optim.SGD(
        [{"params": net.first.parameters()}, {"params": net.last.parameters()}], 1.0
    )
    brain.max_grad_norm = 1e-3
    before = {k: v.clone() for k, v in net.named_parameters()}
    brain.fit(range(1), deliver(batches(1)))
    moved = torch.stack(
        [(v - before[k]).norm() for k, v in net.named_parameters()]
    ).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


def test_an_own_fit_batch_that_steps_by_itself_is_guarded_too():
    class Own(NaNSafeBrain):
        def fit_batch(self, batch):
            loss = self.modules.net(batch["x"]).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.detach()

    brain = make(Own)
    brain.fit(range(1), deliver(batches(2) + [poisoned("nan sample")] + batches(1)))
    assert brain.health.rejected == 1
    assert all(torch.isfinite(v).all() for v in brain.modules.state_dict().values())
