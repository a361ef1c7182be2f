"""What happens next: first exceptions, spikes, rollback, safer settings, quarantine."""

import json
import math
import types

import pytest
import speechbrain
import torch
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn

from speechbrain_ext.brain import DivergenceError, NaNSafeBrain, NonFinitePolicy
from speechbrain_ext.brain.nan_safe import _verified
from speechbrain_ext.errors import WorkError
from tests.brain.test_transaction import (
    as_loader,
    assert_same_bits,
    batches,
    everything,
    make,
    poisoned,
)


def run(data, *, base=NaNSafeBrain, epochs=1, options=None, change=None, **policy):
    policy = {"quarantine": False, "max_consecutive_rejects": 20} | policy
    brain = make(
        base, extra={"nan_guard": NonFinitePolicy(**policy)}, **(options or {})
    )
    if change:
        change(brain)
    brain.fit(range(epochs), as_loader(data))
    return brain


# -- exceptions -------------------------------------------------------------------


class Raising(NaNSafeBrain):
    """Raises where the batch says so, after it has moved buffers and streams."""

    def fit_batch(self, batch):
        if "raise" in batch:
            self.compute_forward(batch, speechbrain.Stage.TRAIN)
            raise batch["raise"]
        return super().fit_batch(batch)


@pytest.mark.parametrize(
    "error",
    [
        IndexError("Target 4 is out of bounds."),
        RuntimeError("Kernel size can't be greater than actual input size"),
        ValueError("Expected more than 1 value per channel when training"),
    ],
)
def test_an_exception_is_a_verdict_on_its_batch(error):
    good = batches(6)
    bad = {**batches(1, seed=9)[0], "raise": error}
    brain = run([*good[:2], bad, *good[2:]], base=Raising)
    assert (brain.health.rejected, brain.health.exceptions) == (1, 1)
    assert_same_bits(everything(brain), everything(run(good, base=Raising)))


def test_if_every_batch_raises_it_is_a_bug_of_the_code_and_raised_as_such():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    data = [{**batch, "raise": error} for batch in batches(8)]
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(data, base=Raising)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # fewer than the limit
        run(data[:1], base=Raising)


def test_a_hook_that_is_not_written_is_told_at_once():
    class Empty(NaNSafeBrain):
        pass

    brain = Empty({"net": nn.Linear(1, 1)}, run_opts={"noprogressbar": True})
    with pytest.raises(NotImplementedError):
        brain.fit(range(1), as_loader(batches(2)))


# -- spikes -----------------------------------------------------------------------


def spiking(step=40):
    data = batches(60)
    data[step] = {**data[step], "y": data[step]["y"] * 1e4}
    return data


@pytest.mark.parametrize("mode", ["observe", "reject", "off"])
def test_a_spike_is_observed_rejected_or_passed_over(mode):
    data = spiking()
    brain = run(data, spike=mode, spike_warmup=20)
    without = run(data[:40] + data[41:], spike=mode, spike_warmup=20)
    same = everything(brain)["net.last.weight"].equal(
        everything(without)["net.last.weight"]
    )
    assert same == (mode == "reject")
    assert brain.health.rejected == (mode == "reject")
    assert brain.health.spikes == (mode != "off")
    if mode == "reject":
        assert_same_bits(everything(brain), everything(without))
        assert brain.incidents[0]["cause"] in ("input extreme", "loss spike")


def test_no_spike_is_called_in_the_first_steps():
    assert run(spiking(), spike="reject").health.spikes == 0  # warm-up: 100


# -- rollback, safer settings, stop -------------------------------------------------


def test_a_row_of_unexplained_rejects_goes_back_to_the_snapshot():
    good = batches(12)
    bad = [poisoned("nan") for _ in range(3)]  # in the gradient: inputs are fine
    policy = {"rollback_after": 3, "snapshot_every": 5}
    brain = run([*good[:7], *bad, *good[7:]], **policy)
    assert brain.health.rollbacks == 1
    # Snapshots stand before batches 1 and 6: batches 6 and 7 are lost.
    reference = run([*good[:5], *good[7:]], **policy)
    assert_same_bits(everything(brain), everything(reference))


def test_safer_settings_hold_after_a_row_of_rejects_and_end_by_themselves():
    rates = []

    class Watching(NaNSafeBrain):
        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            rates.append(self.optimizer.param_groups[0]["lr"])

    good = batches(8)
    bad = [poisoned("nan") for _ in range(2)]
    brain = run(
        [*good[:2], *bad, *good[2:]],
        base=Watching,
        safer_after=2,
        safer_steps=3,
        safer_lr_factor=0.5,
        rollback_after=0,
    )
    assert not brain._guard.safer.on
    assert set(rates) == {1e-2}  # nobody saw another rate
    plain = run(good)
    assert not torch.equal(
        everything(brain)["net.last.weight"], everything(plain)["net.last.weight"]
    )
    assert any(
        "learning rate x 0.5" in a for i in brain.incidents for a in i["actions"]
    )


def test_a_limit_of_rejects_in_a_row_stops_the_run_over_the_ends_of_epochs():
    data = [*batches(1), poisoned("nan"), poisoned("nan")]
    with pytest.raises(DivergenceError, match="4 batches in a row") as caught:
        run(
            data[1:] * 1,
            epochs=3,
            max_consecutive_rejects=4,
            rollback_after=0,
            safer_after=0,
        )
    assert caught.value.exit_code == 1


# -- quarantine ---------------------------------------------------------------------


def test_a_proven_utterance_is_masked_from_then_on_and_kept_for_later_runs(tmp_path):
    data = batches(4)
    data[1]["x"][2, 3] = math.nan
    policy = {"quarantine": True, "dump_folder": str(tmp_path / "exp" / "debug_nan")}
    brain = run(data, epochs=3, **policy)
    assert brain.health.rejected == 1
    assert brain.health.masked == 2  # epochs 2 and 3
    entries = json.loads((tmp_path / "exp" / "quarantine.json").read_text())
    assert "utt1_2" in json.dumps(entries)
    later = run(data, epochs=1, **policy)
    assert (later.health.rejected, later.health.masked) == (0, 1)
    kept = run(data, epochs=1, keep_quarantined=True, **policy)
    assert kept.health.rejected == 1


def test_a_masked_batch_is_that_of_the_other_utterances(tmp_path):
    data = batches(4)
    data[1]["x"][2, 3] = math.nan
    policy = {"quarantine": True, "dump_folder": str(tmp_path / "debug_nan")}
    run(data, **policy)
    masked = run(data, **policy)
    rest = {
        key: [v for i, v in enumerate(value) if i != 2]
        if isinstance(value, list)
        else value[[0, 1, 3, 4]]
        for key, value in data[1].items()
    }
    reference = run([data[0], rest, *data[2:]])
    assert_same_bits(everything(masked), everything(reference))


def test_an_epoch_of_which_all_is_in_quarantine_is_told_and_not_called_trained(
    tmp_path, caplog
):
    data = batches(2)
    for batch in data:
        batch["x"][:] = math.nan
    policy = {"quarantine": True, "dump_folder": str(tmp_path / "debug_nan")}
    run(data, **policy)  # all bad: all rejected, all in quarantine
    with pytest.raises(DivergenceError, match=r"nothing was learned.*quarantine"):
        run(batches(2), **policy)  # mended since, and nobody was told
    assert "10 utterances of earlier runs are in quarantine" in caplog.text


def test_a_bad_row_without_an_id_is_put_back_and_the_report_says_what_is_missing():
    data = [{k: v for k, v in b.items() if k != "id"} for b in batches(4)]
    data[1]["x"][2, 3] = math.nan
    brain = run(data, quarantine=True)
    assert brain.health.rejected == 1
    assert "carries no ids" in brain._guard.last_report


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep_quarantined", "false"),
        ("snapshot_every", 1.5),
        ("label_ranges", 5),
        ("label_ranges", {"spk": "five"}),
        ("max_consecutive_rejects", "ten"),
        ("safer_lr_factor", True),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"NonFinitePolicy: {name} must be"):
        NonFinitePolicy(**{name: value})


# -- modes ----------------------------------------------------------------------------


def test_mode_off_is_stock(caplog):
    data = [*batches(3), poisoned("nan sample"), *batches(2)]
    off = run(data, mode="off", options={"nonfinite_patience": 100})
    stock = make(speechbrain.Brain, nonfinite_patience=100)
    stock.fit(range(1), as_loader(data))
    for name, value in everything(stock).items():
        found = everything(off)[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(3.0), found.nan_to_num(3.0)), name
    assert off.health.rejected == 0


def test_mode_skip_skips_the_step_and_keeps_the_poisoned_buffers():
    data = [*batches(3), poisoned("nan sample"), *batches(2)]
    brain = run(data, mode="skip")
    state = brain.modules.net.state_dict()
    assert brain.health.rejected >= 1  # the poisoned statistic rejects all that follow
    assert torch.isfinite(state["first.weight"]).all()
    assert not torch.isfinite(state["norm.running_mean"]).all()


# -- corrupted state ------------------------------------------------------------


def corruptions():
    def parameter(brain):
        brain.modules.net.first.weight.data[0, 0] = math.nan

    def moment(brain):
        first = next(iter(brain.optimizer.state.values()))
        first["exp_avg"][0] = math.nan

    def frozen(brain):
        first = next(iter(brain.optimizer.state.values()))
        first["exp_avg_sq"][0] = math.inf

    def variance(brain):
        brain.modules.net.norm.running_var[1] = math.nan

    def statistic(brain):
        brain.modules.net.glob_mean = brain.modules.net.glob_mean * math.nan

    return [parameter, moment, frozen, variance, statistic]


@pytest.mark.parametrize("corrupt", corruptions(), ids=lambda f: f.__name__)
@pytest.mark.parametrize("place", [4, 7, 9])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_corrupted_state_is_learned_again_bit_for_bit(corrupt, place, accumulation):
    data = batches(10)
    options = {"grad_accumulation_factor": accumulation}

    def feed():
        for step, batch in enumerate(data):
            if step == place:
                corrupt(brain)
            yield batch

    class Feed(torch.utils.data.IterableDataset):
        def __iter__(self):
            return feed()

    brain = make(
        NaNSafeBrain,
        extra={"nan_guard": NonFinitePolicy(snapshot_every=3, quarantine=False)},
        **options,
    )
    brain.fit(range(1), torch.utils.data.DataLoader(Feed(), batch_size=None))
    clean = run(data, options=options, snapshot_every=3)
    assert brain.health.rejected == 0
    assert brain.health.replayed > 0
    assert_same_bits(everything(brain), everything(clean))


def test_without_snapshots_a_corrupted_state_ends_the_run():
    def corrupt(brain):
        brain.modules.net.first.weight.data[0, 0] = math.nan

    with pytest.raises(DivergenceError, match="no snapshot"):
        run(batches(3), snapshot_every=0, change=corrupt)


# -- validation ------------------------------------------------------------


def validated(valid_set, epochs=1):
    losses = []
    brain = make(NaNSafeBrain)
    stock_end = type(brain).on_stage_end

    def end(self, stage, stage_loss, epoch=None):
        if stage == speechbrain.Stage.VALID:
            losses.append(stage_loss)
        return stock_end(self, stage, stage_loss, epoch)

    type(brain).on_stage_end = end
    brain.fit(range(epochs), as_loader(batches(2)), as_loader(valid_set))
    return brain, losses


def test_a_validation_batch_that_is_not_finite_is_left_out_of_the_mean(caplog):
    good = batches(4, seed=5)
    _, (clean,) = validated(good)
    brain, (mixed,) = validated([*good[:2], poisoned("nan sample"), *good[2:]])
    assert mixed == clean
    assert brain.health.left_out == 1
    assert "utt0_2" in caplog.text


def test_a_mean_of_nothing_is_nan_and_never_zero():
    brain, (loss,) = validated([poisoned("nan sample"), poisoned("loss")])
    assert math.isnan(loss)
    assert brain.health.left_out == 2
    brain, (loss,) = validated([poisoned("loss"), *batches(1)])
    assert math.isfinite(loss)


def test_evaluate_returns_the_mean_of_the_finite_batches():
    brain = make(NaNSafeBrain)
    good = batches(3, seed=5)
    clean = brain.evaluate(as_loader(good))
    assert brain.evaluate(as_loader([good[0], poisoned("loss"), *good[1:]])) == clean
    assert math.isnan(brain.evaluate(as_loader([poisoned("loss")])))


def test_a_summary_of_nothing_does_not_cost_the_epoch(tmp_path, caplog):
    brain = make(NaNSafeBrain)
    brain.checkpointer = Checkpointer(tmp_path, {"net": brain.modules.net})

    def end(self, stage, stage_loss, epoch=None):
        if stage != speechbrain.Stage.TRAIN:
            raise IndexError("argmin(): no elements")  # MetricStats.summarize

    brain.on_stage_end = types.MethodType(_verified(end), brain)
    brain.fit([1], as_loader(batches(2)), as_loader([poisoned("loss")]))
    assert "every valid batch was left out" in caplog.text
    assert len(brain.checkpointer.list_checkpoints()) == 1
    with pytest.raises(WorkError, match="every test batch was left out"):
        brain.evaluate(as_loader([poisoned("loss")]))
