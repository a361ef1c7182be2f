"""The post-filter: nothing at first, and it looks no further than it says."""

from __future__ import annotations

import torch

from speechbrain_ext.codec.bands import FLOOR
from speechbrain_ext.codec.post_filter import REACH, Decoded, PostFilter


def some(frames: int = 20, bins: int = 32, seed: int = 0) -> Decoded:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(-2, 3, (1, frames, bins), generator=draw).float()
    others = torch.randn(4, 1, frames, bins, generator=draw)
    return Decoded(rows, *others)


def test_it_starts_as_what_it_is_given():
    decoded = some()
    assert torch.equal(PostFilter(8)(decoded), decoded.values + decoded.noise)


def test_it_looks_no_further_than_its_reach():
    torch.manual_seed(0)
    net, decoded = PostFilter(8), some()
    torch.nn.init.normal_(net.last.weight)
    other = Decoded(*(part.clone() for part in decoded))
    other.rows[:, 12] += 1
    apart = (net(decoded) - net(other)).abs().amax(dim=(0, 2)) > 1e-6
    assert apart.nonzero()[:, 0].tolist() == list(range(12 - REACH, 12 + REACH + 1))


def test_every_weight_learns():
    torch.manual_seed(0)
    net, decoded = PostFilter(8), some()
    torch.nn.init.normal_(net.last.weight)
    net(decoded).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.parameters())


def test_silence_stays_silent():
    torch.manual_seed(0)
    net, zeros = PostFilter(8), torch.zeros(1, 20, 32)
    torch.nn.init.normal_(net.last.weight)
    levels = torch.full_like(zeros, FLOOR)
    levels[:, :10] = -5.0
    made = net(Decoded(zeros, zeros, zeros, zeros, levels))
    assert made[:, :10].abs().min() > 0
    assert not made[:, 10:].any()
