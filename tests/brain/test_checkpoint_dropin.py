"""A drop-in: stock reads ours, ours stock's, and SpeechBrain's tools go on working."""

import logging

import pytest
import speechbrain
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import Checkpointer, average_checkpoints
from speechbrain.utils.parameter_transfer import Pretrainer

from speechbrain_ext.brain.checkpoints.checkpoint import (
    VerifiedCheckpointer,
    guard_checkpointer,
    unguarded,
)
from tests.brain.checkpoint_cases import KINDS, Run, same


@pytest.mark.parametrize("reader", KINDS)
@pytest.mark.parametrize("writer", KINDS)
def test_every_kind_reads_what_every_kind_wrote(tmp_path, writer, reader):
    run = Run(tmp_path, KINDS[writer])
    for loss in (1, 2):
        run.step(loss)
        run.checkpointer.save_and_keep_only({"loss": loss}, num_to_keep=2)
    fresh = Run(tmp_path, KINDS[reader])
    assert fresh.checkpointer.recover_if_possible(max_key="loss").meta["loss"] == 2
    assert same(fresh.state(), run.state())
    assert len(fresh.checkpointer.find_checkpoints()) == 2


def test_files_and_meta_are_those_of_stock(tmp_path):
    listed = {}
    for kind, make in KINDS.items():
        run = Run(tmp_path / kind, make)
        saved = run.checkpointer.save_checkpoint({"loss": 1.0}, name="best")
        (found,) = Checkpointer(tmp_path / kind).list_checkpoints()
        assert found.path == saved.path
        assert found.path.name == "CKPT+best"
        assert found.meta == saved.meta
        assert saved.paramfiles == found.paramfiles
        listed[kind] = (set(found.meta), set(found.paramfiles))
    assert listed["ours"] == listed["guarded stock"] == listed["stock"]


def test_custom_hooks_are_called_with_what_stock_gives(tmp_path):
    calls = []

    def save(obj, path):
        calls.append((obj, path.name))
        path.write_text("7")

    def load(obj, path, end_of_epoch):
        calls.append((obj, path.read_text(), end_of_epoch))

    checkpointer = VerifiedCheckpointer(
        tmp_path, {"x": "thing"}, custom_save_hooks={"x": save}
    )
    checkpointer.custom_load_hooks["x"] = load
    checkpointer.save_checkpoint(end_of_epoch=False)
    checkpointer.recover_if_possible()
    assert calls == [("thing", "x.ckpt"), ("thing", "7", False)]


def test_optional_and_partial_loads_are_as_in_stock(tmp_path):
    model = torch.nn.Linear(1, 1)
    VerifiedCheckpointer(tmp_path, {"model": model}).save_checkpoint()
    more = {"model": model, "other": torch.nn.Linear(2, 2)}
    assert VerifiedCheckpointer(
        tmp_path, more, allow_partial_load=True
    ).recover_if_possible()
    optional = VerifiedCheckpointer(tmp_path, {"model": model})
    optional.add_recoverable("other", more["other"], optional_load=True)
    with pytest.warns(UserWarning, match="optional"):
        assert optional.recover_if_possible()
    with pytest.raises(RuntimeError, match="missing a load path for other"):
        VerifiedCheckpointer(tmp_path, more).recover_if_possible()


def test_a_model_of_another_size_is_told_as_stock_tells_it(tmp_path):
    model = torch.nn.Linear(1, 1)
    VerifiedCheckpointer(tmp_path, {"model": model}).save_checkpoint()
    larger = VerifiedCheckpointer(tmp_path, {"model": torch.nn.Linear(2, 2)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        larger.recover_if_possible()


def test_predicates_and_intra_epoch_checkpoints_are_kept_apart(tmp_path):
    for make in KINDS.values():
        folder = tmp_path / make.__name__
        checkpointer = make(folder, {"model": torch.nn.Linear(1, 1)})
        checkpointer.save_and_keep_only({"loss": 1.0}, importance_keys=[])
        for _ in range(2):
            checkpointer.save_and_keep_only(
                {"intra": True},
                end_of_epoch=False,
                importance_keys=[],
                ckpt_predicate=lambda c: "intra" in c.meta,
                verbosity=logging.DEBUG,
            )
        assert len(checkpointer.list_checkpoints()) == 2
        found = checkpointer.find_checkpoints(ckpt_predicate=lambda c: "loss" in c.meta)
        assert [c.meta["loss"] for c in found] == [1.0]


def test_averaging_and_the_pretrainer_read_our_files(tmp_path):
    model = torch.nn.Linear(1, 1, bias=False)
    checkpointer = VerifiedCheckpointer(tmp_path / "save", {"model": model})
    for value in (1.0, 3.0):
        model.weight.data.fill_(value)
        saved = checkpointer.save_checkpoint()
    average = average_checkpoints(checkpointer.find_checkpoints(), "model")
    assert average["weight"].item() == 2.0
    fresh = torch.nn.Linear(1, 1, bias=False)
    pretrainer = Pretrainer(
        collect_in=tmp_path / "collected",
        loadables={"model": fresh},
        paths={"model": str(saved.path / "model.ckpt")},
    )
    pretrainer.collect_files()
    pretrainer.load_collected()
    assert fresh.weight.item() == 3.0


def test_a_recipe_builds_it_with_the_arguments_of_stock(tmp_path):
    built = load_hyperpyyaml(
        f"""
        model: !new:torch.nn.Linear [1, 1]
        checkpointer: !new:speechbrain_ext.brain.VerifiedCheckpointer
            checkpoints_dir: {tmp_path}
            recoverables:
                model: !ref <model>
            allow_partial_load: True
        """
    )
    assert built["checkpointer"].recoverables == {"model": built["model"]}
    assert built["checkpointer"].save_checkpoint().path.parent == tmp_path


class Regression(speechbrain.Brain):
    def compute_forward(self, batch, stage):
        return self.modules.net(batch)

    def compute_objectives(self, predictions, batch, stage):
        return predictions.square().mean()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == speechbrain.Stage.TRAIN:
            self.checkpointer.save_and_keep_only({"loss": stage_loss})


@pytest.mark.parametrize("kind", ["ours", "guarded stock"])
def test_a_brain_ends_and_resumes_with_the_bits_of_stock(tmp_path, kind):
    ends = []
    for name in ("stock", kind):
        for epochs in (1, 2):  # the second one resumes
            torch.manual_seed(0)
            net = torch.nn.Linear(3, 1)
            counter = speechbrain.utils.epoch_loop.EpochCounter(epochs)
            brain = Regression(
                {"net": net},
                lambda p: torch.optim.Adam(p, 0.1),
                run_opts={"noprogressbar": True},
                checkpointer=KINDS[name](
                    tmp_path / name, {"net": net, "counter": counter}
                ),
            )
            brain.fit(counter, [torch.randn(4, 3) for _ in range(5)])
        assert counter.current == 2
        ends.append([net.weight.data, net.bias.data])
    assert same(*ends)


# -- classes of the user's own -------------------------------------------------------


class Polite(Checkpointer):
    def save_checkpoint(self, meta={}, **kwargs):  # noqa: B006
        return super().save_checkpoint({**meta, "author": "me"}, **kwargs)


class Rude(Checkpointer):
    def load_checkpoint(self, checkpoint):
        self._call_load_hooks(checkpoint)


def test_a_users_class_keeps_its_overrides_and_gains_the_guarantees(tmp_path, caplog):
    model = torch.nn.Linear(1, 1)
    checkpointer = Polite(tmp_path, {"model": model})
    guard_checkpointer(checkpointer)
    guard_checkpointer(checkpointer)
    assert isinstance(checkpointer, Polite)
    saved = checkpointer.save_checkpoint({"loss": 1.0})
    assert saved.meta["author"] == "me"
    assert (saved.path / "VERIFIED.json").exists()
    assert unguarded(checkpointer) == []
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_an_override_that_keeps_us_out_is_said(tmp_path, caplog):
    checkpointer = Rude(tmp_path)
    guard_checkpointer(checkpointer)
    (line,) = unguarded(checkpointer)
    assert "Rude.load_checkpoint does not call super()" in line
    assert line in caplog.text


def test_what_is_no_checkpointer_is_refused_by_name():
    with pytest.raises(TypeError, match="not a speechbrain.utils.checkpoints"):
        guard_checkpointer(object())
