"""Corners of the guard: nested stages, replays, scalers in windows, odd optimizers."""

import contextlib
import logging
import math

import pytest
import speechbrain
import torch
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from speechbrain_ext.brain.spikes import SpikeHistory
from tests.brain.test_transaction import (
    assert_same_bits,
    batches,
    deliver,
    everything,
    make,
    poisoned,
)


def policy(**values):
    return {"nan_guard": NonFinitePolicy(**{"quarantine": False, **values})}


def trained(data, *, epochs=1, methods=None, change=None, options=None, **values):
    brain = make(NaNSafeBrain, extra=policy(**values), **(options or {}))
    for name, method in (methods or {}).items():
        setattr(type(brain), name, method)
    if change:
        change(brain)
    brain.fit(range(epochs), deliver(data))
    return brain


# -- validation and test -----------------------------------------------------------


class Constant(NaNSafeBrain):
    """The loss of a batch is the number in it."""

    def compute_forward(self, batch, stage):
        return self.modules.net(torch.ones(1, 1))

    def compute_objectives(self, predictions, batch, stage):
        return predictions.sum() * 0 + batch["loss"]

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.seen = {**getattr(self, "seen", {}), stage.name: stage_loss}
        if stage == speechbrain.Stage.VALID and hasattr(self, "test_set"):
            self.mean = self.evaluate(self.test_set)


def constant():
    return Constant(
        {"net": nn.Linear(1, 1)},
        lambda p: torch.optim.SGD(p, 0.1),
        run_opts={"noprogressbar": True, "device": "cpu"},
    )


def losses(*values):
    return deliver([{"loss": torch.tensor(value)} for value in values])


def test_a_test_inside_the_end_of_validation_has_a_mean_of_its_own():
    brain = constant()
    brain.test_set = losses(3.0, 5.0)
    brain.fit(range(1), losses(1.0), losses(100.0, 200.0, 300.0))
    assert brain.mean == pytest.approx(4.0)
    assert brain.seen["VALID"] == pytest.approx(200.0)


def test_a_mean_over_no_batch_is_nan_and_never_the_best():
    brain = constant()
    brain.fit(range(1), losses(1.0), losses())
    assert math.isnan(brain.seen["VALID"])
    assert math.isnan(brain.evaluate(losses()))


def test_a_validation_batch_inside_a_training_batch_leaves_its_transaction_alone():
    def at_end(self, batch, outputs, loss, should_step):
        self.evaluate_batch(batch, speechbrain.Stage.VALID)
        if "raise" in batch:
            raise RuntimeError("in a hook after the step")

    good = batches(5)
    bad = {**poisoned("none"), "raise": True}
    methods = {"on_fit_batch_end": at_end}
    dirty = trained([*good[:3], bad, *good[3:]], methods=methods)
    assert dirty.health.rejected == 1
    assert_same_bits(everything(dirty), everything(trained(good, methods=methods)))


# -- replays -----------------------------------------------------------------------


def corrupting(data, place, corrupt):
    def feed(brain):
        for step, batch in enumerate(data):
            if step == place:
                corrupt(brain)
            yield batch

    class Feed(torch.utils.data.IterableDataset):
        def __iter__(self):
            return feed(self.brain)

    return Feed()


def replayed(data, place, *, methods=None, change=None, **values):
    def corrupt(brain):
        brain.modules.net.first.weight.data[0, 0] = math.nan

    brain = make(NaNSafeBrain, extra=policy(snapshot_every=20, **values))
    for name, method in (methods or {}).items():
        setattr(type(brain), name, method)
    if change:
        change(brain)
    feed = corrupting(data, place, corrupt)
    feed.brain = brain
    brain.fit(range(1), torch.utils.data.DataLoader(feed, batch_size=None))
    assert brain.health.replayed > 0
    return brain


class Lines:
    """Keeps its lines in memory, as a part of the state."""

    def __init__(self):
        self.lines = []

    def log_stats(self, step):
        self.lines.append(step)


class Written(Lines):
    """Stands for a file, which nobody puts back."""

    __module__ = "speechbrain.utils.train_logger"


@pytest.mark.parametrize("kind", [Lines, Written])
def test_lines_of_batches_that_are_learned_again_are_there_once(kind):
    def at_end(self, batch, outputs, loss, should_step):
        self.hparams.logger.log_stats(self.step)

    lines = kind()

    def change(brain):
        brain.hparams.logger = lines

    replayed(batches(8), 5, methods={"on_fit_batch_end": at_end}, change=change)
    assert lines.lines == list(range(1, 9))


def test_safer_settings_hold_in_a_replay_for_the_batches_they_held_for():
    good = batches(12)
    data = [*good[:3], poisoned("nan"), poisoned("nan"), *good[3:]]
    values = {"safer_after": 2, "safer_steps": 4, "rollback_after": 0}
    clean = trained(data, snapshot_every=20, **values)
    assert_same_bits(everything(clean), everything(replayed(data, 10, **values)))


def scaler_of(scale=1024.0, **options):
    def change(brain):
        brain.scaler = torch.GradScaler("cpu", init_scale=scale, **options)

    return change


def test_backoffs_and_spikes_are_not_counted_again_by_a_replay():
    data = batches(12)
    data[3] = poisoned("inf")
    data[6] = {**data[6], "y": data[6]["y"] * 1e4}
    values = {"spike_warmup": 4, "change": scaler_of()}
    brain = replayed(data, 10, **values)
    clean = trained(data, snapshot_every=20, **values)
    assert clean.health.backoffs == 1
    assert clean.health.spikes >= 1
    assert brain.health.backoffs == clean.health.backoffs
    assert brain.health.spikes == clean.health.spikes
    assert brain.scaler.state_dict() == clean.scaler.state_dict()
    assert_same_bits(everything(clean), everything(brain))


def test_a_buffer_spoiled_by_a_hook_after_the_step_costs_its_batch_only():
    def at_end(self, batch, outputs, loss, should_step):
        if "spoil" in batch:
            self.modules.net.norm.running_mean.fill_(math.nan)

    good = batches(8)
    bad = {**poisoned("none"), "spoil": True}
    methods = {"on_fit_batch_end": at_end}
    dirty = trained([*good[:4], bad], methods=methods)  # found at the end of the epoch
    clean = trained(good[:4], methods=methods)
    assert_same_bits(everything(dirty), everything(clean))
    assert (dirty.health.committed, dirty.health.rejected) == (4, 1)


def test_a_batch_that_spoils_the_weights_by_its_own_step_is_found_by_a_replay():
    def at_end(self, batch, outputs, loss, should_step):
        if "spoil" in batch:
            self.modules.net.last.weight.data.fill_(math.nan)

    good = batches(4)
    bad = {**poisoned("none"), "spoil": True}
    methods = {"on_fit_batch_end": at_end}
    dirty = trained([*good, bad], methods=methods)
    assert_same_bits(everything(dirty), everything(trained(good, methods=methods)))


def test_a_batch_that_spoils_the_weights_in_forward_does_not_go_round_for_ever():
    def start(self, batch, should_step):
        if "spoil" in batch:
            with torch.no_grad():
                self.modules.net.last.weight.data.fill_(math.nan)

    good = batches(6)
    bad = {**poisoned("none"), "spoil": True}
    methods = {"on_fit_batch_start": start}
    dirty = trained([*good[:3], bad, *good[3:]], methods=methods)
    assert dirty.health.rejected == 1
    assert_same_bits(everything(dirty), everything(trained(good, methods=methods)))


def test_an_utterance_quarantined_later_is_learned_again_as_it_was_learned_first():
    data = batches(8)
    data[5]["x"][2] = math.nan
    data[5]["id"][2] = data[1]["id"][0]  # the same utterance, well at first
    clean = trained(data, quarantine=True, snapshot_every=20)
    assert clean.health.rejected == 1
    again = replayed(data, 7, quarantine=True)
    assert_same_bits(everything(clean), everything(again))


# -- scalers -----------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 4])
def test_no_spike_is_called_because_of_the_scale(accumulation):
    data = batches(60)
    options = {"grad_accumulation_factor": accumulation}
    values = {"spike": "reject", "spike_warmup": 10, "options": options}
    scaled = trained(data, change=scaler_of(growth_interval=2), **values)
    assert scaled.health.rejected == 0


def test_backoffs_are_those_of_stock():
    data = batches(12)
    data[2], data[3], data[7] = poisoned("inf"), poisoned("nan"), poisoned("inf")
    stock = make(speechbrain.Brain)
    scaler_of(growth_interval=3)(stock)
    stock.fit(range(1), deliver(data))
    ours = trained(data, change=scaler_of(growth_interval=3))
    assert ours.health.backoffs == 3
    assert ours.scaler.state_dict() == stock.scaler.state_dict()
    assert_same_bits(everything(stock), everything(ours))


def test_after_too_many_backoffs_the_batch_is_bad_and_the_scale_stays():
    data = [*batches(2), *[poisoned("inf") for _ in range(4)], *batches(1)]
    ours = trained(data, change=scaler_of(), max_backoffs=2)
    assert (ours.health.backoffs, ours.health.rejected) == (2, 2)
    assert ours.scaler.get_scale() == 256.0


def test_norm_overflow_under_a_scaler_is_a_bad_batch_and_leaves_it_alone():
    ours = trained([*batches(2), poisoned("1e25")], change=scaler_of(scale=2.0))
    assert ours.health.rejected == 1
    assert ours.scaler.state_dict()["_growth_tracker"] == 2
    assert ours.scaler.get_scale() == 2.0


def test_the_loss_is_shown_as_the_recipe_computed_it(caplog):
    options = {"grad_accumulation_factor": 2}
    data = batches(40)
    data[30] = {**data[30], "y": data[30]["y"] * 0 + 1e3}
    trained(data, change=scaler_of(), options=options, spike_warmup=10)
    text = next(r.getMessage() for r in caplog.records if "spike in" in r.message)
    shown = float(text.split("loss ")[1].split(",")[0])
    assert 9e5 < shown < 1.1e6


def own_step_with_scaler(self, batch):
    loss = (self.modules.net(batch["x"]).squeeze(1) - batch["y"]).square().mean()
    self.scaler.scale(loss).backward()
    self.scaler.unscale_(self.optimizer)
    self.scaler.step(self.optimizer)
    self.scaler.update()
    self.optimizer.zero_grad()
    return loss.detach()


class OwnScaled(NaNSafeBrain):
    fit_batch = own_step_with_scaler


def test_a_scaler_that_a_fit_batch_of_its_own_updates_is_put_back():
    def run(data):
        brain = make(OwnScaled, extra=policy())
        scaler_of(growth_interval=3)(brain)
        brain.fit(range(1), deliver(data))
        return brain

    good = batches(6)
    dirty = run([*good[:3], poisoned("nan sample"), *good[3:]])
    clean = run(good)
    assert dirty.health.rejected == 1
    assert dirty.scaler.state_dict() == clean.scaler.state_dict()
    assert_same_bits(everything(clean), everything(dirty))


def test_safer_settings_and_a_scaler_go_together():
    data = [*batches(3), *[poisoned("nan sample") for _ in range(2)], *batches(4)]
    brain = trained(data, change=scaler_of(), safer_after=2, safer_steps=2)
    assert all(torch.isfinite(p).all() for p in brain.modules.parameters())
    assert brain.health.committed == 7


class OwnPrecision(NaNSafeBrain):
    """A fit_batch of its own that opens the Brain's context."""

    def fit_batch(self, batch):
        with self.training_ctx:
            product = torch.mm(torch.ones(2, 2), torch.ones(2, 2))
        self.dtypes = [*getattr(self, "dtypes", []), product.dtype]
        loss = self.modules.net(batch["x"]).square().mean()
        if batch.get("poison"):
            loss = loss * math.nan
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def test_safer_settings_reach_a_fit_batch_of_its_own():
    brain = make(
        OwnPrecision,
        extra=policy(safer_after=1, safer_steps=1, rollback_after=0),
        precision="bf16",
    )
    brain.fit(range(1), deliver([*batches(1), poisoned("nan"), *batches(2)]))
    assert brain.dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]


# -- recipes that pass over their own NaN ------------------------------------------


class PassesOver(NaNSafeBrain):
    """As SepFormer does: a bad loss is counted and left alone, and 0.0 returned."""

    def fit_batch(self, batch):
        loss = (self.modules.net(batch["x"]).squeeze(1) - batch["y"]).square().mean()
        if loss < 999999:
            loss.backward()
            self.optimizer.step()
        else:
            self.nonfinite_count += 1
            loss.data = torch.tensor(0.0)
        self.optimizer.zero_grad()
        return loss.detach().cpu()


@pytest.mark.parametrize("place", [0, 2])
def test_a_batch_that_its_recipe_passes_over_is_a_rejected_one(place):
    def run(data):
        brain = make(PassesOver, extra=policy())
        brain.fit(range(1), deliver(data))
        return brain

    good = batches(4)
    dirty = run([*good[:place], poisoned("nan sample"), *good[place:]])
    assert (dirty.health.committed, dirty.health.rejected) == (4, 1)
    assert dirty.incidents[0]["cause"] == "input non-finite"
    assert_same_bits(everything(dirty), everything(run(good)))


# -- interruptions -----------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), NotImplementedError()])
def test_a_batch_in_which_the_run_is_interrupted_leaves_no_trace(error):
    def objectives(self, predictions, batch, stage):
        if "raise" in batch:
            raise error
        return stock(self, predictions, batch, stage)

    good = batches(3)
    brain = make(NaNSafeBrain, extra=policy())
    stock = type(brain).compute_objectives
    type(brain).compute_objectives = objectives
    with pytest.raises(type(error)):
        brain.fit(range(1), deliver([*good, {**good[0], "raise": True}]))
    clean = trained(good)
    assert brain.step == 3
    for name, value in clean.modules.state_dict().items():
        assert torch.equal(value, brain.modules.state_dict()[name]), name
    assert brain.modules.net.count == clean.modules.net.count


def test_a_rate_is_put_back_where_the_step_itself_raises():
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            if self.fails:
                self.fails = False
                raise RuntimeError("in the step")
            return super().step(closure)

    def build(parameters):
        made = Fails(parameters, lr=0.1)
        made.fails = False
        return made

    class Failing(NaNSafeBrain):
        def on_fit_batch_start(self, batch, should_step):
            self.optimizer.fails = "fails" in batch

    good = batches(4)
    brain = make(Failing, extra=policy(safer_after=1, rollback_after=0))
    brain.opt_class = build
    bad = {**poisoned("none"), "fails": True}
    brain.fit(range(1), deliver([*good[:2], poisoned("nan"), bad, *good[2:]]))
    assert brain.optimizer.param_groups[0]["lr"] == 0.1
    assert not brain._guard.safer._rates


# -- optimizers --------------------------------------------------------------------


def test_an_optimizer_that_is_exchanged_often_is_always_judged():
    class Exchanging(NaNSafeBrain):
        def fit_batch(self, batch):
            loss = self.modules.net(batch["x"]).square().mean()
            if batch.get("poison"):
                loss = loss * math.nan
            loss.backward()
            self.optimizer.step()
            return loss.detach()

        def on_fit_batch_start(self, batch, should_step):
            """Nothing."""

    brain = make(Exchanging, extra=policy(max_consecutive_rejects=50))
    data = []
    for batch in batches(6):
        data += [batch, poisoned("nan")]

    class Feed(torch.utils.data.IterableDataset):
        def __iter__(self):
            for batch in data:
                brain.optimizers_dict = None
                brain.optimizer = None
                brain.optimizer = torch.optim.SGD(brain.modules.parameters(), 0.01)
                yield batch

    brain.fit(range(1), torch.utils.data.DataLoader(Feed(), batch_size=None))
    assert brain.health.rejected == 6
    assert all(torch.isfinite(p).all() for p in brain.modules.parameters())


def test_an_optimizer_beside_the_dict_is_judged_too():
    class Beside(NaNSafeBrain):
        def init_optimizers(self):
            super().init_optimizers()
            self.extra = torch.optim.Adam(self.modules.other.parameters(), 1e-2)

        def fit_batch(self, batch):
            loss = self.modules.net(batch["x"]).square().mean()
            loss = loss + self.modules.other(batch["x"]).square().mean()
            if batch.get("poison"):
                loss = loss * math.nan
            loss.backward()
            self.extra.step()
            self.optimizer.step()
            self.extra.zero_grad()
            self.optimizer.zero_grad()
            return loss.detach()

    brain = Beside(
        {"net": nn.Linear(6, 1), "other": nn.Linear(6, 1)},
        lambda p: torch.optim.Adam(p, 1e-2),
        hparams=policy(),
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    brain.fit(range(1), deliver([*batches(2), poisoned("nan"), *batches(2)]))
    assert brain.health.rejected == 1
    assert all(torch.isfinite(p).all() for p in brain.modules.parameters())


def test_lbfgs_is_guarded():
    class Closing(NaNSafeBrain):
        def fit_batch(self, batch):
            def closure():
                self.optimizer.zero_grad()
                loss = self.modules.net(batch["x"]).square().mean()
                if batch.get("poison"):
                    loss = loss * math.nan
                loss.backward()
                return loss

            return self.optimizer.step(closure).detach()

    def run(data):
        brain = make(Closing, extra=policy())
        brain.opt_class = lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3)
        brain.fit(range(1), deliver(data))
        return brain.modules.net.state_dict()

    good = batches(5)
    dirty, clean = run([*good[:3], poisoned("nan"), *good[3:]]), run(good)
    for name, value in clean.items():
        assert torch.equal(value, dirty[name]), name


# -- runs --------------------------------------------------------------------------


def test_fit_may_be_called_twice_and_keeps_what_it_knows():
    data = batches(4)
    data[1]["x"][2, 3] = math.nan
    brain = make(NaNSafeBrain, extra=policy(quarantine=True))
    brain.fit(range(1), deliver(data))
    brain.fit(range(1), deliver(data))
    assert (brain.health.rejected, brain.health.masked) == (1, 1)


def test_a_history_of_spikes_may_be_loaded_where_none_are_watched():
    history = SpikeHistory(NonFinitePolicy())
    history.of({"a": None}).commit(1.0, 1.0)
    SpikeHistory(NonFinitePolicy(spike="off")).load_state_dict(history.state_dict())


def test_limits_of_spikes_are_put_back_as_they_were_refreshed():
    history = SpikeHistory(NonFinitePolicy(spike_warmup=10))
    guard = history.of({"a": None})
    for step in range(27):
        guard.commit(float(step), 1.0 + step % 3)
    limits, state = guard.limits, history.state_dict()
    history.load_state_dict(state)
    assert history.of({"a": None}).limits == limits
    guard = SpikeHistory(NonFinitePolicy()).of({"a": None})
    guard.load_state_dict(guard.state_dict())
    assert guard.limits == (math.inf, math.inf)


def test_a_batch_learned_outside_of_fit_is_guarded_and_moves_no_counter():
    brain = make(NaNSafeBrain, extra=policy())
    brain.on_fit_start()
    assert math.isnan(float(brain.fit_batch(poisoned("nan sample"))))
    assert brain.step == 0
    assert math.isfinite(float(brain.fit_batch(batches(1)[0])))


def test_gradients_are_reduced_again_after_a_batch_unwound_inside_no_sync():
    brain = make(NaNSafeBrain, extra=policy(), grad_accumulation_factor=2)
    brain.modules.net.require_backward_grad_sync = True
    brain.fit(range(1), deliver([poisoned("loss"), *batches(2)]))
    assert brain.modules.net.require_backward_grad_sync
    with contextlib.suppress(KeyError), brain.no_sync():
        assert not brain.modules.net.require_backward_grad_sync
        raise KeyError
    assert brain.modules.net.require_backward_grad_sync


def test_state_corrupted_while_validation_runs_is_repaired_before_it_is_saved(
    tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    brain = make(NaNSafeBrain, extra=policy())
    brain.checkpointer = speechbrain.utils.checkpoints.Checkpointer(
        tmp_path, {"net": brain.modules.net}
    )
    from speechbrain_ext.brain.checkpoints.checkpoint import guard_checkpointer

    guard_checkpointer(brain.checkpointer)
    kind = type(brain)
    ends = kind.on_stage_end

    class Saving(kind):
        def evaluate_batch(self, batch, stage):
            loss = super().evaluate_batch(batch, stage)
            with torch.no_grad():
                self.modules.net.first.weight[0, 0] = math.nan
            return loss

        def on_stage_end(self, stage, stage_loss, epoch=None):
            ends(self, stage, stage_loss, epoch)
            if stage == speechbrain.Stage.VALID:
                self.checkpointer.save_checkpoint()

    brain.__class__ = Saving
    brain.fit(range(1), deliver(batches(3)), deliver(batches(2)))
    assert brain.checkpointer.list_checkpoints()
    assert torch.isfinite(brain.modules.net.first.weight).all()
