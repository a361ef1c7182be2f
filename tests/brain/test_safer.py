"""Safer settings: a factor on the rate that nobody but the step sees."""

from types import SimpleNamespace

import pytest
import torch

from speechbrain_ext.brain.safer import SaferSettings


def stepping(factor, steps, *, on, lr=0.1):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=lr)
    safer = SaferSettings(factor, steps)
    if on:
        safer.switch_on()
    optimizer.register_step_pre_hook(lambda o, a, k: safer.before_step(o))
    optimizer.register_step_post_hook(lambda o, a, k: safer.after_step())
    seen = []
    for _ in range(4):
        weight.grad = torch.ones(3)
        before = weight.detach().clone()
        optimizer.step()
        safer.count_step()
        seen.append(round((before - weight.detach())[0].item(), 6))
        assert optimizer.param_groups[0]["lr"] is lr
    return seen


def test_rate_is_lowered_for_as_many_steps_as_asked_and_never_seen():
    assert stepping(0.5, 2, on=True) == [0.05, 0.05, 0.1, 0.1]
    assert stepping(0.5, 2, on=False) == [0.1] * 4


def test_a_rate_that_is_a_tensor_comes_back_as_the_same_tensor():
    rate = torch.tensor(0.1)
    assert stepping(0.25, 1, on=True, lr=rate)[0] == pytest.approx(0.025)
    assert rate.item() == pytest.approx(0.1)


def test_mixed_precision_is_off_while_the_settings_hold():
    safer = SaferSettings(0.5, 1)
    stock = torch.autocast("cpu", dtype=torch.bfloat16)
    brain = SimpleNamespace(training_ctx=stock, device_type="cpu")

    def computed():
        with safer.full_precision(brain), brain.training_ctx:
            return torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype

    assert computed() == torch.bfloat16
    safer.switch_on()
    assert computed() == torch.float32
    assert brain.training_ctx is stock
    assert safer.count_step()
    assert computed() == torch.bfloat16
