"""A search in bfloat16 first finds what a search in float64 finds."""

import pytest
import torch

from speechbrain_ext.quantization import ResidualVectorQuantizer, search
from speechbrain_ext.quantization.screening import screened_codes
from speechbrain_ext.quantization.search import half_square_norms, nearest_codes


def excess(rows, codebook, codes):
    """How much farther than the nearest the chosen codes are, squared, in float64."""
    distances = torch.cdist(rows.double(), codebook.double()).square()
    chosen = distances.gather(1, codes[:, None])[:, 0]
    return (chosen - distances.amin(1)) / rows.double().square().sum(1).clamp(min=1e-30)


@pytest.mark.parametrize("width", [1, 7, 128])
@pytest.mark.parametrize("size", [1, 63, 300])
def test_no_code_is_farther_than_the_nearest(width, size):
    torch.manual_seed(width + size)
    codebook = torch.randn(size, width) * torch.rand(size, 1) * 10
    rows = torch.randn(700, width) * torch.rand(700, 1) * 10
    codes = screened_codes(rows, codebook, half_square_norms(codebook))
    assert excess(rows, codebook, codes).max() < 1e-5


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_codes_that_bfloat16_can_not_tell_apart_are_told_apart(scale):
    torch.manual_seed(0)
    base = torch.randn(1, 64)
    codebook = (base + 3e-3 * torch.randn(500, 64)) * scale
    rows = codebook[torch.randperm(500)]
    half_norms = half_square_norms(codebook)
    coarse = (rows.bfloat16() @ codebook.bfloat16().t() - half_norms).argmax(1)
    assert (codebook[coarse] != rows).any(1).float().mean() > 0.5
    codes = screened_codes(rows, codebook, half_norms)
    assert torch.equal(codebook[codes], rows)


def test_of_equal_codes_the_first_is_taken_and_zeros_are_no_harm():
    codebook = torch.cat([torch.zeros(100, 8), torch.ones(200, 8)])
    rows = torch.tensor([[0.1] * 8, [0.9] * 8, [0.0] * 8])
    codes = screened_codes(rows, codebook, half_square_norms(codebook))
    assert codes.tolist() == [0, 100, 0]


def test_no_rows_give_no_codes():
    codebook = torch.randn(300, 8)
    codes = screened_codes(torch.zeros(0, 8), codebook, half_square_norms(codebook))
    assert codes.shape == (0,)


def test_both_ways_of_search_find_the_same(monkeypatch):
    torch.manual_seed(1)
    codebook, rows = torch.randn(256, 32), torch.randn(1000, 64)[:, ::2]
    found = []
    for screens in (False, True):
        monkeypatch.setattr(search, "multiplies_bfloat16", lambda _, s=screens: s)
        found.append(nearest_codes(rows, codebook, screen=True))
    assert torch.equal(*found)


def test_only_training_screens_so_that_files_do_not_depend_on_the_processor(
    monkeypatch,
):
    asked = []
    monkeypatch.setattr(
        search, "multiplies_bfloat16", lambda device: asked.append(device) or False
    )
    rvq = ResidualVectorQuantizer(8, 1, 256, init="normal")
    latents = torch.randn(1, 600, 8)
    rvq.encode(latents)
    rvq.eval()(latents)
    assert not asked
    rvq.train()(latents)
    assert asked
