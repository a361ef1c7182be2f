"""Adaptive RVQ: decoder and encoder agree, codes go where the energy is."""

import math

import pytest
import torch

from speechbrain_ext.quantization import AdaptiveResidualVectorQuantizer


def bursts(batch: int = 4, time: int = 200, seed: int = 0) -> torch.Tensor:
    """Gaussian frames, dim 12, of which every third is 40 dB louder."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, time, 12, generator=generator)
    loud = (torch.arange(time) % 3 == 0).float()[:, None]
    return latents * (0.01 + loud) * torch.linspace(2, 0.2, 12)


def make(**options) -> AdaptiveResidualVectorQuantizer:
    settings = {"group_sizes": [4, 4, 4], "depth": 4, "kmeans_iterations": 4}
    rvq = AdaptiveResidualVectorQuantizer(12, 8, 16, **(settings | options))
    rvq.initialize(bursts(batch=16), torch.Generator().manual_seed(0))
    return rvq.eval()


@pytest.fixture(scope="module")
def rvq() -> AdaptiveResidualVectorQuantizer:
    return make()


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("time", [1, 2, 50])
def test_decoder_finds_what_the_encoder_meant(rvq, rows, time):
    latents = bursts(time=time, seed=1)
    codes = rvq.encode(latents, rows)
    assert codes.shape == (4, rows, time)
    assert torch.equal(rvq.decode(codes), rvq(latents, rows).quantized)


def test_first_rows_are_a_codec_of_their_own(rvq):
    latents = bursts(seed=2)
    codes = rvq.encode(latents)
    errors = []
    for rows in range(1, 9):
        assert torch.equal(rvq.encode(latents, rows), codes[:, :rows])
        error = latents - rvq.decode(codes[:, :rows])
        errors.append(float(error.square().mean()))
    assert errors == sorted(errors, reverse=True)


def test_row_zero_is_group_zero_of_every_frame(rvq):
    latents = bursts(seed=3)
    stages = rvq.stages.encode(latents)
    assert torch.equal(rvq.encode(latents, 1)[:, 0], stages[:, 0])


def test_loud_frames_get_the_codes(rvq):
    latents = bursts(seed=4)
    plan = rvq.allocation.plan(rvq.stages.encode(latents), rows=4)
    loud = (plan.frame[:, 1:] % 3 == 0).float().mean()
    assert loud > 0.9


def test_error_is_far_below_equal_shares(rvq):
    # Equal shares: what the same codebooks give when every cell gets one stage.
    latents = bursts(seed=5)
    stages = rvq.stages.encode(latents)
    first = torch.full_like(stages, -1)
    for group in range(3):
        first[:, group * 4] = stages[:, group * 4]
    equal = torch.cat(
        [rvq.stages.bank.book(g * 4, 4)[first[:, g * 4]] for g in range(3)], dim=2
    )
    adaptive = rvq(latents, 3).quantized
    ratio = (latents - equal).square().mean() / (latents - adaptive).square().mean()
    assert 10 * math.log10(ratio) > 3


def test_noise_shaping_moves_codes_to_the_soft():
    latents = bursts(seed=6)
    soft = (torch.arange(200) % 3 != 0).float()
    shares, errors = [], []
    for shaping in (0.0, 0.9):
        rvq = make(noise_shaping=shaping)
        plan = rvq.allocation.plan(rvq.stages.encode(latents), rows=4)
        is_soft = torch.cat([soft, torch.zeros(1)])[plan.frame[:, 1:]]
        shares.append(float(is_soft.mean()))
        errors.append(float((latents - rvq(latents, 4).quantized).square().mean()))
    assert shares[1] > shares[0] + 0.1
    assert errors[1] > errors[0]


def test_expected_error_tells_how_large_the_error_is_and_where():
    rvq = make()
    latents = bursts(seed=7)
    quantized, error = rvq.decode_with_error(rvq.encode(latents, 4))
    actual = (latents - quantized).square().mean()
    loud = torch.arange(200) % 3 == 0
    assert abs(10 * math.log10(error[:, loud].mean() / (3 * actual))) < 6
    assert error[:, loud].mean() > 3 * error[:, ~loud].mean()


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_padding_changes_no_item(rvq, rows):
    latents = bursts(time=30, seed=8)
    frames = torch.tensor([30, 1, 17, 2])
    padded = latents.clone()
    for item, count in enumerate(frames):
        padded[item, count:] = 9.0
    codes = rvq.encode(padded, rows, num_frames=frames)
    decoded = rvq.decode(codes, num_frames=frames)
    for item, count in enumerate(frames):
        alone = rvq.encode(latents[item : item + 1, :count], rows)
        assert torch.equal(codes[item : item + 1, :, :count], alone)
        assert torch.equal(decoded[item : item + 1, :count], rvq.decode(alone))
        assert not decoded[item, count:].any()


def test_more_rows_than_cells_can_take_is_harmless():
    # Two groups of two stages: four codes per frame, and the fourth row finds fewer
    # cells than slots once some of them are full.
    rvq = AdaptiveResidualVectorQuantizer(
        12, 4, 16, group_sizes=[6, 6], depth=2, kmeans_iterations=2
    )
    rvq.initialize(bursts(batch=16))
    latents = bursts(seed=9)
    codes = rvq.eval().encode(latents)
    assert torch.equal(rvq.decode(codes), rvq(latents).quantized)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_frame_shows_in_its_item_only(rvq, bad):
    latents = bursts(seed=10)
    clean = rvq(latents).quantized
    latents[1, 7, 3] = bad
    result = rvq(latents)
    assert result.quantized[1, 7].isnan().any()
    assert not result.loss.isfinite()
    assert torch.equal(result.quantized[[0, 2, 3]], clean[[0, 2, 3]])


def test_silence_is_coded_and_has_a_finite_gradient(rvq):
    latents = torch.zeros(1, 20, 12, requires_grad=True)
    result = rvq(latents)
    (result.quantized.sum() + result.loss).backward()
    assert result.quantized.isfinite().all()
    assert latents.grad.isfinite().all()


def test_gradient_passes_straight_through(rvq):
    latents = bursts(seed=11).requires_grad_()
    weights = torch.randn_like(latents)
    (rvq(latents).quantized * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


def test_saved_and_loaded_it_codes_the_same(rvq):
    other = AdaptiveResidualVectorQuantizer(12, 8, 16, group_sizes=[4, 4, 4], depth=4)
    other.load_state_dict(rvq.state_dict())
    latents = bursts(seed=12)
    codes = rvq.encode(latents)
    assert torch.equal(other.eval().encode(latents), codes)
    assert torch.equal(other.decode(codes), rvq.decode(codes))


def test_before_initialize_all_groups_take_turns():
    rvq = AdaptiveResidualVectorQuantizer(
        12, 6, 16, group_sizes=[4, 4, 4], depth=2, init="normal"
    ).eval()
    latents = bursts(seed=13)
    plan = rvq.allocation.plan(rvq.stages.encode(latents), rows=6)
    # After three rows every cell has one stage, after six rows two.
    for rows, depth in ((3, 1), (6, 2)):
        cells = plan.frame[:, :rows] * 3 + plan.stage[:, :rows] // 2
        for item in cells.flatten(1):
            assert (torch.bincount(item, minlength=600) == depth).all()


def test_training_stages_statistics_and_discards_them():
    rvq = make()
    rvq.statistics_mode = "step"
    before = {k: v.clone() for k, v in rvq.state_dict().items()}
    rvq.train()(bursts(seed=14))
    rvq.discard_statistics()
    after = rvq.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    rvq(bursts(seed=14))
    rvq.commit_statistics()
    changed = [k for k, v in rvq.state_dict().items() if not torch.equal(v, before[k])]
    assert any("codebooks" in name for name in changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_shaping": 1.0}, r"noise_shaping must be in \[0, 1\), got 1.0"),
        ({"depth": 2}, "num_quantizers must be between 1 and 6, got 8"),
        ({"dropout_choices": [9]}, "dropout_choices must be between 1"),
        ({"group_sizes": [4, 4]}, "group_sizes"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveResidualVectorQuantizer(
            12, 8, 16, **({"group_sizes": [4, 4, 4], "depth": 4} | options)
        )


def test_foreign_codes_are_refused(rvq):
    with pytest.raises(ValueError, match=r"\[0, 15\], got 16"):
        rvq.decode(torch.full((1, 1, 5), 16))
    with pytest.raises(ValueError, match="n from 1 to 8"):
        rvq.decode(torch.zeros(1, 9, 5, dtype=torch.int64))


def test_statistics_in_forward_or_after_it_reconstruct_the_same():
    """In forward mode codebooks move after the lookup, not between search and it."""
    torch.manual_seed(0)
    frames = torch.randn(2, 30, 8)
    results = []
    for mode in ("forward", "step"):
        quantizer = AdaptiveResidualVectorQuantizer(
            dim=8, num_quantizers=4, codebook_size=4, group_sizes=[4, 4], depth=2
        )
        quantizer.initialize(torch.randn(200, 8, generator=_seeded(1)), _seeded(2))
        quantizer.train()
        quantizer.statistics_mode = mode
        outputs = []
        for _ in range(3):
            outputs.append(quantizer(frames).quantized)
            if mode == "step":
                quantizer.commit_statistics()
        results.append(torch.stack(outputs))
    assert torch.equal(*results)
    assert not torch.equal(results[0][0], results[0][2])  # codebooks do move


def _seeded(seed):
    return torch.Generator().manual_seed(seed)
