"""The spike guard: absurd but finite, told by robust statistics of what was usual."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.spikes import RunningMedian, SpikeGuard
from speechbrain_ext.brain.verdict import judge


@pytest.mark.parametrize("window", [1, 2, 7, 50])
def test_running_median_and_deviation_are_those_of_the_last_values(window):
    values = np.random.default_rng(0).normal(size=120).round(1)  # with ties
    running = RunningMedian(window)
    for count, value in enumerate(values, 1):
        running.add(float(value))
        kept = np.sort(values[max(0, count - window) : count])
        middle = kept[len(kept) // 2]
        assert running.median() == middle
        spread = 1.4826 * np.sort(np.abs(kept - middle))[len(kept) // 2]
        assert running.deviation() == pytest.approx(spread)


def test_nothing_is_a_spike_before_the_warmup_is_over():
    guard = SpikeGuard(warmup=100)
    for _ in range(99):
        guard.commit(1.0, 1.0)
    assert guard.limits == (math.inf, math.inf)
    guard.commit(1.0, 1.0)
    assert guard.limits == (5.0, 5.0)


def test_a_limit_needs_both_many_deviations_and_a_multiple_of_the_median():
    calm, wild = SpikeGuard(warmup=100), SpikeGuard(warmup=100)
    for step in range(100):
        calm.commit(1.0 + 1e-6 * (step % 5), None)  # deviations alone: 1.00001
        wild.commit(1.0 + 2.0 * (step % 5), None)  # factor alone: 25
    assert calm.limits[0] == pytest.approx(5.0, rel=1e-4)
    assert wild.limits[0] == pytest.approx(5.0 + 10 * 1.4826 * 2.0)


def test_a_negative_loss_has_a_limit_above_it():
    guard = SpikeGuard(warmup=10)
    for step in range(10):
        guard.commit(-20.0 - step % 2, 1.0)
    assert -20 < guard.limits[0] <= 65


def test_non_finite_and_absent_values_teach_nothing():
    guard = SpikeGuard(warmup=10)
    for _ in range(10):
        guard.commit(math.nan, None)
    assert guard.limits == (math.inf, math.inf)


def test_history_survives_saving_and_loading():
    one, other = SpikeGuard(warmup=20, window=30), SpikeGuard(warmup=20, window=30)
    values = np.random.default_rng(1).lognormal(size=80)
    for value in values[:40]:
        one.commit(float(value), float(value) ** 2)
    other.load_state_dict(one.state_dict())
    assert other.limits == one.limits
    for value in values[40:]:
        one.commit(float(value), None)
        other.commit(float(value), None)
    assert other.limits == one.limits
    assert other.state_dict() == one.state_dict()


def test_policy_refuses_words_and_numbers_out_of_range_all_at_once():
    with pytest.raises(ValueError, match="NonFinitePolicy") as caught:
        NonFinitePolicy(
            spike="rejct", mode="on", snapshot_every=-1, safer_lr_factor=2.0
        )
    for name in ("spike", "mode", "snapshot_every", "safer_lr_factor"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "norm", "cause"),
    [(9.0, 9.0, "spike"), (9.0, 1.0, "accepted"), (1.0, 9.0, "accepted")],
)
def test_an_unusual_batch_is_no_spike_unless_loss_and_norm_both_say_so(
    loss, norm, cause
):
    verdict = judge(
        torch.tensor(loss),
        [torch.tensor(norm)],
        None,
        limits=(5.0, 5.0),
        reject_spikes=True,
    )
    assert verdict.cause == cause
    assert verdict.spike == (cause == "spike")
