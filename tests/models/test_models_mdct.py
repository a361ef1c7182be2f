"""The MDCT against its textbook definition and its promises."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.models.mdct import MDCT, WINDOWS, princen_bradley_window


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("samples", [1, 2, 319, 320, 321, 4807])
def test_every_sample_comes_back(window, samples):
    mdct = MDCT(320, window)
    wav = torch.rand(2, samples) * 2 - 1
    again = mdct.inverse(mdct(wav), length=samples)
    assert again.shape == wav.shape
    assert (again - wav).abs().max() < 1e-5


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("hop", [2, 8, 320])
def test_windows_are_power_complementary_and_symmetric(window, hop):
    values = princen_bradley_window(hop, window)
    power = values[:hop].square() + values[hop:].square()
    torch.testing.assert_close(power, torch.ones_like(power))
    torch.testing.assert_close(values, values.flip(0))


def test_coefficients_follow_the_definition():
    hop = 8
    wav = np.random.default_rng(0).standard_normal(3 * hop)
    padded = np.concatenate([np.zeros(hop), wav, np.zeros(hop)])
    n, k = np.arange(2 * hop), np.arange(hop)[:, None]
    kernel = np.cos(math.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5))
    window = np.sin(math.pi / (2 * hop) * (n + 0.5))
    expected = [
        math.sqrt(2 / hop) * kernel @ (window * padded[t * hop : (t + 2) * hop])
        for t in range(4)
    ]
    actual = MDCT(hop)(torch.from_numpy(wav)[None])
    np.testing.assert_allclose(actual[0], np.stack(expected), atol=1e-5)


def test_energy_is_kept():
    wav = torch.randn(1, 4000)
    energy = MDCT(320)(wav).square().sum()
    torch.testing.assert_close(energy, wav.square().sum(), rtol=1e-5, atol=0)


def test_autocast_does_not_reach_it():
    mdct, wav = MDCT(64), torch.randn(1, 1000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coefficients = mdct(wav)
        again = mdct.inverse(coefficients, length=1000)
    assert coefficients.dtype == again.dtype == torch.float32
    assert (again - wav).abs().max() < 1e-5


def test_half_precision_input_is_accepted():
    assert MDCT(16)(torch.randn(1, 40).half()).dtype == torch.float32


def test_nan_stays_in_its_item():
    wav = torch.randn(2, 500)
    wav[0, 100] = math.nan
    mdct = MDCT(64)
    again = mdct.inverse(mdct(wav), length=500)
    assert again[0].isnan().any()
    assert not again[1].isnan().any()


def test_double_backward_free_gradient_is_the_adjoint():
    # The transform is orthonormal: the gradient of |c|^2 / 2 is the signal itself.
    wav = torch.randn(1, 333, requires_grad=True)
    (0.5 * MDCT(32)(wav).square().sum()).backward()
    torch.testing.assert_close(wav.grad, wav.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hop", [0, -2, 3])
def test_bad_hop_is_named(hop):
    with pytest.raises(ValueError, match=f"got {hop}"):
        MDCT(hop)


def test_unknown_window_lists_the_known_ones():
    with pytest.raises(ValueError, match="'hann'; one of sine, kbd"):
        MDCT(16, "hann")


@pytest.mark.parametrize("shape", [(1, 0), (10,), (1, 1, 10)])
def test_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="wav must be"):
        MDCT(16)(torch.zeros(shape))


def test_more_samples_than_the_frames_hold_are_refused():
    with pytest.raises(ValueError, match="3 frames hold 32 samples, 33"):
        MDCT(16).inverse(torch.zeros(1, 3, 16), length=33)
