"""Compiled places and sums are those that tensors give."""

from __future__ import annotations

import pytest
import torch

from speechbrain_ext.quantization import AdaptiveResidualVectorQuantizer
from speechbrain_ext.quantization.allocation import Allocation


def random_allocation(seed: int, depth: int, noise_shaping: float) -> Allocation:
    """Tables with few values, so that many cells tie."""
    generator = torch.Generator().manual_seed(seed)
    found = Allocation(3, depth, 8, noise_shaping)
    for name in ("priority", "first_priority", "energy"):
        table = getattr(found, name)
        table.copy_(torch.randint(1, 12, table.shape, generator=generator))
    found.first_priority[0] = 1024
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise_shaping", [0.0, 0.5])
@pytest.mark.parametrize("padded", [False, True])
def test_walking_finds_the_places_that_sorting_finds(seed, noise_shaping, padded):
    # Six rows of three groups with depth 2: at the end nothing is left to refine.
    allocation = random_allocation(seed, 2, noise_shaping)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 8, (2, 6, 9), generator=generator)
    num_frames = torch.tensor([9, 4]) if padded else None
    for received in (False, True):
        walked = allocation._walk(codes, 6, num_frames, received)
        sorted_ = allocation._sort(codes, 6, num_frames, received)
        for name in ("frame", "stage", "codes"):
            assert torch.equal(getattr(walked, name), getattr(sorted_, name)), name


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_compiled_sums_are_those_of_tensors(rows):
    torch.manual_seed(0)
    rvq = AdaptiveResidualVectorQuantizer(
        9, 8, 16, group_sizes=[2, 3, 4], depth=4, kmeans_iterations=2
    )
    latents = torch.randn(3, 60, 9) * torch.linspace(3, 0.1, 60)[:, None]
    rvq.initialize(latents)
    lengths = torch.tensor([60, 31, 1])
    codes = rvq.encode(latents, rows, lengths)
    codes[1, :, 31:] = 5  # what stands in padding is nobody's business
    plan = rvq.allocation.plan(codes, rows, lengths, received=True)
    for one, other in zip(rvq._add_up(plan), rvq._look_up(plan), strict=True):
        assert torch.equal(one, other)
