"""Starting again in an experiment: what may change, and what becomes of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from speechbrain_ext.config.dotted import settings_of, text_settings
from speechbrain_ext.data.manifest import content_hash, read_manifest, write_manifest
from speechbrain_ext.errors import UserError
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.resume.changes import (
    HARMLESS,
    Kind,
    data_changes,
    setting_changes,
    settle,
)
from speechbrain_ext.resume.history import add_to_history, read_history
from speechbrain_ext.tasks.codec import train as codec_task
from speechbrain_ext.tasks.codec.train import train
from speechbrain_ext.tasks.resuming import load_moments
from speechbrain_ext.tasks.speaker import train as speaker_task
from speechbrain_ext.tasks.speaker.averaging import WeightAverage
from tests.tasks.test_codec_task import data, recipe  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[2]

# -- what a change means ---------------------------------------------------------------


def judge(old, new, epochs_done=3):
    changes = setting_changes(old, new, epochs_done=epochs_done)
    return {change.key: change.kind for change in changes}


@pytest.mark.parametrize(
    ("key", "old", "new", "kind"),
    [
        ("num_workers", "0", "4", Kind.HARMLESS),
        ("nan_guard.max_reject_rate", "0.25", "0.5", Kind.HARMLESS),
        ("nan_guard.mode", "transaction", "off", Kind.SERIOUS),
        ("learning_rate", "0.1", "0.2", Kind.SERIOUS),
        ("number_of_epochs", "5", "9", Kind.HARMLESS),
        ("number_of_epochs", "5", "3", Kind.HARMLESS),
        ("number_of_epochs", "5", "2", Kind.IMPOSSIBLE),
        ("epoch_counter.limit", "5", "2", Kind.IMPOSSIBLE),
        ("seed", "1", "2", Kind.SERIOUS),
    ],
)
def test_each_setting_has_its_consequence(key, old, new, kind):
    assert judge({key: old, "same": "1"}, {key: new, "same": "1"}) == {key: kind}


def test_settings_that_come_and_go_are_serious():
    assert judge({"a": "1"}, {"b": "1"}) == {"b": Kind.SERIOUS, "a": Kind.SERIOUS}


def test_a_comment_the_order_of_keys_and_places_are_no_change():
    old = "a: 1\nb: [1, 2]\noutput_folder: x\ntrain_manifest: a.json\n"
    new = "# new\nb: [1, 2]\na: 1\noutput_folder: y\ntrain_manifest: b.json\n"
    assert judge(text_settings(old, "old"), text_settings(new, "new")) == {}


def test_harmless_settings_say_what_happens_then():
    assert all(HARMLESS.values())
    [change] = setting_changes({"number_of_epochs": "5"}, {"number_of_epochs": "9"})
    assert "learning rate" in change.note


@pytest.mark.parametrize(
    ("egs", "task", "yaml"),
    [
        ("telugu", codec_task, "codec/transform.yaml"),
        ("voxceleb_mini", speaker_task, "speaker/ecapa_mini.yaml"),
    ],
)
def test_run_sh_goes_on_for_settings_that_the_guard_calls_harmless(egs, task, yaml):
    lines = (ROOT / "egs" / egs / "run.sh").read_text().splitlines()
    extends = next(x.split()[1:] for x in lines if x.startswith("  extends "))
    assert extends
    assert set(extends) <= task.HARMLESS.keys()
    recipes = (ROOT / "recipes" / yaml).parent.glob("*.yaml")
    known = set().union(*map(settings_of, recipes))  # one of them has it
    assert {*extends, "number_of_epochs"} <= known


def test_other_content_behind_the_same_path_is_seen():
    before = {"train_manifest": {"utterances": 3, "hash": "a" * 64}}
    after = {"train_manifest": {"utterances": 4, "hash": "b" * 64}}
    [change] = data_changes(before, after)
    assert change.kind is Kind.SERIOUS
    assert "3 utterances" in change.old
    assert data_changes(before, before) == []
    assert data_changes({}, after) == []  # an experiment older than the record


def test_messages_tell_the_difference_and_the_next_command():
    old = {"learning_rate": "0.1", "num_workers": "0"}
    serious = setting_changes(old, {"learning_rate": "0.2", "num_workers": "2"})
    with pytest.raises(UserError) as caught:
        settle("exp/x", serious, epochs_done=3)
    for text in ("3 epochs", "learning_rate: 0.1 -> 0.2", "num_workers: 0 -> 2",
                 "--force_resume", "--tag", "--stage train --force"):  # fmt: skip
        assert text in str(caught.value)
    assert caught.value.exit_code == 2
    told = settle("exp/x", serious, epochs_done=3, force=True)
    assert "by --force_resume" in told
    with pytest.raises(UserError, match="does not help"):
        settle("exp/x", serious, epochs_done=3, misfits=["codec: x"], force=True)
    assert settle("exp/x", [], epochs_done=3) == ""


def test_history_is_kept_and_a_broken_one_is_no_obstacle(tmp_path):
    changes = setting_changes({"a": "1"}, {"a": "2"})
    add_to_history(tmp_path, [], 1)
    assert read_history(tmp_path) == []
    add_to_history(tmp_path, changes, 1)
    add_to_history(tmp_path, setting_changes({"wandb": "1"}, {"wandb": "2"}), 2)
    first, second = read_history(tmp_path)
    assert first["changes"] == [{"key": "a", "old": "1", "new": "2"}]
    assert (first["epoch"], first["forced"]) == (1, True)
    assert (second["epoch"], second["forced"]) == (2, False)
    (tmp_path / "resumed.json").write_text("{")
    assert read_history(tmp_path) == []


# -- a run -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def once(data, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("guard") / "exp"
    train(recipe(data, folder, number_of_epochs=1))
    return folder


@pytest.fixture
def experiment(once, tmp_path):
    return Path(shutil.copytree(once, tmp_path / "exp"))


def epochs(folder):
    return [row["epoch"] for row in read_train_log(folder / "train_log.txt")]


def test_more_epochs_go_on_and_are_written_down(data, experiment, capsys):  # noqa: F811
    train(recipe(data, experiment, number_of_epochs=2, num_workers=0))
    assert epochs(experiment) == [0, 1, 2]
    assert "number_of_epochs: 1 -> 2" in capsys.readouterr().err
    [entry] = read_history(experiment)
    assert (entry["forced"], entry["epoch"]) == (False, 1)
    before = (experiment / "resumed.json").read_text()
    train(recipe(data, experiment, number_of_epochs=2))  # nothing changed
    assert (experiment / "resumed.json").read_text() == before
    with pytest.raises(UserError, match="2 epochs are trained already"):
        train(recipe(data, experiment, number_of_epochs=1), force_resume=True)


def test_other_settings_go_on_by_force_only(data, experiment):  # noqa: F811
    changed = {"training.weight_decay": 0.5, "batch_size": 2, "number_of_epochs": 2}
    files = {p: p.read_bytes() for p in experiment.glob("*.*") if p.is_file()}
    with pytest.raises(UserError, match="training.weight_decay: 0.0 -> 0.5"):
        train(recipe(data, experiment, **changed))
    assert files == {p: p.read_bytes() for p in files}
    brain = train(recipe(data, experiment, **changed), force_resume=True)
    assert epochs(experiment) == [0, 1, 2]
    # What was asked for, not what the checkpoint's optimizer says.
    assert brain.optimizer.param_groups[0]["weight_decay"] == 0.5
    [entry] = read_history(experiment)
    assert entry["forced"]
    assert {c["key"] for c in entry["changes"]} == changed.keys()
    assert "batch_size: 4 -> 2" in (experiment / "log.txt").read_text()


def test_other_shapes_are_refused_even_by_force(data, experiment):  # noqa: F811
    other = recipe(data, experiment, **{"codec.width": 8})
    with pytest.raises(UserError, match="codec: size mismatch") as caught:
        train(other, force_resume=True)
    assert "codec.width: 16 -> 8" in str(caught.value)
    assert "does not help" in str(caught.value)
    assert settings_of(experiment / "hyperparams.yaml")["codec.width"] == "16"


def test_other_data_at_the_same_path_is_refused(data, once, tmp_path):  # noqa: F811
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    experiment = Path(shutil.copytree(once, tmp_path / "exp"))
    same = recipe(folder, experiment, number_of_epochs=1)
    train(same)  # another place of the same data is no change
    assert not (experiment / "resumed.json").exists()
    utterances = read_manifest(folder / "train.json")
    hash_before = content_hash(utterances)
    write_manifest(folder / "train.json", list(utterances.values())[1:])
    with pytest.raises(UserError, match=r"train_manifest: 4 utterances .* -> 3"):
        train(recipe(folder, experiment, number_of_epochs=1))
    record = json.loads((experiment / "data.json").read_text())
    assert record["train_manifest"]["hash"] == hash_before


# -- what can be loaded ----------------------------------------------------------------


def optimizer(kind, **settings):
    weight = torch.nn.Parameter(torch.ones(2))
    made = kind([weight], **settings)
    weight.sum().backward()
    made.step()
    return made


def test_moments_come_back_but_not_the_old_settings(tmp_path):
    old = optimizer(torch.optim.AdamW, lr=1.0, weight_decay=0.5)
    torch.save(old.state_dict(), tmp_path / "optimizer.ckpt")
    new = optimizer(torch.optim.AdamW, lr=0.1, weight_decay=0.0)
    new.state.clear()
    load_moments(new, tmp_path / "optimizer.ckpt", True)
    group = new.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.0)
    [state] = new.state.values()
    [moments] = old.state.values()
    assert torch.equal(state["exp_avg"], moments["exp_avg"])


def test_moments_of_another_optimizer_are_left_out(tmp_path):
    old = optimizer(torch.optim.AdamW, lr=1.0)
    torch.save(old.state_dict(), tmp_path / "optimizer.ckpt")
    new = optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)
    load_moments(new, tmp_path / "optimizer.ckpt", True)
    assert "exp_avg" not in next(iter(new.state.values()))
    new.step()


def test_sums_of_epochs_that_are_no_longer_the_last_are_dropped(tmp_path):
    module = torch.nn.Linear(1, 1)
    short = WeightAverage(module, first_epoch=2)
    for epoch in (2, 3):
        short.add(epoch)
    short._save(tmp_path / "average.ckpt")
    same, longer = WeightAverage(module, 2), WeightAverage(module, 4)
    same._load(tmp_path / "average.ckpt")
    longer._load(tmp_path / "average.ckpt")
    assert (same.epochs, longer.epochs) == ([2, 3], [])
