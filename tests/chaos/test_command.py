"""The command: its words, its exit codes, its files, and a recipe on its own data."""

import json

import pytest

from speechbrain_ext.chaos import command, plan, recipe
from speechbrain_ext.chaos.survival import OURS
from speechbrain_ext.cli import cli, run
from tests.tasks.test_codec_task import RECIPE, TINY, data  # noqa: F401  (a fixture)
from tests.tasks.test_speaker_task import RECIPE as SPEAKER_RECIPE
from tests.tasks.test_speaker_task import TINY as SPEAKERS
from tests.tasks.voices import corpus


def chaos(*words):
    return run(cli, ["chaos", *map(str, words)], "speechbrain-ext")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name what to try"),
        (["speaker", "a.yaml"], "takes no further words, got a.yaml"),
        (["speaker", "--faults=nan_sampel"], "unknown nan_sampel; known: nan_sample"),
        (["speaker", "--positions=end"], "unknown end; known: middle, first"),
        (["speaker", "--faults=,"], "--faults names nothing"),
        (["no/such.yaml"], "no such file"),
        ([RECIPE, "--variants=dropout"], "--variants are of speaker and codec only"),
    ],
)
def test_a_usage_error_exits_2_and_says_what_is_known(words, says, capsys):
    assert chaos(*words) == 2
    assert says in capsys.readouterr().err


def test_a_recipe_that_names_no_task_is_told_so(tmp_path, capsys):
    path = tmp_path / "bare.yaml"
    path.write_text("seed: 1\noutput_folder: x\n")
    assert chaos(path) == 2
    assert "names no task" in capsys.readouterr().err


def test_figures_and_document_are_written_and_the_exit_code_follows(tmp_path, capsys):
    options = ["--faults=nan_sample,label", "--batches=6", f"--write={tmp_path}"]
    assert chaos("codec", *options) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "chaos.json").read_text())
    text = (tmp_path / "chaos.md").read_text()
    assert printed.strip() in text
    assert report["command"] in text
    [subject] = report["subjects"]
    nan_sample, label = subject["settings"][0]["rows"]
    assert list(nan_sample["outcomes"]) == ["stock", "off", "skip", OURS]
    assert nan_sample["outcomes"][OURS]["identical"] is True
    assert nan_sample["outcomes"]["stock"]["identical"] is False
    assert label["applies"] is False


def test_what_did_not_survive_makes_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(plan, "survived", lambda results: False)
    assert chaos("codec", "--faults=label", "--batches=6") == 1


def test_ctrl_c_is_130_and_leaves_nothing(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "carry_out", interrupted)
    monkeypatch.setattr(command.tempfile, "tempdir", str(tmp_path))
    assert chaos("codec") == 130
    assert not list(tmp_path.iterdir())


def options(data, **more):  # noqa: F811
    given = {
        **TINY,
        "train_manifest": data / "train.json",
        "valid_manifest": data / "valid.json",
        "crops_per_epoch": 24,
        **more,
    }
    return [f"--{key}={value}" for key, value in given.items()]


def test_a_recipe_survives_on_its_own_data_and_leaves_no_file(
    data,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.chdir(tmp_path)
    figures = tmp_path / "figures.json"
    words = [RECIPE, *options(data), "--faults=nan_sample,nan_exp_avg", "--json"]
    assert chaos(*words, figures, "--batches", 6) == 0
    assert list(tmp_path.iterdir()) == [figures]
    [subject] = json.loads(figures.read_text())["subjects"]
    assert subject["subject"] == "transform"
    for row in subject["settings"][0]["rows"]:
        assert row["outcomes"][OURS]["identical"], row
        assert not row["outcomes"]["off"]["identical"]


def test_too_few_batches_for_a_fault_are_told(data, tmp_path, capsys):  # noqa: F811
    assert chaos(RECIPE, *options(data, crops_per_epoch=8)) == 2
    said = capsys.readouterr().err
    assert f"2 batches in an epoch, and a fault needs {recipe.MIN_BATCHES}" in said


def test_a_speaker_recipe_survives_on_its_own_data(tmp_path):
    voices = corpus(tmp_path / "voices")
    figures = tmp_path / "figures.json"
    given = {
        **SPEAKERS,
        "train_manifest": voices / "train.json",
        "valid_manifest": voices / "valid.json",
        "crops_per_epoch": 24,
    }
    words = [f"--{key}={value}" for key, value in given.items()]
    words += ["--faults=nan_sample,label", "--batches=6", f"--json={figures}"]
    assert chaos(SPEAKER_RECIPE, *words) == 0
    [subject] = json.loads(figures.read_text())["subjects"]
    for row in subject["settings"][0]["rows"]:
        assert row["applies"]
        assert row["outcomes"][OURS]["identical"], row
        assert row["outcomes"][OURS]["cause_right"], row
