"""A path of the wrong kind gets one sentence, with the command for what it is."""

import json
import shutil

import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.inference.source import find_folder
from speechbrain_ext.sharing.kinds import FORMAT, kind_of

MEMBERS = {
    "bundle.zip": None,
    "recipe.yaml": None,
    "thesis.txt": None,
    "export": ("config.json", "hyperparams.yaml"),
    "damaged": ("model.yaml", "config.json", "hyperparams.yaml"),
    "unpacked": ("manifest.json", "recipe.yaml", "hyperparams.yaml"),
    "experiment": ("hyperparams.yaml",),
    "folder": ("config.json",),
}
KINDS = {
    "bundle.zip": "bundle",
    "recipe.yaml": "recipe",
    "thesis.txt": "file",
    "damaged": "export",
    "gone": None,
}


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, inside in MEMBERS.items():
        if inside is None:
            (tmp_path / name).write_text("seed: 1\n")
            continue
        (tmp_path / name).mkdir()
        for member in inside:
            (tmp_path / name / member).write_text("{}")
    (tmp_path / "export" / "config.json").write_text(json.dumps({"format": FORMAT}))


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("name", [*MEMBERS, "gone"])
def test_each_kind_is_told_from_the_others(name):
    assert kind_of(name) == KINDS.get(name, name)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["export", "bundle.zip"],
            "export: bundle.zip is a bundle; make an experiment",
        ),
        (["export", "export"], "export: export is an export"),
        (["export", "recipe.yaml"], "train it first: ./run.sh --recipe recipe.yaml"),
        (["export", "bundle.zip", "--format", "onnx"], "unpack bundle.zip exp/NAME"),
        (["inspect", "export"], "look at it: speechbrain-ext verify export"),
        (["inspect", "experiment"], "its recipe is experiment/hyperparams.yaml"),
        (["inspect", "unpacked"], "its recipe is unpacked/recipe.yaml"),
        (["inspect", "folder"], "is a folder, but no experiment"),
        (["verify", "experiment"], "made by: speechbrain-ext pack experiment"),
        (["verify", "unpacked"], "speechbrain-ext verify FILE.zip"),
        (["verify", "gone"], "verify: gone: no such file or folder"),
        (["verify", "export", "--data", "folder"], "--data is for bundles"),
        (["unpack", "export", "x"], "look at it: speechbrain-ext verify export"),
        (["pack", "bundle.zip"], "pack: bundle.zip is a bundle"),
        (["pack", "export"], "pack: export is an export"),
        (["diff", "export", "experiment"], "diff: export is an export"),
    ],
)
def test_the_sentence_has_the_right_command(tmp_path, capsys, words, message):
    before = sorted(tmp_path.rglob("*"))
    assert run(cli, words, "speechbrain-ext") == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("words", "work"),
    [
        (["pack", "recipe.yaml"], "bundle.packing.pack"),
        (["unpack", "bundle.zip"], "bundle.unpacking.unpack"),
        (["verify", "bundle.zip"], "bundle.verification.verify"),
        (["export", "experiment"], "export.export"),
    ],
)
@pytest.mark.parametrize("told", ["", "uploads it again"])
def test_ctrl_c_says_what_there_is(monkeypatch, capsys, words, work, told):
    def interrupted(*args, **options):
        raise KeyboardInterrupt(*[told] if told else [])

    monkeypatch.setattr(f"speechbrain_ext.sharing.{work}", interrupted)
    assert run(cli, words, "speechbrain-ext") == 130
    said = f"the same command {told}" if told else "nothing was written"
    assert capsys.readouterr().err.strip().endswith(f"interrupted; {said}")


@pytest.mark.usefixtures("_here")
def test_a_model_is_not_looked_for_in_a_bundle(tmp_path):
    from speechbrain_ext.errors import UserError

    with pytest.raises(UserError, match=r"unpack bundle\.zip exp/NAME$"):
        find_folder("bundle.zip")
    shutil.rmtree(tmp_path / "export")
    with pytest.raises(UserError, match="no such folder, and no name of"):
        find_folder("export")
