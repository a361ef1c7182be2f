"""Codes come back from bytes, and take as many as they are surprising."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechbrain_ext.codec.code_context import PER_OCTAVE, loudness
from speechbrain_ext.codec.code_net import rank_codes
from speechbrain_ext.codec.code_rows import new_record
from speechbrain_ext.codec.codes import CodeCoder, CodeLearner
from speechbrain_ext.codec.exact import ONE
from speechbrain_ext.quantization import (
    AdaptiveResidualVectorQuantizer,
    ResidualVectorQuantizer,
)


def bursts(seed: int, time: int = 400) -> torch.Tensor:
    """Latents of dim 8 that are loud for a while and soft for a while."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(time // 20, generator=generator).repeat_interleave(20)
    shape = torch.linspace(2, 0.3, 8)
    noise = torch.randn(time, 8, generator=generator)
    return noise * 10.0 ** (2 * level[:, None] - 2) * shape


def make(kind: str, size: int = 16):
    torch.manual_seed(0)
    if kind == "adaptive":
        found = AdaptiveResidualVectorQuantizer(
            8, 6, size, group_sizes=[3, 5], depth=4, kmeans_iterations=4
        )
    else:
        options = {
            "plain": {},
            "bands": {"group_sizes": [3, 5]},
            "low_dim": {"codebook_dim": 3},
        }[kind]
        found = ResidualVectorQuantizer(8, 6, size, kmeans_iterations=4, **options)
    found.initialize(torch.cat([bursts(seed) for seed in range(6)]))
    return found.eval()


def encode(quantizer, seed: int) -> np.ndarray:
    return quantizer.encode(bursts(seed)[None])[0].numpy()


KINDS = ("adaptive", "plain", "bands", "low_dim")


@pytest.fixture(scope="module")
def learned():
    """Quantizer, learner and coder of each kind; codebooks of 16, and of 12."""
    found = {}
    for kind in KINDS:
        quantizer = make(kind, size=12 if kind == "bands" else 16)
        learner = CodeLearner(quantizer, seed=0)
        learner.fit([encode(quantizer, seed) for seed in range(6)], steps=60)
        found[kind] = quantizer, learner, CodeCoder(quantizer, learner.model())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 130])
def test_codes_come_back(learned, kind, knows, frames):
    quantizer, _, coder = learned[kind]
    coder = coder if knows else CodeCoder(quantizer)
    codes = quantizer.encode(bursts(9, 140)[None, :frames])[0].numpy()
    data, rows = coder.encode(codes)
    assert rows == len(codes)
    assert np.array_equal(coder.decode(data, rows, frames), codes)
    # Also codes that no signal would give.
    codes = np.random.default_rng(0).integers(0, quantizer.codebook_size, codes.shape)
    data, rows = coder.encode(codes)
    assert np.array_equal(coder.decode(data, rows, frames), codes)


def test_what_is_not_learned_takes_the_nominal_bits(learned):
    quantizer = learned["adaptive"][0]
    codes = encode(quantizer, 9)
    data, _ = CodeCoder(quantizer).encode(codes)
    assert codes.size * 4 / 8 - 1 <= len(data) <= codes.size * 4 / 8 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learned_saves_bits_of_unseen_codes(learned, kind):
    quantizer, _, coder = learned[kind]
    codes = encode(quantizer, 9)
    flat, known = (c.encode(codes)[0] for c in (CodeCoder(quantizer), coder))
    assert len(known) < 0.9 * len(flat)
    # A file is as long as its information.
    assert 8 * len(known) - 16 <= coder.bits(codes).sum() * 1.002
    assert coder.bits(codes).sum() <= (8 * len(known) + 8) * 1.002


@pytest.mark.parametrize("kind", KINDS)
def test_integers_say_what_the_trained_network_says(learned, kind):
    quantizer, learner, coder = learned[kind]
    codes = encode(quantizer, 9)
    record = new_record(codes.size)
    exact = coder.bits(codes, record).sum()
    features, *columns = map(torch.from_numpy, record)
    with torch.no_grad():
        bits = learner.net(features.float() / ONE, *(x.long() for x in columns))
    assert exact == pytest.approx(float(bits.sum()), rel=0.003)


@pytest.mark.parametrize("most", [0, 100, 400, 10**6])
def test_the_most_rows_that_fit_are_written(learned, most):
    quantizer, _, coder = learned["adaptive"]
    codes = encode(quantizer, 9)
    data, rows = coder.encode(codes, most=most)
    assert len(data) <= most or rows == 1
    assert np.array_equal(coder.decode(data, rows, 400), codes[:rows])
    if rows < len(codes):
        # Four bytes are kept for the coder's end.
        assert len(coder.encode(codes[: rows + 1])[0]) > most - 4


def test_chosen_codes_cost_less_and_are_those_of_the_file(learned):
    quantizer, _, coder = learned["adaptive"]
    latents = bursts(9).numpy()
    nearest = encode(quantizer, 9)
    chosen = coder.chosen(latents, 6)
    data, rows = coder.choose(latents, 6)
    assert np.array_equal(coder.decode(data, rows, 400), chosen)
    assert coder.bits(chosen).sum() < 0.995 * coder.bits(nearest).sum()
    # Without a price they are the nearest, found by another search.
    coder = CodeCoder(quantizer, None, bits_worth=0)
    assert (coder.chosen(latents, 6) == nearest).mean() > 0.999


def test_learning_is_repeatable_and_leaves_the_streams_alone():
    quantizer, found = make("plain"), []
    codes = [encode(quantizer, 0)]
    before = torch.get_rng_state()
    for _ in range(2):
        learner = CodeLearner(quantizer, seed=3)
        learner.fit(codes, steps=3)
        found.append(learner.model().state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_promise_of_more_codes_than_bytes_can_hold_takes_no_memory(learned):
    assert learned["adaptive"][2].decode(b"abc", 6, 10**12) is None


@pytest.mark.parametrize("energy", [1, 2, 3, 63, 64, 1000, 12345678, 2**40 + 1, 2**60])
def test_loudness_is_a_logarithm_to_a_percent(energy):
    assert loudness(energy) == pytest.approx(PER_OCTAVE * np.log2(energy), abs=2.1)


def test_ranks_are_a_permutation_by_energy():
    vectors = np.random.default_rng(0).standard_normal((40, 5))
    rank = rank_codes(vectors)
    assert sorted(rank) == list(range(40))
    energies = np.square(vectors).sum(1)
    assert (np.diff(energies[np.argsort(rank)]) >= 0).all()
