"""Codec against discriminator: both sides learn, and a bad batch moves neither."""

import functools
import logging
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger
from torch.utils.data import DataLoader

from speechbrain_ext.brain import NonFinitePolicy
from speechbrain_ext.brain.forensics.dump_reader import read_dump
from speechbrain_ext.brain.forensics.replay import replay_dump
from speechbrain_ext.errors import UserError
from speechbrain_ext.losses import (
    FeatureMatchingLoss,
    LossBalancer,
    MultiResolutionMelLoss,
    ReconstructionLoss,
    WaveformL1Loss,
)
from speechbrain_ext.models import MultiScaleSTFTDiscriminator, SEANetCodec
from speechbrain_ext.quantization import ResidualVectorQuantizer
from speechbrain_ext.tasks.codec.adversarial import AdversarialCodecBrain
from speechbrain_ext.tasks.codec.watch import DiscriminatorWatch
from speechbrain_ext.tasks.schedule import DiscriminatorSchedule, WarmupCosine
from tests.brain.same_bits import differences, files_of, state_of

SAMPLES = 640
WEIGHTS = {"l1": 0.1, "mel": 1.0, "adversarial": 3.0, "feature": 3.0}
#: In names of what depends on the clock, counts rejected batches or what is planned.
CLOCK = ("seconds", "started", "rejected", "output_folder", "save_file", "total_steps")


class Stumbling(torch.optim.Adam):
    """The discriminator's optimizer; its step can fail half-way."""

    fails = False

    def step(self, closure=None):
        super().step(closure)
        if Stumbling.fails:
            raise RuntimeError("out of memory")


@pytest.fixture(autouse=True)
def steady():
    """No test inherits a step that fails from the one before."""
    Stumbling.fails = False
    yield
    Stumbling.fails = False


class Faulty(AdversarialCodecBrain):
    """Spoils what the first utterance's id says."""

    def compute_forward(self, batch, stage):
        heard = super().compute_forward(batch, stage)
        fault = batch.id[0].split("-")[0]
        Stumbling.fails = fault == "step"
        if fault in ("real", "fake"):
            logits = getattr(heard, fault).logits
            logits[0] = logits[0] * torch.nan
        elif fault == "gradient":  # of the discriminator alone
            heard.real.logits[0].register_hook(lambda grad: grad * torch.inf)
        elif fault == "codec":
            heard.result.wav.register_hook(lambda grad: grad * torch.nan)
        elif fault == "raised":
            raise ValueError("between the two forwards")
        return heard


def batches(count, *, fault=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        rows = [
            {
                "id": f"{fault or 'utt'}-{seed}-{index}-{row}",
                "wav": 0.3 * torch.randn(SAMPLES, generator=generator),
            }
            for row in range(3)
        ]
        if fault == "input":
            rows[1]["wav"][7] = torch.nan
        made.append(PaddedBatch(rows))
    return made


def make(folder, kind=AdversarialCodecBrain, *, norm="spectral", **options):
    """Build a tiny Brain as a recipe does."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    rvq = ResidualVectorQuantizer(4, 2, 8, init="normal", quantizer_dropout=0.5)
    mel = MultiResolutionMelLoss(fft_sizes=[256, 128], num_mels=[10, 5])
    options = {"start_step": 2, "update_probability": 2 / 3, "seed": 1, **options}
    modules = {
        "codec": SEANetCodec(rvq, channels=2, strides=(4,), dilations=(1,)),
        "reconstruction": ReconstructionLoss(
            {"l1": WaveformL1Loss(), "mel": mel}, {"l1": 0.1, "mel": 1.0}
        ),
        "feature_matching": FeatureMatchingLoss(),
        "balancer": LossBalancer(WEIGHTS),
        "discriminator": MultiScaleSTFTDiscriminator(
            [128, 64], channels=2, dilations=[1], norm=norm
        ),
        "discriminator_schedule": DiscriminatorSchedule(**options),
    }
    # Without the cosine, whose length counts the bad batches, too.
    schedule = WarmupCosine(1e-3, warmup_steps=2, final_scale=1.0)
    counter = EpochCounter(limit=1)
    hparams = {
        "seed": 1,
        "sample_rate": 16000,
        "output_folder": str(folder),
        "schedule": schedule,
        "epoch_counter": counter,
        "test_interval": 9,
        "train_loggers": [FileTrainLogger(str(folder / "lines.txt"), precision=6)],
        "vq_weight": 1.0,
        "valid_kbps": [24.0],
        "discriminator_opt_class": lambda p: Stumbling(p, 1e-3, betas=(0.5, 0.9)),
        "nan_guard": NonFinitePolicy(clip_scope="all", quarantine=False),
    }
    saved = {**modules, "schedule": schedule, "epoch_counter": counter}
    del saved["reconstruction"], saved["feature_matching"]
    return kind(
        modules,
        lambda p: torch.optim.Adam(p, 1e-3, betas=(0.5, 0.9)),
        hparams,
        {"noprogressbar": True, "device": "cpu", "max_grad_norm": 1.0},
        Checkpointer(folder / "save", saved),
    )


def fit(brain, data, epochs=1):
    brain._fit_valid = lambda *args, **kwargs: None
    brain.hparams.epoch_counter.limit = epochs
    brain.fit(brain.hparams.epoch_counter, DataLoader(data, batch_size=None))
    brain.checkpointer.save_checkpoint()
    return brain


def left_by(data, **options):
    """Train an epoch; return the Brain and all that the run has left."""
    with tempfile.TemporaryDirectory() as name:
        brain = fit(make(Path(name), Faulty, **options), data)
        left = state_of(brain) | files_of(brain, Path(name))
    left |= {f"schedule.{k}": v for k, v in vars(brain.hparams.schedule).items()}
    left |= {f"watch.{k}": v for k, v in vars(brain.watch).items()}
    return brain, {
        key: value
        for key, value in left.items()
        if not any(word in key for word in CLOCK)
    }


@functools.cache
def clean(**options):
    return left_by(batches(3), **options)


def test_both_sides_learn_and_the_start_is_the_codecs_alone(tmp_path):
    brain, left = left_by(batches(7))
    for side in ("codec", "discriminator"):
        before = dict(getattr(make(tmp_path).modules, side).named_parameters())
        for name, after in getattr(brain.modules, side).named_parameters():
            # Real and generated send opposite gradients to a bias of equal logits.
            assert name.endswith("bias") or not torch.equal(before[name], after), name
    schedule = brain.modules.discriminator_schedule
    assert schedule.step == brain.optimizer_step == 7
    turns = [step for step in range(7) if schedule.learns_at(step)]
    assert turns[0] >= 2
    assert 1 < len(turns) < 5
    states = brain.discriminator_optimizer.state.values()
    assert {int(state["step"]) for state in states} == {len(turns)}
    assert {int(s["step"]) for s in brain.optimizer.state.values()} == {7}
    # Means are of the batches that had a term.
    counts = {name: left[f"term_counts.{name}"] for name in ("recon", "adversarial")}
    assert counts == {"recon": 7, "adversarial": 5}
    assert left["term_counts.discriminator_grad_norm"] == len(turns)
    # The line of an epoch has a loss that the discriminator's start does not lift.
    stats = brain.train_stats
    assert stats["loss"] == pytest.approx(stats["recon"] + stats["vq"], rel=1e-5)


def test_gradients_stay_on_their_side(tmp_path):
    """One backward: the codec's gradient is the balancer's, the other's is hinge."""
    brain = make(tmp_path, norm="weight", start_step=0, update_probability=1.0)
    brain.on_stage_start(torch_stage(), 1)
    batch = batches(1)[0]
    outputs = brain.compute_forward(batch, torch_stage())
    loss = brain.compute_objectives(outputs, batch, torch_stage())
    assert all(p.grad is None for p in brain.modules.parameters())
    loss.backward()
    found = {n: p.grad.clone() for n, p in brain.modules.named_parameters()}

    # By hand: the reconstruction anew, the losses written out, one side at a time.
    brain.modules.codec.zero_grad()
    brain.modules.discriminator.zero_grad()
    real = brain.modules.discriminator(batch.wav.data).logits
    fake = brain.modules.discriminator(outputs.wav.detach()).logits
    hinge = sum((1 - x).relu().mean() for x in real)
    hinge = hinge + sum((1 + x).relu().mean() for x in fake)
    (hinge / 2).backward()
    for name, parameter in brain.modules.discriminator.named_parameters():
        assert torch.allclose(parameter.grad, found[f"discriminator.{name}"], atol=1e-7)

    wav = outputs.wav.detach().requires_grad_()
    heard = brain.modules.discriminator(wav)
    wanted = brain.modules.discriminator(batch.wav.data)
    terms = {
        "l1": (wav - batch.wav.data).abs().mean(),
        "mel": brain.modules.reconstruction.terms["mel"](wav, batch.wav.data),
        "adversarial": sum((1 - x).relu().mean() for x in heard.logits) / 2,
        "feature": sum(
            ((r.detach() - f).abs().mean() / r.detach().abs().mean())
            for rs, fs in zip(wanted.features, heard.features, strict=True)
            for r, f in zip(rs, fs, strict=True)
        )
        / 6,
    }
    total = 0.0
    for name, term in terms.items():
        (direction,) = torch.autograd.grad(term, wav, retain_graph=True)
        size = direction.norm(dim=1).mean()
        total = total + WEIGHTS[name] / sum(WEIGHTS.values()) * direction / size
    torch.manual_seed(0)
    fresh = make(tmp_path, norm="weight", start_step=0, update_probability=1.0)
    again = fresh.compute_forward(batch, torch_stage()).result
    assert torch.equal(again.wav, outputs.result.wav)
    torch.autograd.backward([again.wav, again.rvq.loss], [total, torch.ones(())])
    for name, parameter in fresh.modules.codec.named_parameters():
        assert torch.allclose(
            parameter.grad, found[f"codec.{name}"], rtol=1e-3, atol=1e-6
        ), name


def torch_stage():
    from speechbrain import Stage

    return Stage.TRAIN


def test_a_run_has_the_same_bits_twice():
    assert differences(clean()[1], left_by(batches(3))[1]) == []


#: Where a batch is bad; the discriminator's own loss has no other way to the codec.
FAULTS = ["real", "gradient", "fake", "codec", "raised"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_batch_that_is_bad_for_one_side_leaves_no_trace(fault):
    data = batches(3)
    data[2:2] = batches(1, fault=fault, seed=9)
    brain, left = left_by(data, start_step=0, update_probability=1.0)
    assert brain.health.rejected == 1
    wanted = clean(start_step=0, update_probability=1.0)[1]
    assert differences(wanted, left) == []


@pytest.mark.parametrize("place", [0, 3])
def test_a_discriminator_that_fails_in_its_step_undoes_the_codecs(place):
    """The codec's optimizer has stepped by then, and the discriminator's half-way."""
    data = batches(3)
    data[place:place] = batches(1, fault="step", seed=9)
    brain, left = left_by(data, start_step=0, update_probability=1.0)
    assert brain.health.rejected == 1
    wanted = clean(start_step=0, update_probability=1.0)[1]
    assert differences(wanted, left) == []


def test_bad_batches_before_and_after_the_start_move_no_turn():
    """Which batches the discriminator learns from depends on the good ones alone."""
    data = batches(3)
    for place in (2, 0):
        data[place:place] = batches(1, fault="input", seed=90 + place)
    brain, left = left_by(data)
    assert brain.health.rejected == 2
    assert differences(clean()[1], left) == []


def test_a_dump_of_a_bad_discriminator_is_replayed_in_a_fresh_brain(tmp_path):
    """The dump knows how far training was, and so that it hears the discriminator."""
    data = [*batches(3), *batches(1, fault="real", seed=9)]
    (tmp_path / "one").mkdir(), (tmp_path / "other").mkdir()
    options = {"start_step": 3, "update_probability": 1.0}
    brain = fit(make(tmp_path / "one", Faulty, **options), data)
    dump = read_dump(next((tmp_path / "one" / "debug_nan").glob("nan_batch_*.pt")))
    assert (dump.cause, brain.modules.discriminator_schedule.step) == ("loss", 3)
    found = replay_dump(dump, make(tmp_path / "other", Faulty, **options))
    assert found.reproduced
    assert any(layer["name"].startswith("discriminator") for layer in found.layers)


def test_a_resumed_run_has_the_same_bits(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    whole = fit(make(whole), batches(3), epochs=2)
    fit(make(parts), batches(3))
    parts = fit(make(parts), batches(3), epochs=2)
    assert parts.modules.discriminator_schedule.step == 6
    one, other = whole.modules.state_dict(), parts.modules.state_dict()
    assert not [name for name in one if not _same(one[name], other[name])]
    assert one["balancer.norm_counts"].min() > 3
    for name in ("optimizer", "discriminator_optimizer"):
        states = [list(getattr(b, name).state.values()) for b in (whole, parts)]
        assert len(states[0]) == len(states[1]) > 0
        for a, b in zip(*states, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


def _same(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_each_side_is_clipped_by_its_own_norm(tmp_path):
    brain = make(tmp_path, start_step=0, update_probability=1.0)
    brain.init_optimizers()
    seen = {}
    for name, optimizer in brain.optimizers_dict.items():
        size = {"generator": 5.0, "discriminator": 1e-6}[name]
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.full_like(parameter, size)
        optimizer.register_step_pre_hook(functools.partial(_keep_norm, seen, name))
    brain.optimizers_step()
    assert seen["generator"] == pytest.approx(1.0, rel=1e-3)
    count = sum(p.numel() for p in brain.modules.discriminator.parameters())
    assert seen["discriminator"] == pytest.approx(1e-6 * count**0.5, rel=1e-3)
    assert brain.norm_sum > 5  # the line of an epoch has the codec's own


def _keep_norm(seen, name, optimizer, args, kwargs):
    grads = [p.grad for p in optimizer.param_groups[0]["params"]]
    seen[name] = torch.nn.utils.get_total_norm(grads).item()


def test_bfloat16_computes_the_losses_in_float32(tmp_path):
    brain = make(tmp_path, norm="weight", start_step=0, update_probability=1.0)
    brain.on_stage_start(torch_stage(), 1)
    batch = batches(1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = brain.compute_forward(batch, torch_stage())
        loss = brain.compute_objectives(outputs, batch, torch_stage())
    assert outputs.fake.logits[0].dtype == torch.bfloat16
    assert outputs.wav.dtype == loss.dtype == torch.float32
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in brain.modules.parameters())


def test_turns_are_a_share_of_the_steps_and_a_function_of_the_seed():
    schedule = DiscriminatorSchedule(10, 2 / 3, seed=5)
    turns = [schedule.learns_at(step) for step in range(3010)]
    assert not any(turns[:10])
    assert sum(turns) / 3000 == pytest.approx(2 / 3, abs=0.03)
    state = torch.get_rng_state()
    assert turns == [schedule.learns_at(step) for step in range(3010)]
    assert torch.equal(state, torch.get_rng_state())
    other = DiscriminatorSchedule(10, 2 / 3, seed=6)
    assert turns != [other.learns_at(step) for step in range(3010)]
    assert all(DiscriminatorSchedule(0, 1.0).learns_at(step) for step in range(99))


@pytest.mark.parametrize(
    "wrong", [(-1, 0.5, 1.0), (0, 0.0, 1.0), (0, 1.1, 1.0), (0, 0.5, 0.0)]
)
def test_a_schedule_out_of_range_is_a_message(wrong):
    with pytest.raises(ValueError, match="DiscriminatorSchedule: start_step"):
        DiscriminatorSchedule(*wrong)


def test_one_line_tells_of_a_win_of_a_collapse_and_nothing_else():
    def after(real, fake, watch=None, windows=1):
        watch = watch or DiscriminatorWatch(window=4)
        said = []
        for _ in range(4 * windows):
            watch = watch.with_batch(torch.tensor(real), torch.tensor(fake))
            watch, line = watch.looked_at()
            said.append(line)
        return watch, [line for line in said if line]

    assert after(0.9, 0.8)[1] == []
    watch, said = after(1.0, 0.999, windows=3)
    assert len(said) == 1  # not once per window
    assert "wins" in said[0]
    assert "\n" not in said[0]
    watch, said = after(0.0, 1.0, watch)
    assert "no better than chance" in said[0]
    watch, said = after(0.7, 0.8, watch)
    assert said == []
    assert "wins" in after(1.0, 1.0, watch)[1][0]
    with pytest.raises(ValueError, match="window"):
        DiscriminatorWatch(0)


def test_the_warning_reaches_the_log(tmp_path, caplog):
    brain = make(tmp_path, start_step=0)
    brain.watch = DiscriminatorWatch(window=2)
    brain.modules.discriminator.register_forward_hook(_judge_rightly)
    with caplog.at_level(logging.WARNING):
        fit(brain, batches(5))
    assert sum("it wins" in record.message for record in caplog.records) == 1


def _judge_rightly(module, args, heard):
    """As an oracle: what comes with a gradient is the reconstruction."""
    sign = -1.0 if args[0].requires_grad else 1.0
    heard.logits = [sign + 0 * logits for logits in heard.logits]
    return heard


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.balancer.weights.pop("feature"), "no weight for feature"),
        (lambda m: m.balancer.weights.pop("l1"), "no weight for l1"),
    ],
)
def test_modules_that_do_not_fit_each_other_are_a_message(tmp_path, change, message):
    whole = make(tmp_path)
    change(whole.modules)
    with pytest.raises(UserError, match=message):
        AdversarialCodecBrain(
            dict(whole.modules.items()), None, {}, {"device": "cpu"}, None
        )
