"""Hinge losses and feature matching against their formulas, worked by hand."""

import math

import pytest
import torch

from speechbrain_ext.losses import (
    FeatureMatchingLoss,
    discriminator_accuracy,
    hinge_discriminator_loss,
    hinge_generator_loss,
)

#: Two discriminators, of three and of one logit.
REAL = [torch.tensor([2.0, 0.5, -1.0]), torch.tensor([[1.0]])]
FAKE = [torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([[0.25]])]


def test_hinge_losses_are_those_of_the_paper():
    # 1/2 (mean(3, 1, 0) + 0.75)
    assert hinge_generator_loss(FAKE).item() == pytest.approx((4 / 3 + 0.75) / 2)
    # 1/2 (mean(0, .5, 2) + 0) + 1/2 (mean(0, 1, 4) + 1.25)
    wanted = 2.5 / 3 / 2 + (5 / 3 + 1.25) / 2
    assert hinge_discriminator_loss(REAL, FAKE).item() == pytest.approx(wanted)


def test_hinge_sends_no_gradient_from_logits_beyond_the_margin():
    fake = torch.tensor([2.0, 0.0], requires_grad=True)
    hinge_generator_loss([fake]).backward()
    assert fake.grad.tolist() == [0.0, -0.5]
    real, fake = (torch.tensor([x, 0.0], requires_grad=True) for x in (2.0, -2.0))
    hinge_discriminator_loss([real], [fake]).backward()
    assert (real.grad.tolist(), fake.grad.tolist()) == ([0.0, -0.5], [0.0, 0.5])


def test_accuracies_count_the_right_side_of_zero():
    real, fake = discriminator_accuracy(REAL, FAKE)
    assert real.item() == pytest.approx((2 / 3 + 1) / 2)
    assert fake.item() == pytest.approx((1 / 3 + 0) / 2)
    assert [x.item() for x in discriminator_accuracy(*[[torch.zeros(3)]] * 2)] == [0, 0]


def test_feature_matching_is_the_mean_of_relative_distances():
    torch.manual_seed(0)
    sizes = [(2, 3, 4), (2, 1)], [(2, 5)]
    real = [
        [10.0**k * torch.randn(size) for size in row] for k, row in enumerate(sizes)
    ]
    fake = [[x + 0.1 * torch.randn_like(x) for x in row] for row in real]
    pairs = [
        pair
        for rows in zip(real, fake, strict=True)
        for pair in zip(*rows, strict=True)
    ]
    terms = [(r - f).abs().sum() / r.abs().sum() for r, f in pairs]
    found = FeatureMatchingLoss()(fake, real)
    assert found.item() == pytest.approx(sum(terms).item() / 3, rel=1e-5)


def test_feature_matching_does_not_depend_on_the_size_of_a_layer():
    real, fake = torch.randn(2, 8), torch.randn(2, 8)
    loss = FeatureMatchingLoss()
    one = loss([[fake]], [[real]])
    assert torch.allclose(one, loss([[1e3 * fake]], [[1e3 * real]]))
    assert torch.allclose(one, loss([[fake, fake]], [[real, real]]))


def test_feature_matching_teaches_the_generator_alone():
    real = torch.randn(2, 8, requires_grad=True)
    fake = torch.randn(2, 8, requires_grad=True)
    FeatureMatchingLoss()([[fake]], [[real]]).backward()
    assert real.grad is None
    assert fake.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_losses_are_float32_whatever_the_discriminator_computes_in(dtype):
    logits = [torch.full((4,), 0.5, dtype=dtype)]
    assert hinge_generator_loss(logits).dtype == torch.float32
    assert hinge_discriminator_loss(logits, logits).item() == pytest.approx(2.0)
    features = [[torch.full((70000,), 3.0, dtype=dtype)]]  # their sum is beyond fp16
    loss = FeatureMatchingLoss()(features, features)
    assert (loss.dtype, loss.item()) == (torch.float32, 0.0)


def test_silence_is_finite_and_a_nan_is_never_hidden():
    zero, ones = torch.zeros(3, requires_grad=True), torch.ones(3)
    loss = FeatureMatchingLoss()([[zero]], [[torch.zeros(3)]])
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(zero.grad).all()
    for bad in (math.nan, math.inf):
        spoiled = torch.tensor([0.0, bad])
        assert not torch.isfinite(hinge_generator_loss([-spoiled]))
        assert not torch.isfinite(hinge_discriminator_loss([-spoiled], [ones]))
        assert not torch.isfinite(FeatureMatchingLoss()([[spoiled]], [[ones[:2]]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hinge_generator_loss([]), "at least one"),
        (lambda: hinge_discriminator_loss(REAL, FAKE[:1]), "2 logits of real, 1 of"),
        (lambda: FeatureMatchingLoss()([], []), "at least one"),
        (lambda: FeatureMatchingLoss()([[REAL[0]]], [[REAL[1]]]), "same layers"),
        (lambda: FeatureMatchingLoss(0.0), "floor is 0.0"),
    ],
)
def test_what_does_not_pair_up_is_a_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
