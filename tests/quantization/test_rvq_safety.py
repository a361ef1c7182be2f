"""A bad frame stays visible and harmless; a discarded batch leaves no trace."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from speechbrain_ext.quantization import ResidualVectorQuantizer

BAD = {"nan": float("nan"), "inf": float("inf"), "overflow": 1e30}
KINDS = {
    "plain": {},
    "bands": {"group_sizes": [4, 2, 2]},
    "low_dim": {"codebook_dim": 3},
}


def make(**options):
    torch.manual_seed(0)
    options = {"init": "normal", "revive_every": 1, **options}
    return ResidualVectorQuantizer(8, 3, 16, **options)


def latents(seed, batch=2, time=60):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, 8, generator=generator)


def all_buffers(rvq):
    """Every buffer, also those that are not saved."""
    return {name: buffer.clone() for name, buffer in rvq.named_buffers()}


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_bad_frame_is_nan_in_the_output_and_never_in_the_codebook(kind, value):
    rvq = make(**KINDS[kind])
    x = latents(1)
    x[1, 7, 3] = value
    x.requires_grad_()
    result = rvq(x)
    bad = torch.zeros(2, 60, dtype=torch.bool)
    bad[1, 7] = True
    assert result.quantized[bad].isnan().all()
    assert result.quantized[~bad].isfinite().all()
    assert result.loss.isnan()
    assert result.metrics["invalid_frames"] == 1
    assert result.codes.min() >= 0
    for name, buffer in rvq.named_buffers():
        assert torch.isfinite(buffer).all(), name
    result.quantized[~bad].sum().backward()
    assert x.grad[bad].isnan().all()
    # The next clean batch is coded by many codes, not all by one poisoned code.
    assert rvq(latents(2)).metrics["usage"].min() > 0.3


def test_statistics_of_a_batch_with_bad_frames_are_those_of_its_good_frames():
    bad, good = make(dead_threshold=0.0), make(dead_threshold=0.0)
    x = latents(1)
    keep = torch.ones(2, 60, dtype=torch.bool)
    keep[0, 3], keep[1, 50] = False, False
    good(x[keep][None])
    x[~keep] = float("nan")
    bad(x)
    for name, buffer in bad.named_buffers():
        assert torch.allclose(
            buffer.double(), dict(good.named_buffers())[name].double()
        )


def test_batch_of_bad_frames_only_moves_nothing():
    rvq = make()
    rvq(latents(1))
    before = all_buffers(rvq)
    result = rvq(torch.full((2, 60, 8), float("nan")))
    assert result.loss.isnan()
    assert_same_bits(all_buffers(rvq), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", [float("nan"), 1.0])
def test_discarded_batch_leaves_every_buffer_bit_identical(kind, poison):
    rvq = make(statistics_mode="step", **KINDS[kind])
    rvq(latents(1))
    rvq.commit_statistics()
    before = all_buffers(rvq)
    x = latents(2)
    x[0, 0] = poison
    rvq(x)
    rvq.discard_statistics()
    assert_same_bits(all_buffers(rvq), before)


def test_discarded_batch_during_collection_leaves_no_trace():
    rvq = make(init="kmeans", init_frames=300, statistics_mode="step")
    rvq(latents(1))
    rvq.commit_statistics()
    before = all_buffers(rvq)
    rvq(latents(2))
    rvq.discard_statistics()
    assert_same_bits(all_buffers(rvq), before)


@pytest.mark.parametrize("init", ["normal", "kmeans"])
def test_run_with_a_rejected_batch_equals_the_run_that_never_had_it(init):
    def run(batches):
        rvq = make(init=init, init_frames=200, statistics_mode="step")
        for batch in batches:
            state = torch.get_rng_state()
            if rvq(batch).quantized.isnan().any():
                rvq.discard_statistics()
                torch.set_rng_state(state)  # the transaction around the step does this
            else:
                rvq.commit_statistics()
        return all_buffers(rvq)

    clean = [latents(seed) for seed in range(6)]
    bad = latents(9)
    bad[0, 5] = float("nan")
    assert_same_bits(
        run(clean[:1] + [bad] + clean[1:4] + [bad] + clean[4:]), run(clean)
    )


def test_step_mode_moves_codebooks_only_at_commit_and_equals_forward_mode():
    step, forward = make(statistics_mode="step"), make()
    for seed in range(4):
        book = step.bank.codebooks.clone()
        torch.manual_seed(seed)
        first = step(latents(seed))
        assert torch.equal(step.bank.codebooks, book)
        step.commit_statistics()
        assert not torch.equal(step.bank.codebooks, book)
        torch.manual_seed(seed)
        assert torch.equal(forward(latents(seed)).codes, first.codes)
    assert_same_bits(all_buffers(step), all_buffers(forward))


def test_micro_batches_commit_like_one_batch():
    options = {"statistics_mode": "step", "dead_threshold": 0.0}
    whole, parts = make(**options), make(**options)
    x = latents(1, batch=4)
    whole(x)
    for micro in x.chunk(2):
        parts(micro)
    whole.commit_statistics()
    parts.commit_statistics()
    for name, buffer in whole.named_buffers():
        other = dict(parts.named_buffers())[name]
        assert torch.allclose(buffer.double(), other.double(), atol=1e-6), name


def test_evaluation_encode_and_decode_move_nothing():
    for init in ("normal", "kmeans"):
        rvq = make(init=init)
        rvq(latents(1))
        before = all_buffers(rvq)
        rvq.eval()
        rvq(latents(2))
        rvq.decode(rvq.encode(latents(2)))
        rvq.train()
        rvq.encode(latents(3))
        assert_same_bits(all_buffers(rvq), before)


def test_activation_checkpointing_in_step_mode_recomputes_the_same_forward():
    rvq = make(statistics_mode="step")
    gradients = []
    for recompute in (False, True):
        x = latents(1).requires_grad_()

        def run(z):
            result = rvq(z)
            return result.quantized.square().sum() + result.loss

        out = checkpoint(run, x, use_reentrant=False) if recompute else run(x)
        out.backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


class _Watch(TorchDispatchMode):
    """Collect the operations that ask the device, or whose size depends on data."""

    ASKING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "one_hot",
        "bincount",
        "unique",
        "item",
        "is_nonzero",
        "equal",
        "_assert_async",
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        boolean = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        if name in self.ASKING or boolean:
            self.found.append(function.name())
        return function(*args, **(kwargs or {}))


def test_watch_flags_what_it_is_there_for():
    with _Watch() as watch:
        x = torch.ones(3)
        x[x > 0]
        x.sum().item()
        x.nonzero()
    assert len(watch.found) >= 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad_frame", [False, True])
@pytest.mark.parametrize("mode", ["forward", "step"])
def test_training_step_never_asks_the_device(kind, bad_frame, mode):
    rvq = make(quantizer_dropout=0.5, statistics_mode=mode, **KINDS[kind])
    x = latents(1)
    if bad_frame:
        x[0, 0, 0] = float("nan")
    x.requires_grad_()
    with _Watch() as watch:
        for _ in range(3):
            result = rvq(x)
            (result.quantized.sum() + result.loss).backward()
            if mode == "step":
                rvq.commit_statistics()
                rvq(x)
                rvq.discard_statistics()
    assert watch.found == []


def test_collecting_frames_asks_the_device_only_once_enough_were_offered():
    rvq = make(init="kmeans", init_frames=400)
    with _Watch() as watch:
        for seed in range(3):
            rvq(latents(seed))
    assert watch.found == []
    assert not rvq.initialized
    rvq(latents(4))
    assert rvq.initialized


def test_collection_passes_latents_through_in_training_but_never_in_evaluation():
    rvq = make(init="kmeans", init_frames=400)
    x = latents(1)
    x[0, 0] = float("nan")
    result = rvq(x)
    assert torch.equal(result.quantized[1], x[1])
    assert result.quantized[0, 0].isnan().all()
    assert result.loss == 0
    assert result.codes.shape == (2, 3, 60)
    assert rvq.reservoir.committed == 119  # the bad frame is not collected
    rvq.eval()
    x = latents(2)
    assert not torch.equal(rvq(x).quantized, x)
    assert torch.equal(rvq(x).quantized, rvq.decode(rvq.encode(x)))


def test_lazy_kmeans_equals_initialize_on_the_same_frames():
    lazy = make(init="kmeans", init_frames=200)
    explicit = make(init="kmeans", init_frames=200)
    batches = [latents(seed) for seed in range(2)]
    stream = torch.get_rng_state()
    for batch in batches:
        lazy(batch)
    assert torch.equal(torch.get_rng_state(), stream)  # nobody's draws were moved
    frames = torch.cat([batch.view(-1, 8) for batch in batches])[:200]
    explicit.initialize(frames, torch.Generator().manual_seed(0))
    assert lazy.initialized
    assert explicit.initialized
    assert_same_bits(all_buffers(lazy), all_buffers(explicit))


def test_loading_only_what_fits_does_not_reopen_the_collection():
    donor = make(init="kmeans", init_frames=100)
    donor(latents(1))
    fresh = make(init="kmeans", init_frames=100)
    own = fresh.state_dict()
    fitting = {k: v for k, v in donor.state_dict().items() if v.shape == own[k].shape}
    fresh.load_state_dict(fitting, strict=False)
    assert fresh.initialized
    assert torch.equal(fresh.eval().encode(latents(2)), donor.eval().encode(latents(2)))
