"""Waveform losses and the bound that keeps the gradient alive."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechbrain_ext.losses import (
    MultiResolutionSTFTLoss,
    ReconstructionLoss,
    SNRLoss,
    WaveformL1Loss,
    bounded,
)


@given(st.floats(-(2.0**20), 2.0**100, width=32), st.floats(0.125, 64, width=32))
def test_bounded_keeps_small_values_and_rescales_large_ones(value, limit):
    loss = torch.tensor(value, requires_grad=True)
    result = bounded(loss, limit)
    result.backward()
    assert result.item() == pytest.approx(min(value, limit), rel=1e-5)
    slope = limit / value if value > limit else 1.0
    assert loss.grad.item() == pytest.approx(slope, rel=1e-5)


def test_bounded_gradient_is_alive_where_clamp_is_dead():
    weight = torch.tensor(100.0, requires_grad=True)
    bounded(weight.square(), 10.0).backward()
    assert weight.grad > 0
    weight.grad = None
    weight.square().clamp(0, 10.0).backward()
    assert weight.grad == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bounded_never_hides_a_bad_value(bad):
    assert not torch.isfinite(bounded(torch.tensor(bad), 10.0))


def test_bounded_has_a_finite_gradient_at_zero():
    loss = torch.zeros(2, requires_grad=True)
    bounded(loss, 10.0).sum().backward()
    assert torch.equal(loss.grad, torch.ones(2))


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_bounded_refuses_a_limit_that_bounds_nothing(limit):
    with pytest.raises(ValueError, match="above 0"):
        bounded(torch.tensor(1.0), limit)


@pytest.mark.parametrize("snr_db", [-20, 0, 13, 30])
def test_snr_loss_is_minus_the_ratio_in_bels(snr_db):
    target = 0.1 * torch.randn(3, 8000)
    noise = torch.randn(3, 8000)
    size = target.norm(dim=1) / noise.norm(dim=1) * 10 ** (-snr_db / 20)
    loss = SNRLoss()(target + size[:, None] * noise, target)
    assert loss.item() == pytest.approx(-snr_db / 10, abs=0.01)


def test_scale_invariant_loss_ignores_the_gain():
    prediction, target = torch.randn(2, 3, 8000) * 0.1
    prediction += target
    loss = SNRLoss(scale_invariant=True)
    expected = loss(prediction, target)
    assert loss(2 * prediction, target).item() == pytest.approx(
        expected.item(), abs=1e-2
    )


@pytest.mark.parametrize("loss", [SNRLoss(), SNRLoss(scale_invariant=True)])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-3, 1.0, 1e10])
def test_snr_loss_is_finite_at_any_level(loss, level):
    prediction = level * torch.randn(2, 100)
    for target in (torch.zeros(2, 100), prediction.clone(), torch.randn(2, 100)):
        wav = prediction.clone().requires_grad_()
        value = loss(wav, target)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(wav.grad).all()


@pytest.mark.parametrize("loss", [WaveformL1Loss(), SNRLoss()])
def test_autocast_and_half_precision_change_no_bit(loss):
    prediction, target = (0.1 * torch.randn(2, 3, 500)).half()
    expected = loss(prediction.float(), target.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(prediction, target), expected)
    assert expected.dtype == torch.float32


@pytest.mark.parametrize("loss", [WaveformL1Loss(), SNRLoss()])
def test_nan_in_gives_nan_out_and_shapes_are_checked(loss):
    prediction, target = torch.randn(2, 3, 500)
    prediction[1, 7] = math.nan
    assert loss(prediction, target).isnan()
    with pytest.raises(ValueError, match="shapes differ"):
        loss(prediction, target[:, 1:])


def test_reconstruction_loss_sums_bounded_terms_and_counts_saturations():
    loss = ReconstructionLoss(
        {"l1": WaveformL1Loss(), "stft": MultiResolutionSTFTLoss()},
        {"l1": 10.0, "stft": 0.5},
        limit=10.0,
    )
    quiet = 0.01 * torch.randn(2, 2000)
    clean = loss(quiet, torch.zeros(2, 2000) + 0.9 * quiet)
    assert clean.total.item() == pytest.approx(
        (10 * clean.terms["l1"] + 0.5 * clean.terms["stft"]).item(), rel=1e-6
    )
    assert loss.saturations == 0
    wild = (1e4 * quiet).requires_grad_()
    result = loss(wild, torch.zeros(2, 2000))
    assert result.terms["l1"] > 10
    assert result.total.item() == pytest.approx(10 * 10 + 0.5 * 10, rel=1e-5)
    assert loss.saturations == 2
    result.total.backward()
    assert wild.grad.any()
    loss.eval()(wild, quiet)
    assert loss.saturations == 2
    assert not loss.state_dict()


def test_reconstruction_loss_hides_no_nan():
    loss = ReconstructionLoss({"l1": WaveformL1Loss()}, {"l1": 1.0})
    result = loss(torch.full((1, 8), math.nan), torch.zeros(1, 8))
    assert result.total.isnan()
    assert result.terms["l1"].isnan()


@pytest.mark.parametrize(
    ("terms", "weights", "limit"),
    [
        ({}, {}, 1.0),
        ({"a": SNRLoss()}, {"b": 1.0}, 1.0),
        ({"a": SNRLoss()}, {"a": 1}, 0),
    ],
)
def test_reconstruction_loss_refuses_what_does_not_fit(terms, weights, limit):
    with pytest.raises(ValueError, match="ReconstructionLoss"):
        ReconstructionLoss(terms, weights, limit)
