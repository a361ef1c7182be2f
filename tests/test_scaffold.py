"""``speechbrain-ext new`` makes a folder that runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speechbrain_ext import scaffold
from speechbrain_ext.cli import run
from speechbrain_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "SPEECHBRAIN_EXT_PYTHON": sys.executable}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of what `new` and a run.sh need, in a path with a space."""
    root = tmp_path / "check out"
    for folder in ("egs", "recipes", "hparams", "speechbrain_ext"):
        if (ROOT / folder).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "data", "exp")
            if folder == "speechbrain_ext":
                ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    recipe = root / "recipes/codec/transform.yaml"
    if not recipe.exists():
        recipe.parent.mkdir(parents=True)
        recipe.write_text("seed: 1\n")
    (root / "egs/telugu/local").mkdir(exist_ok=True)
    monkeypatch.setattr(scaffold, "project_root", lambda: root)
    return root


def output_of(*command, cwd="/"):
    result = subprocess.run(
        command, env=ENV, cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("place", ["egs", "egs/more", "../else where"])
def test_a_new_folder_runs_wherever_it_is_made(checkout, place, monkeypatch):
    into = checkout / place
    into.mkdir(exist_ok=True)
    monkeypatch.chdir(checkout)
    assert run(["new", "codec", "my-corpus", "--into", place]) == 0
    script = into / "my-corpus" / "run.sh"
    assert "(egs/my-corpus)" in output_of(script, "--help")
    foretold = output_of(script, "--dry_run", "--tag=x")
    assert "stage 2 train      will run: not run yet" in foretold
    assert "codec/train.py" in foretold
    assert not (script.parent / "exp").exists()
    made = {p.name for p in script.parent.iterdir()}
    assert made == {"run.sh", "local", "README.md"}
    assert not any(p.is_symlink() for p in script.parent.rglob("*"))
    assert [p.name for p in into.iterdir() if p.name.startswith(".")] == []


def test_a_folder_in_the_checkout_moves_with_it(checkout, monkeypatch):
    folder = scaffold.make_recipe_folder("codec", "mine")
    assert folder == checkout / "egs" / "mine"
    text = (folder / "run.sh").read_text()
    assert str(checkout) not in text + (folder / "README.md").read_text()
    assert text == (ROOT / "egs/telugu/run.sh").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("telugu", "exists already"),
        ("common.sh", "exists already"),
        ("", "cannot be the name"),
        ("../up", "cannot be the name"),
        ("a b", "cannot be the name"),
        ("-x", "cannot be the name"),
        (".hidden", "cannot be the name"),
        ("$(touch canary)", "cannot be the name"),
        ("x" * 65, "cannot be the name"),
    ],
)
def test_bad_names_exit_2_and_leave_nothing(checkout, name, message, capsys):
    before = sorted((checkout / "egs").rglob("*"))
    assert run(["new", "codec", "--", name]) == 2
    assert message in capsys.readouterr().err
    assert sorted((checkout / "egs").rglob("*")) == before


def test_a_missing_place_and_an_unknown_task_exit_2(checkout, tmp_path, capsys):
    assert run(["new", "codec", "x", "--into", str(tmp_path / "no where")]) == 2
    assert "type: mkdir -p" in capsys.readouterr().err
    assert run(["new", "codek", "x"]) == 2
    assert "codek" in capsys.readouterr().err


def test_without_a_checkout_it_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(scaffold, "project_root", lambda: tmp_path)
    with pytest.raises(UserError, match="pip install --editable"):
        scaffold.make_recipe_folder("codec", "x")
