"""The real egs/telugu/run.sh, and folders that ``speechbrain-ext new`` makes of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speechbrain_ext import scaffold
from speechbrain_ext.cli import main
from speechbrain_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ENV = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CDPATH")}
ENV["SPEECHBRAIN_EXT_PYTHON"] = sys.executable


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


def run(argv):
    """Return the exit code of ``speechbrain-ext ARGV``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["speechbrain-ext", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code


def output_of(*command, cwd="/"):
    result = subprocess.run(
        command, env=ENV, cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


# --- egs/telugu --------------------------------------------------------------------


@pytest.fixture
def telugu(checkout, tmp_path):
    """Call egs/telugu/run.sh of a copy, from another directory."""

    def call(*arguments):
        done = subprocess.run(
            [checkout / "egs/telugu/run.sh", *arguments],
            cwd=tmp_path,
            env=ENV,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


def test_telugu_help_lists_stages_and_options(telugu):
    code, out, _ = telugu("--help")
    assert code == 0
    for line in ("0  data", "1  prepare", "2  train", "3  evaluate", "5  report"):
        assert f"  {line}" in out
    for option in (
        "stage stop_stage force dry_run ngpu nj recipe preset tag expdir data_folder "
        "corpus help datadir python"
    ).split():
        assert f"  --{option}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "tokenize"], "no such stage"),
        (["--stage", "5", "--stop_stage", "3"], "nothing to run"),
        (["--corpus", "expeak"], "did you mean 'espeak'?"),
        (["--corpus", "folder"], "needs --data_folder DIR"),
        (["--data_folder", "nowhere"], "nowhere: no such folder"),
        (["--recipe", "codec/transfrom"], "did you mean 'codec/transform'?"),
        (["--recipe", "own.yaml"], "own.yaml"),
        (["--preset", "ultrasave"], "no file"),
        (["--tag", "a/b"], "it names a folder"),
        (["--stge", "2"], "did you mean '--stage'?"),
    ],
)
def test_telugu_wrong_usage_exits_2_with_a_reason(telugu, arguments, message):
    code, _, err = telugu(*arguments)
    assert code == 2
    assert message in err


def test_telugu_dry_run_names_each_command(telugu, tmp_path):
    (tmp_path / "my rec").mkdir()
    recipe = tmp_path / "own.yaml"
    recipe.write_text("train_manifest: a\nvalid_manifest: b\noutput_folder: c\n")
    exp = tmp_path / "exp"
    code, out, err = telugu(
        *["--dry_run", "--data_folder", "my rec", "--expdir", exp, "--ngpu", "2"],
        *["--datadir", tmp_path / "d", "--recipe", "own.yaml"],
    )
    assert code == 0, err
    lines = [line.strip() for line in out.splitlines() if line.startswith("    ")]
    assert len(lines) == 5
    assert f"--corpus=folder --datadir={tmp_path}/d" in lines[1]
    assert f"'--data_folder={tmp_path}/my rec'" in lines[1]
    assert "torch.distributed.run --standalone --nproc_per_node=2" in lines[2]
    assert f"train.py {recipe} --train_manifest={tmp_path}/d/train.json" in lines[2]
    assert lines[2].endswith("--device=cuda")
    assert f"evaluate.py {exp} --test_manifest={tmp_path}/d/test.json" in lines[3]
    assert not exp.exists()


@pytest.mark.smoke
def test_shell_files_are_clean():
    scripts = ["egs/common.sh", *map(str, ROOT.glob("egs/*/run.sh"))]
    for script in scripts:
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# --- speechbrain-ext new -----------------------------------------------------------


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
