"""What ResidualVectorQuantizer computes: codes, sums, gradients, losses, options."""

import copy
import math

import pytest
import torch

from speechbrain_ext.quantization import ResidualVectorQuantizer
from speechbrain_ext.quantization.kmeans import kmeans
from speechbrain_ext.quantization.search import nearest_codes

KINDS = {
    "plain": {},
    "bands": {"group_sizes": [4, 6, 2]},
    "low_dim": {"codebook_dim": 3},
}


def make(kind="plain", num_quantizers=4, codebook_size=16, **options):
    torch.manual_seed(0)
    options = {"init": "normal", **KINDS[kind], **options}
    return ResidualVectorQuantizer(12, num_quantizers, codebook_size, **options)


def latents(batch=3, time=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, 12, generator=generator)


def brute_force(rvq, frames):
    """Codes and their sum by float64 distances to every code; [n, dim] frames."""
    residual, codes = frames.double().clone(), []
    for stage in range(rvq.num_quantizers):
        book = rvq.bank.codebooks[stage].double()
        if rvq.stage_groups is None:
            directions = rvq.subspaces.directions[stage].double()
            full = book @ directions.T
            part = residual @ directions
        else:
            sizes = rvq.subspaces.group_sizes
            group = rvq.stage_groups[stage]
            start, width = sum(sizes[:group]), sizes[group]
            book = book[:, :width]
            full = torch.zeros(len(book), frames.shape[1], dtype=torch.float64)
            full[:, start : start + width] = book
            part = residual[:, start : start + width]
        code = torch.cdist(part, book).argmin(1)
        residual -= full[code]
        codes.append(code)
    return torch.stack(codes), frames.double() - residual


@pytest.mark.parametrize("size", [2, 7, 64, 128, 320, 1024])
def test_search_finds_a_nearest_code_for_any_codebook_size(size):
    torch.manual_seed(size)
    rows, book = torch.randn(700, 5), torch.randn(size, 5)
    distances = torch.cdist(rows.double(), book.double())
    found = distances.gather(1, nearest_codes(rows, book)[:, None])[:, 0]
    assert torch.allclose(found, distances.amin(1), atol=1e-6)


@pytest.mark.parametrize("size", [256, 1024])
def test_of_equal_codes_one_row_finds_the_same_as_many(size):
    """Streams look up few frames at a time, and must find the codes of the whole."""
    torch.manual_seed(0)
    book = torch.randn(size // 8, 6).repeat(8, 1)[torch.randperm(size)]
    rows = torch.randn(100, 6)
    one_by_one = torch.cat([nearest_codes(row[None], book) for row in rows])
    assert torch.equal(one_by_one, nearest_codes(rows, book))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["randn", "kmeans", "trained"])
def test_codes_and_sum_equal_brute_force_in_float64(kind, start):
    rvq = make(kind)
    if start != "randn":
        rvq.initialize(latents(20))
    if start == "trained":
        for seed in range(5):
            rvq(latents(seed=seed))
    x = latents()
    result = rvq.eval()(x)
    codes, total = brute_force(rvq, x.view(-1, 12))
    ours = result.codes.transpose(0, 1).reshape(4, -1)
    assert (ours == codes).float().mean() > 0.99  # float32 may break a tie otherwise
    assert torch.allclose(result.quantized.view(-1, 12).double(), total, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_quantizers", [1, 3, None])
def test_forward_in_eval_equals_decode_of_encode_to_the_bit(kind, num_quantizers):
    rvq = make(kind).eval()
    x = latents()
    codes = rvq.encode(x, num_quantizers)
    result = rvq(x, num_quantizers)
    assert torch.equal(result.codes, codes)
    assert torch.equal(result.quantized, rvq.decode(codes))


@pytest.mark.parametrize("kind", KINDS)
def test_first_stages_are_the_nested_lower_bitrate(kind):
    rvq = make(kind)
    rvq.initialize(latents(20))
    rvq.eval()
    x = latents()
    full = rvq.encode(x)
    errors = []
    for n in range(1, 5):
        assert torch.equal(rvq.encode(x, n), full[:, :n])
        errors.append((rvq.decode(full[:, :n]) - x).square().mean())
    assert errors == sorted(errors, reverse=True)
    assert rvq.kbps(4, 75.0) == pytest.approx(4 * 4 * 75 / 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_output_gradient_passes_straight_through_once(kind):
    rvq = make(kind, commitment_weight=0.0)
    x = latents().requires_grad_()
    upstream = torch.randn_like(x)
    (rvq(x).quantized * upstream).sum().backward()
    assert torch.equal(x.grad, upstream)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [10.0, 1.5, 0.01])
def test_loss_gradient_reaches_the_encoder_as_autograd_computes_it(kind, limit):
    """Reference: the loss written out, clamped by l * (limit / l).detach()."""
    rvq = make(kind, commitment_weight=0.5, commitment_limit=limit)
    rvq.initialize(latents(20))
    rvq.eval()
    x = (3 * latents()).requires_grad_()
    result = rvq(x)
    result.loss.backward()

    y = x.detach().clone().requires_grad_()
    partial = [torch.zeros_like(y)] + [
        rvq.decode(result.codes[:, : n + 1]) for n in range(4)
    ]

    def clamp(loss):
        return loss * (limit / loss).detach() if loss > limit else loss

    total = 0.0
    for stage in range(4):
        error = y - partial[stage + 1]
        if rvq.stage_groups is None:
            error = error @ rvq.subspaces.directions[stage]
        else:
            sizes, group = rvq.subspaces.group_sizes, rvq.stage_groups[stage]
            error = error[..., sum(sizes[:group]) : sum(sizes[: group + 1])]
        total = total + clamp(error.square().sum() / y.numel())
    reference = clamp(0.5 * total)
    reference.backward()
    assert torch.allclose(result.loss, reference, rtol=1e-4)
    assert torch.allclose(x.grad, y.grad, rtol=1e-3, atol=1e-8)
    assert x.grad.abs().sum() > 0


def test_commitment_is_clamped_with_its_gradient_alive_and_counted():
    rvq = make(commitment_weight=1.0).eval()
    x = (1e4 * latents()).requires_grad_()
    result = rvq(x)
    result.loss.backward()
    assert result.loss == 10.0
    assert result.metrics["saturations"] == 5  # four quantizers and the total
    assert result.metrics["commitment"].min() > 10
    # A step against the gradient goes downhill: towards the codes.
    assert (x.grad * x.detach()).sum() > 0
    assert torch.isfinite(x.grad).all()
    calm = rvq(latents() * 0.1)
    assert calm.metrics["saturations"] == 0


def test_no_gradient_and_no_parameter_in_the_codebooks():
    rvq = make()
    assert list(rvq.parameters()) == []
    assert not any(buffer.requires_grad for buffer in rvq.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_search_is_float32_and_output_keeps_the_input_dtype(dtype):
    rvq = make().eval()
    x = latents().to(dtype)
    result = rvq(x)
    assert result.quantized.dtype == dtype
    assert result.loss.dtype == torch.float32
    assert torch.equal(result.codes, rvq.encode(x.float()))


def test_autocast_and_half_modules_do_not_change_the_codes():
    rvq = make().eval()
    x = latents()
    expected = rvq.encode(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rvq(x).codes, expected)
        assert torch.equal(rvq.encode(x), expected)
    half = copy.deepcopy(rvq).half()
    assert half.bank.codebooks.dtype == torch.float32
    assert torch.equal(half.encode(x), expected)


def test_half_precision_norms_that_overflow_still_find_their_code():
    # |x|^2 is above 65504 for every frame: float16 distances would all be infinite.
    rvq = make()
    x = (300 * latents(20)).half()
    rvq.initialize(x)
    error = (rvq.eval()(x).quantized.float() - x.float()).square().sum()
    assert error < 0.5 * x.float().square().sum()


def test_counts_and_sums_of_half_precision_frames_are_exact():
    # In float16 a count stops at 2048 and a sum overflows at 65504.
    rvq = make(num_quantizers=1, dead_threshold=0.0, decay=0.5)
    rvq(torch.full((1, 5000, 12), 100.0, dtype=torch.float16))
    winner = rvq.bank.ema_counts[0].argmax()
    assert rvq.bank.ema_counts[0].sum() == rvq.bank.ema_counts[0, winner] == 2500
    assert (rvq.bank.ema_sums[0, winner] == 250000).all()
    assert (rvq.bank.codebooks[0, winner] == 100).all()


def test_quantizer_dropout_draws_from_the_choices_only_in_training():
    rvq = make(quantizer_dropout=0.5, dropout_choices=[1, 3])
    counts = [rvq(latents(1, 5)).codes.shape[1] for _ in range(200)]
    assert set(counts) == {1, 3, 4}
    assert 60 < counts.count(4) < 140
    assert rvq(latents(), num_quantizers=2).codes.shape[1] == 2
    torch.manual_seed(5)
    first = [rvq(latents(1, 5)).codes.shape[1] for _ in range(9)]
    torch.manual_seed(5)
    assert first == [rvq(latents(1, 5)).codes.shape[1] for _ in range(9)]
    assert rvq.eval()(latents()).codes.shape[1] == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("initialized", [True, False])
def test_state_dict_round_trip_continues_to_the_bit(kind, initialized):
    original = make(kind, init="kmeans", init_frames=100)
    original(latents(1))
    if initialized:
        original(latents(4))
    assert original.initialized is initialized
    restored = make(kind, init="kmeans", init_frames=100, decay=0.5)
    restored.bank.decay = 0.99
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    assert restored.initialized is initialized
    assert restored.stage_groups == original.stage_groups
    for step in range(3):
        x = latents(3, seed=10 + step)
        results = []
        for rvq in (original, restored):
            torch.manual_seed(step)
            results.append(rvq(x).quantized)
        assert torch.equal(*results)
    for name, value in original.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_checkpoint_of_other_bands_is_refused_by_name():
    donor = make("bands")
    with pytest.raises(RuntimeError, match="group_sizes has 2 groups"):
        make("plain", group_sizes=[6, 6]).load_state_dict(donor.state_dict())


def test_usage_and_perplexity_are_those_of_the_codes():
    rvq = make().eval()
    result = rvq(latents())
    for stage in range(4):
        counts = torch.bincount(result.codes[:, stage].flatten(), minlength=16).double()
        share = counts[counts > 0] / counts.sum()
        perplexity = math.exp(-(share * share.log()).sum())
        assert result.metrics["usage"][stage] == (counts > 0).float().mean()
        assert result.metrics["perplexity"][stage] == pytest.approx(perplexity, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (2, 0), (0, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_one_frame_or_none_is_no_special_case(kind, batch, time, training):
    rvq = make(kind).train(training)
    before = copy.deepcopy(rvq.state_dict())
    x = torch.randn(batch, time, 12, requires_grad=True)
    result = rvq(x)
    (result.quantized.sum() + result.loss).backward()
    assert result.quantized.shape == x.shape
    assert result.codes.shape == (batch, 4, time)
    assert torch.isfinite(result.loss)
    assert rvq.decode(result.codes).shape == x.shape
    if batch * time == 0:
        for name, value in rvq.state_dict().items():
            assert torch.equal(value, before[name])


def test_kmeans_returns_means_with_their_counts():
    torch.manual_seed(3)
    frames = torch.randn(500, 4)
    centroids, counts = kmeans(frames, 8, iterations=30)
    assert counts.sum() == 500
    # Sums are what the EMA starts from: centroid x count adds up to all frames.
    total = (centroids * counts[:, None]).sum(0)
    assert torch.allclose(total, frames.sum(0), atol=1e-3)
    # Converged Lloyd: every centroid is the mean of the frames nearest to it.
    nearest = torch.cdist(frames.double(), centroids.double()).argmin(1)
    for k in range(8):
        assert torch.allclose(frames[nearest == k].mean(0), centroids[k], atol=0.05)


def test_kmeans_survives_fewer_distinct_frames_than_clusters():
    frames = torch.cat([torch.zeros(90, 3), torch.ones(10, 3)])
    centroids, counts = kmeans(frames, 8, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(centroids).all()
    assert {0.0, 1.0} == set(centroids.flatten().tolist())
    assert counts.sum() == 100


def test_bands_are_given_to_the_group_with_most_energy_left():
    scales = torch.tensor([0.1] * 4 + [10.0] * 4 + [1.0] * 4)
    rvq = make("plain", group_sizes=[4, 4, 4], num_quantizers=6)
    rvq.initialize(latents(20) * scales)
    assert rvq.stage_groups[0] == 1
    assert rvq.stage_groups.count(1) > rvq.stage_groups.count(2) >= 1
    assert 0 not in rvq.stage_groups
    fixed = make("plain", group_sizes=[6, 6], stage_groups=[1, 1, 0, 0])
    fixed.initialize(latents(20))
    assert fixed.stage_groups == (1, 1, 0, 0)


def test_low_dimensional_codes_find_the_directions_of_the_energy():
    torch.manual_seed(0)
    plane = torch.linalg.qr(torch.randn(12, 3)).Q
    x = torch.randn(1, 4000, 3) @ plane.T
    rvq = make("low_dim", num_quantizers=3, codebook_size=64)
    rvq.initialize(x)
    directions = rvq.subspaces.directions[0]
    assert torch.allclose(directions @ directions.T, plane @ plane.T, atol=1e-4)
    assert torch.allclose(directions.T @ directions, torch.eye(3), atol=1e-5)
    error = (rvq.eval()(x).quantized - x).square().sum() / x.square().sum()
    assert error < 0.01


def test_bad_arguments_are_reported_together_with_value_and_rule():
    with pytest.raises(ValueError, match="codebook_size must be >= 2, got 1") as error:
        make(codebook_size=1, decay=1.0, init="zeros", dropout_choices=[5])
    for part in ("decay must be in [0, 1)", "init must be 'kmeans'", "between 1 and 4"):
        assert part in str(error.value)
    for wrong in (
        {"group_sizes": [6, 5]},
        {"group_sizes": [6, 6], "stage_groups": [0, 1, 2, 0]},
        {"group_sizes": [6, 6], "codebook_dim": 3},
        {"codebook_dim": 13},
        {"init": "kmeans", "init_frames": 8},
        {"dropout_choices": []},
    ):
        with pytest.raises(ValueError, match=r"ResidualVectorQuantizer: \w+ must be"):
            make(**wrong)


def test_bad_inputs_are_reported_with_shape_and_rule():
    rvq = make()
    with pytest.raises(ValueError, match=r"\[batch, time, 12\], got \[3, 12, 40\]"):
        rvq(latents().transpose(1, 2))
    with pytest.raises(ValueError, match="between 1 and 4, got 5"):
        rvq(latents(), num_quantizers=5)
    with pytest.raises(ValueError, match="between 1 and 4, got 0"):
        rvq.encode(latents(), num_quantizers=0)
    with pytest.raises(ValueError, match=r"codes must lie in \[0, 15\], got 0 to 16"):
        rvq.decode(torch.tensor([[[0, 16]]]))
    with pytest.raises(ValueError, match=r"n from 1 to 4, got \[1, 5, 2\]"):
        rvq.decode(torch.zeros(1, 5, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="10 finite frames"):
        rvq.initialize(latents(1, 10))
