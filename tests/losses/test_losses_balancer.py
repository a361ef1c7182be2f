"""The balancer's gradient: shares of the weights, moving averages, nothing leaks."""

import math

import pytest
import torch
from torch import nn

from speechbrain_ext.losses import LossBalancer

WEIGHTS = {"l1": 0.1, "mel": 1.0, "adversarial": 3.0}


def losses_of(wav, factors=(1.0, 1e4, 1e-4)):
    """Three losses of very different sizes, whose gradients differ in direction."""
    return {
        "l1": factors[0] * wav.abs().mean(),
        "mel": factors[1] * wav.square().mean(),
        "adversarial": factors[2] * wav.sin().mean(),
    }


def gradient_of(loss, wav):
    return torch.autograd.grad(loss, wav, retain_graph=True)[0]


def item_norm(gradient):
    return torch.stack([row.norm() for row in gradient]).mean()


@pytest.fixture
def wav():
    torch.manual_seed(0)
    return torch.randn(3, 50, requires_grad=True)


def test_the_ratio_of_the_gradients_is_that_of_the_weights(wav):
    found = LossBalancer(WEIGHTS)(losses_of(wav), wav)
    total = 0.0
    for name, loss in losses_of(wav).items():
        direction = gradient_of(loss, wav)
        share = WEIGHTS[name] / sum(WEIGHTS.values())
        assert found.shares[name].item() == pytest.approx(share, rel=1e-5)
        total = total + share * direction / item_norm(direction)
    assert torch.allclose(found.gradient, total, atol=1e-6)


def test_the_scale_of_a_loss_does_not_matter(wav):
    one = LossBalancer(WEIGHTS)(losses_of(wav), wav).gradient
    other = LossBalancer(WEIGHTS)(losses_of(wav, (1e-3, 5.0, 1e5)), wav).gradient
    assert torch.allclose(one, other, atol=1e-6)


def test_norms_are_averaged_over_the_batches_before(wav):
    """The average is that of flashy's, which EnCodec's code uses."""
    balancer = LossBalancer({"l1": 1.0}, total_norm=2.0, decay=0.9)
    total = count = 0.0
    for step in range(5):
        loss = (step + 1) ** 2 * wav.square().mean()
        direction = gradient_of(loss, wav)
        total = 0.9 * total + item_norm(direction)
        count = 0.9 * count + 1
        found = balancer({"l1": loss}, wav)
        wanted = 2.0 * direction / (total / count)
        assert torch.allclose(found.gradient, wanted, rtol=1e-5)


def test_the_norm_may_be_that_of_the_whole_batch(wav):
    found = LossBalancer(WEIGHTS, per_item=False)({"mel": losses_of(wav)["mel"]}, wav)
    assert found.gradient.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_shares_of_losses_that_are_not_there_go_to_the_others(wav):
    balancer = LossBalancer(WEIGHTS)
    losses = losses_of(wav)
    del losses["adversarial"]
    found = balancer(losses, wav)
    assert found.shares["mel"].item() == pytest.approx(1 / 1.1, rel=1e-5)
    assert balancer.norm_counts.tolist() == [1.0, 1.0, 0.0]
    later = balancer(losses_of(wav), wav)  # its average starts with its own norm
    assert later.shares["adversarial"].item() == pytest.approx(3 / 4.1, rel=1e-5)


def test_parameters_get_no_gradient_and_the_model_gets_the_balanced_one(wav):
    net, critic = nn.Linear(50, 50), nn.Linear(50, 1)
    output = net(wav)
    heard = output.detach().requires_grad_()
    losses = {"adversarial": -critic(heard).mean(), "l1": heard.abs().mean()}
    found = LossBalancer(WEIGHTS)(losses, heard)
    assert all(p.grad is None for p in [*net.parameters(), *critic.parameters()])
    assert heard.grad is None
    loss = found.as_loss(torch.tensor(7.5), output)
    assert loss.item() == 7.5
    (3.0 * loss).backward()  # as GradScaler and accumulation do
    wanted = torch.autograd.grad(net(wav), net.weight, 3.0 * found.gradient)[0]
    assert torch.allclose(net.weight.grad, wanted)
    assert all(p.grad is None for p in critic.parameters())


def test_averages_wait_for_the_commit_in_mode_step(wav):
    balancer = LossBalancer(WEIGHTS)
    balancer.statistics_mode = "step"
    balancer(losses_of(wav), wav)
    assert balancer.norm_counts.sum() == 0
    balancer.commit_statistics()
    assert balancer.norm_counts.tolist() == [1.0, 1.0, 1.0]
    at_once = LossBalancer(WEIGHTS)
    at_once(losses_of(wav), wav)
    assert torch.equal(balancer.norm_sums, at_once.norm_sums)
    balancer.commit_statistics()  # nothing staged: nothing moves
    assert torch.equal(balancer.norm_sums, at_once.norm_sums)
    balancer.eval()(losses_of(wav), wav)
    balancer.commit_statistics()
    assert balancer.norm_counts.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_is_shown_and_moves_no_average(wav, bad):
    balancer = LossBalancer(WEIGHTS)
    balancer(losses_of(wav), wav)
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    losses = losses_of(wav)
    losses["mel"] = losses["mel"] * bad
    assert not torch.isfinite(balancer(losses, wav).gradient).all()
    after = balancer.state_dict()
    assert after["norm_sums"][1] == before["norm_sums"][1]
    assert all(torch.isfinite(value).all() for value in after.values())


def test_a_loss_that_says_nothing_has_no_gradient(wav):
    losses = {
        "l1": wav.abs().mean(),
        "mel": 0 * wav.sum(),
        "adversarial": wav.new_ones(()),
    }
    found = LossBalancer(WEIGHTS)(losses, wav)
    assert torch.isfinite(found.gradient).all()
    assert found.shares["l1"].item() == pytest.approx(1.0)
    assert found.shares["adversarial"].item() == 0


def test_the_scale_of_half_precision_is_taken_out_again(wav):
    one = LossBalancer(WEIGHTS)
    other = LossBalancer(WEIGHTS)
    plain = one(losses_of(wav), wav).gradient
    scaled = other(losses_of(wav), wav, torch.tensor(65536.0)).gradient
    assert torch.equal(plain, scaled)  # a power of two
    assert torch.equal(one.norm_sums, other.norm_sums)


def test_a_checkpoint_holds_the_averages(wav):
    balancer, other = LossBalancer(WEIGHTS), LossBalancer(WEIGHTS)
    balancer(losses_of(wav, (5.0, 1.0, 2.0)), wav)
    assert set(balancer.state_dict()) == {"norm_sums", "norm_counts"}
    other.load_state_dict(balancer.state_dict())
    one = balancer(losses_of(wav), wav).gradient
    assert torch.equal(one, other(losses_of(wav), wav).gradient)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossBalancer({}), "weights must be"),
        (lambda: LossBalancer({"a": -1.0, "b": 1.0}), "weights must be"),
        (lambda: LossBalancer({"a": 0.0}), "one above 0"),
        (lambda: LossBalancer({"a": 1.0}, total_norm=0.0), "total_norm must be"),
        (lambda: LossBalancer({"a": 1.0}, decay=1.0), "decay in"),
        (lambda: LossBalancer(WEIGHTS)({}, torch.ones(1)), "no loss"),
        (lambda: LossBalancer(WEIGHTS)({"x": torch.ones(())}, torch.ones(1)), "'x'"),
    ],
)
def test_wrong_arguments_are_a_message(make, message):
    with pytest.raises(ValueError, match=message):
        make()
