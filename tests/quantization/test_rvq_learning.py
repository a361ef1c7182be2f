"""Codebooks learn from residuals; dead codes come back; skipped stages rest."""

import functools
import math

import pytest
import torch

from speechbrain_ext.quantization import ResidualVectorQuantizer

DIM = 16


@functools.cache
def frames(num, seed):
    """Clustered, correlated vectors, like log-mel frames of a few speakers."""
    generator = torch.Generator().manual_seed(1)
    centres = 2 * torch.randn(200, DIM, generator=generator)
    mixing = torch.randn(8, DIM, generator=generator) / 2
    generator.manual_seed(seed)
    which = torch.randint(0, 200, (num,), generator=generator)
    spread = torch.randn(num, 8, generator=generator) @ mixing
    return centres[which] + spread + 0.2 * torch.randn(num, DIM, generator=generator)


def train(
    steps=60, batch=512, num_quantizers=4, codebook_size=64, start_scale=1.0, **options
):
    """Train a quantizer; return it with its held-out NMSE in dB.

    k-means sees the frames times ``start_scale``.
    """
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(DIM, num_quantizers, codebook_size, **options)
    if options.get("init", "kmeans") == "kmeans":
        rvq.initialize(start_scale * frames(4096, 2))
    for part in frames(steps * batch, 3).split(batch):
        rvq(part[None])
    return rvq, nmse_db(rvq)


def nmse_db(rvq):
    held_out = frames(2048, 4)[None]
    error = rvq.eval()(held_out).quantized - held_out
    rvq.train()
    return 10 * math.log10(error.square().sum() / held_out.square().sum())


def test_residual_target_learns_from_randn_and_quantized_target_does_not():
    """The seed's switch: its codes are a fixed point of their own average."""
    _, residual = train(init="normal", dead_threshold=0.0)
    frozen, quantized = train(init="normal", dead_threshold=0.0, ema_target="quantized")
    assert residual < -8.0
    assert quantized > -0.5
    assert quantized - residual > 5.0
    torch.manual_seed(0)
    untrained = ResidualVectorQuantizer(DIM, 4, 64, init="normal")
    moved = frozen.bank.codebooks - untrained.bank.codebooks
    assert moved.abs().max() < 1e-6


def test_codes_follow_an_encoder_that_moves_and_quantized_target_does_not():
    _, start = train(steps=0, start_scale=0.5)
    _, residual = train(start_scale=0.5)
    _, quantized = train(start_scale=0.5, ema_target="quantized", dead_threshold=0.0)
    _, best = train(steps=0)
    assert quantized == pytest.approx(start, abs=0.01)
    assert residual < start - 1.0
    assert residual < best + 0.8


def test_revival_from_randn_reaches_kmeans_quality_with_all_codes_in_use():
    without, plain = train(init="normal", dead_threshold=0.0)
    revived, quality = train(init="normal")
    _, kmeans = train()
    assert quality < plain
    assert quality < kmeans + 0.3
    x = frames(2048, 4)[None]
    before, after = (r.eval()(x).metrics["usage"] for r in (without, revived))
    assert after.min() > 0.95
    assert before.min() < 0.9


def test_ema_is_that_of_van_den_oord_2017_appendix_a1():
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(
        DIM, 1, 8, init="normal", decay=0.9, dead_threshold=0.0
    )
    counts = torch.zeros(8, dtype=torch.float64)
    sums = torch.zeros(8, DIM, dtype=torch.float64)
    book = rvq.bank.codebooks[0].double()
    for part in frames(500, 5).split(100):
        codes = rvq(part[None]).codes.flatten()
        assert torch.equal(codes, torch.cdist(part.double(), book).argmin(1))
        for k in range(8):
            mine = part[codes == k].double()
            counts[k] = 0.9 * counts[k] + 0.1 * len(mine)
            sums[k] = 0.9 * sums[k] + 0.1 * mine.sum(0)
            if counts[k] > 0:
                book[k] = sums[k] / counts[k]
        assert torch.allclose(rvq.bank.codebooks[0].double(), book, atol=1e-5)


def test_second_stage_learns_residuals_not_latents():
    rvq, _ = train(num_quantizers=2, codebook_size=8, start_scale=0.5, decay=0.9)
    x = frames(2048, 4)[None]
    rvq.eval()
    residual = (x - rvq(x, num_quantizers=1).quantized)[0]
    codes = rvq(x).codes[0, 1]
    for k in range(8):
        mean = residual[codes == k].mean(0)
        assert (mean - rvq.bank.book(1)[k]).norm() < 0.25 * mean.norm()


def test_kmeans_start_is_not_pulled_to_zero_by_the_first_update():
    """Sums start at centroid x count; at the bare centroid the code would shrink."""
    rvq, before = train(steps=0, num_quantizers=1)
    norms = rvq.bank.book(0).norm(dim=1)
    rvq(frames(1024, 3)[None])
    after = rvq.bank.book(0).norm(dim=1)
    assert ((after - norms) / norms).abs().median() < 0.05
    assert nmse_db(rvq) < before + 0.05


def test_revival_resets_codebook_row_count_and_sum():
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(DIM, 1, 8, init="normal", revive_every=1)
    rvq.initialize(frames(1000, 2))
    bank = rvq.bank
    bank.codebooks[0, 5] = 1e4  # never wins a frame
    bank.ema_counts[0, 5] = 1e-6
    bank.ema_sums[0, 5] = 1e-2
    batch = frames(200, 3)
    rvq(batch[None])
    row, count = bank.codebooks[0, 5], bank.ema_counts[0, 5]
    assert (batch == row).all(1).any()
    assert count > 0.1 * bank.ema_counts[0].mean()
    assert torch.allclose(bank.ema_sums[0, 5], row * count)
    assert bank.revived.tolist() == [1]
    # Not overwritten by the next update, as it is where the sum was not reset.
    rvq(frames(200, 6)[None])
    assert (bank.codebooks[0, 5] - row).norm() < 0.9 * row.norm()


def test_revived_rows_are_distinct_finite_frames_of_the_batch():
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(DIM, 1, 64, init="normal")
    start = rvq.bank.book(0).clone()
    batch = frames(60, 3).clone()
    batch[::2] = float("nan")
    codes = rvq(batch[None]).codes[0, 0, 1::2].unique()
    lost = torch.ones(64, dtype=torch.bool)
    lost[codes] = False
    moved = (rvq.bank.book(0) != start).any(1)
    revived = rvq.bank.book(0)[lost & moved]
    # 30 finite frames for more dead codes than that: each is used once.
    assert lost.sum() > 30
    assert len(revived) == rvq.bank.revived[0] == 30
    pairs = (revived[:, None] == batch[1::2]).all(2)
    assert pairs.any(1).all()
    assert pairs.any(0).all()


def test_dead_codes_are_looked_for_every_so_many_commits():
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(DIM, 1, 64, init="normal", revive_every=4)
    for step in range(9):
        rvq.bank.ema_counts[0, 10:20] = 0.0
        before = int(rvq.bank.revived[0])
        # Frames far from each other win few codes: the rest stays dead.
        rvq(100 * frames(3, step)[None].repeat(1, 40, 1))
        assert (int(rvq.bank.revived[0]) > before) == (step % 4 == 0)


def test_relative_threshold_does_not_churn_a_small_batch():
    """K = 1024 with 600 frames: an absolute threshold of 2 redraws most codes."""
    rvq, _ = train(steps=1, batch=600, num_quantizers=1, codebook_size=1024)
    before = int(rvq.bank.revived.sum())
    for part in frames(60 * 600, 5).split(600):
        rvq(part[None])
    assert (int(rvq.bank.revived.sum()) - before) / 60 / 1024 < 0.005
    # What an absolute threshold of 2 would redraw:
    assert (rvq.bank.ema_counts[0] < 2.0).float().mean() > 0.7


def test_stages_skipped_by_dropout_neither_decay_nor_revive():
    rvq, _ = train(steps=2, init="normal")
    state = {
        name: getattr(rvq.bank, name)[2:].clone()
        for name in ("codebooks", "ema_counts", "ema_sums", "commits", "revived")
    }
    for part in frames(30 * 256, 5).split(256):
        rvq(part[None], num_quantizers=2)
    for name, value in state.items():
        assert torch.equal(getattr(rvq.bank, name)[2:], value), name
    assert rvq.bank.commits.tolist() == [32, 32, 2, 2]


def test_codes_that_won_nothing_keep_their_bits():
    rvq, _ = train(steps=3, num_quantizers=1, dead_threshold=0.0)
    before = rvq.bank.book(0).clone()
    codes = rvq(frames(16, 9)[None]).codes.unique()
    rest = torch.ones(64, dtype=torch.bool)
    rest[codes] = False
    assert torch.equal(rvq.bank.book(0)[rest], before[rest])


@pytest.mark.parametrize("kind", [{"group_sizes": [4] * 4}, {"codebook_dim": 4}])
def test_bands_and_low_dimensional_codes_learn_too(kind):
    options = {"num_quantizers": 8, "codebook_size": 16, **kind}
    _, start = train(steps=0, start_scale=0.5, **options)
    _, trained = train(start_scale=0.5, **options)
    assert trained < start - 2.0


def test_encoder_learns_through_the_quantizer():
    """Straight-through and commitment together train an autoencoder."""
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Linear(DIM, 8), torch.nn.Linear(8, DIM)
    rvq = ResidualVectorQuantizer(8, 3, 64, init="normal", commitment_weight=0.25)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    losses = []
    for part in frames(60 * 256, 3).split(256):
        result = rvq(encoder(part)[None])
        error = (decoder(result.quantized[0]) - part).square().mean()
        optimizer.zero_grad()
        (error + result.loss).backward()
        optimizer.step()
        losses.append(error.item() / part.square().mean().item())
    assert losses[0] > 0.9
    assert sum(losses[-10:]) / 10 < 0.75
