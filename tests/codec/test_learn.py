"""The networks learn what is likely."""

from __future__ import annotations

import numpy as np
import torch

from speechbrain_ext.codec.learn import fit_unary_net


def test_it_finds_what_the_symbols_follow_and_leaves_the_streams_alone():
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 4, (6000, 3)).astype(np.float32)
    symbols = np.minimum(rng.geometric(0.5, 6000) - 1, 6)
    symbols[features[:, 1] > 2] = 0
    before = torch.get_rng_state()
    places = torch.ones(4, 1)
    kept = {"hidden": 8, "steps": 150, "batch_size": 512}
    tensors, bits = fit_unary_net(features, symbols, places, 6, seed=1, **kept)
    assert torch.equal(torch.get_rng_state(), before)
    # Two bits where it is geometric, none where it is 0; without the feature 1.5.
    assert bits < 1.2
    again, _ = fit_unary_net(features, symbols, places, 6, seed=1, **kept)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
