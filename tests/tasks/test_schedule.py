"""The learning rate goes up, then down, and goes on where it was after a restart."""

import math

import pytest
import torch

from speechbrain_ext.losses import AAMSoftmax
from speechbrain_ext.tasks.schedule import MarginRamp, WarmupCosine


def test_rate_follows_warm_up_and_half_a_cosine():
    schedule = WarmupCosine(2.0, warmup_steps=4, final_scale=0.1, total_steps=14)
    assert [schedule.at(s) for s in range(4)] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    for step in range(4, 14):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 4) / 10))
        assert schedule.at(step) == pytest.approx(2.0 * (0.1 + 0.9 * cosine))
    assert schedule.at(10**6) == pytest.approx(0.2)


def test_all_groups_get_the_rate_of_the_coming_step():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    schedule = WarmupCosine(1.0, warmup_steps=2, total_steps=4)
    schedule.apply(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    schedule.advance()
    schedule.apply(optimizer)
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("kind", [WarmupCosine, MarginRamp])
def test_the_position_survives_a_checkpoint(tmp_path, kind):
    from speechbrain.utils.checkpoints import Checkpointer

    schedule = kind(1.0, total_steps=10)
    for _ in range(7):
        schedule.advance()
    Checkpointer(tmp_path, {"schedule": schedule}).save_checkpoint()
    other = kind(1.0, total_steps=10)
    Checkpointer(tmp_path, {"schedule": other}).recover_if_possible()
    assert other.step == 7


def test_a_setting_out_of_range_is_named():
    with pytest.raises(ValueError, match="final_scale"):
        WarmupCosine(1.0, final_scale=2.0)


def test_the_margin_grows_between_two_shares_of_the_run():
    ramp = MarginRamp(0.3, start=0.25, end=0.75, total_steps=8)
    expected = [0, 0, 0, 0.075, 0.15, 0.225, 0.3, 0.3, 0.3]
    assert [ramp.at(step) for step in range(9)] == pytest.approx(expected)
    # No ramp: the margin stands from that step on.
    sudden = MarginRamp(0.3, start=0.5, end=0.5, total_steps=4)
    assert [sudden.at(step) for step in range(4)] == [0, 0, 0.3, 0.3]
    assert MarginRamp(0.3, start=0, end=0, total_steps=4).at(0) == 0.3


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_classifier_gets_the_margin_of_the_coming_step(is_wrapped):
    classifier = AAMSoftmax(4, 2, margin=0.5)
    ramp = MarginRamp(0.2, start=0.0, end=1.0, total_steps=2)
    outer = torch.nn.DataParallel(classifier) if is_wrapped else classifier
    margins = []
    for _ in range(3):
        ramp.apply(outer)
        margins.append(classifier.margin)
        ramp.advance()
    assert margins == pytest.approx([0.0, 0.1, 0.2])


def test_a_ramp_without_a_length_or_the_wrong_way_round_is_refused():
    with pytest.raises(ValueError, match="total_steps"):
        MarginRamp(0.2).at(0)
    with pytest.raises(ValueError, match="start <= end"):
        MarginRamp(0.2, start=0.5, end=0.1)
