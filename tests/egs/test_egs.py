"""The real run.sh of egs/, and folders that ``speechbrain-ext new`` makes of them."""

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
OWN_RECIPE = "train_manifest: a\nvalid_manifest: b\noutput_folder: c\n"


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
    for name in ("codec/transform", "speaker/ecapa_mini"):
        recipe = root / f"recipes/{name}.yaml"
        if not recipe.exists():
            recipe.parent.mkdir(parents=True, exist_ok=True)
            recipe.write_text(OWN_RECIPE)
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


def caller(script, cwd):
    """Return a function that calls a run.sh from another directory."""

    def call(*arguments):
        done = subprocess.run(
            [script, *arguments],
            cwd=cwd,
            env=ENV,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


def commands_of(foretold):
    """Return the commands that a dry run shows."""
    return [text.strip() for text in foretold.splitlines() if text.startswith("    ")]


# --- egs/telugu --------------------------------------------------------------------


@pytest.fixture
def telugu(checkout, tmp_path):
    """Call egs/telugu/run.sh of a copy."""
    return caller(checkout / "egs/telugu/run.sh", tmp_path)


def test_telugu_help_lists_stages_and_options(telugu):
    code, out, _ = telugu("--help")
    assert code == 0
    for line in (
        "0  data",
        "1  prepare",
        "2  train",
        "3  evaluate",
        "4  tokenize",
        "5  report",
        "6  pack",
    ):
        assert f"  {line}" in out
    for option in (
        "stage stop_stage force dry_run ngpu nj recipe preset tag expdir data_folder "
        "corpus help datadir python allow"
    ).split():
        assert f"  --{option}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "embed"], "no such stage"),
        (["--stage", "5", "--stop_stage", "3"], "nothing to run"),
        (["--interleaving", "flatt"], "did you mean 'flat'?"),
        (["--vocab_size", "0"], "must be at least 1"),
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
    recipe.write_text(OWN_RECIPE)
    exp = tmp_path / "exp"
    code, out, err = telugu(
        *["--dry_run", "--data_folder", "my rec", "--expdir", exp, "--ngpu", "2"],
        *["--datadir", tmp_path / "d", "--recipe", "own.yaml"],
    )
    assert code == 0, err
    lines = commands_of(out)
    assert len(lines) == 7
    assert f"--corpus=folder --datadir={tmp_path}/d" in lines[1]
    assert f"'--data_folder={tmp_path}/my rec'" in lines[1]
    assert "torch.distributed.run --standalone --nproc_per_node=2" in lines[2]
    assert f"train.py {recipe} --train_manifest={tmp_path}/d/train.json" in lines[2]
    assert lines[2].endswith("--device=cuda")
    assert f"evaluate.py {exp} --test_manifest={tmp_path}/d/test.json" in lines[3]
    assert f"tokenize.py {exp} --data={tmp_path}/d --interleaving" in lines[4]
    assert not exp.exists()


def test_telugu_a_report_needs_tokens_only_where_they_are_made_or_there(
    telugu, tmp_path
):
    exp = tmp_path / "exp"
    exp.mkdir()
    for name in ("results.json", "train_log.txt"):
        (exp / name).write_text("{}")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(OWN_RECIPE)
    words = ["--recipe", recipe, "--expdir", exp, "--datadir", tmp_path / "d"]
    code, _, err = telugu(*words, "--dry_run", "--stage=report", "--stop_stage=report")
    assert code == 0, err
    code, _, err = telugu(*words, "--dry_run", "--stage", "tokenize")
    assert code == 2
    assert f"stage 4 (tokenize) needs {tmp_path}/d/train.json" in err
    assert "needs tokens" not in err


@pytest.mark.parametrize("stage", ["data", "report"])
def test_a_recipe_that_is_refused_stops_before_anything_runs(telugu, tmp_path, stage):
    canary, exp = tmp_path / "canary", tmp_path / "exp"
    recipe = tmp_path / "own.yaml"
    run = f"!apply:os.system [touch {canary}]"
    recipe.write_text(f"{OWN_RECIPE}bag: !new:collections.Counter\nrun: {run}\n")
    words = ["--recipe", "own.yaml", "--expdir", exp, "--datadir", tmp_path / "d"]
    code, out, err = telugu(*words, "--stage", stage)
    assert code == 2
    assert "line 5  !apply:os.system: refused, it runs commands" in err
    assert "Stage" not in out
    for path in (canary, exp, tmp_path / "d"):
        assert not path.exists()
    allowed = ["--allow", "os.system", "--allow=collections.Counter"]
    code, out, err = telugu(*words, *allowed, "--dry_run")
    assert code == 0, err
    assert "--allow=os.system --allow=collections.Counter" in commands_of(out)[2]
    assert not canary.exists()


# --- egs/voxceleb_mini -------------------------------------------------------------


@pytest.fixture
def voxceleb(checkout, tmp_path):
    """Call egs/voxceleb_mini/run.sh of a copy."""
    return caller(checkout / "egs/voxceleb_mini/run.sh", tmp_path)


def test_voxceleb_mini_help_lists_stages_and_options(voxceleb):
    code, out, _ = voxceleb("--help")
    assert code == 0
    names = ("data", "prepare", "train", "embed", "score", "report", "pack")
    for number, name in enumerate(names):
        assert f"  {number}  {name}" in out
    for option in (
        "stage stop_stage force dry_run recipe preset tag corpus data_folder "
        "split_seed num_test num_train max_rejected vad noise_folder rir_folder "
        "init_from backend nan_trials max_nan_trials"
    ).split():
        assert f"  --{option}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "espeak", "--stage", "evaluate"], "no such stage"),
        (["--corpus", "debain"], "did you mean 'debian'?"),
        (["--corpus", "voxceleb1"], "needs --data_folder DIR"),
        (["--corpus", "espeak", "--data_folder", "."], "makes its own speech"),
        (["--corpus", "espeak", "--noise_folder", "musan"], "no such folder"),
        (["--corpus", "espeak", "--nan_trials", "ignore"], "no such nan_trials"),
        (["--corpus", "espeak", "--num_test", "0"], "must be at least 1"),
        (["--corpus", "espeak", "--vad", "web"], "known: silero|none"),
        (["--corpus", "espeak", "--max_nan_trails", "3"], "--max_nan_trials"),
    ],
)
def test_voxceleb_mini_wrong_usage_exits_2_with_a_reason(voxceleb, arguments, message):
    code, _, err = voxceleb(*arguments)
    assert code == 2
    assert message in err


def test_voxceleb_mini_dry_run_names_each_command(voxceleb, tmp_path, checkout):
    (tmp_path / "my rec").mkdir()
    (tmp_path / "own.yaml").write_text(OWN_RECIPE)
    exp, data = tmp_path / "exp", tmp_path / "d"
    code, out, err = voxceleb(
        *["--dry_run", "--data_folder", "my rec", "--expdir", exp, "--split_seed=3"],
        *["--datadir", data, "--recipe", "own.yaml", "--num_test", "5"],
        *["--nan_trials=filter", "--max_nan_trials=2", "--ngpu", "0"],
    )
    assert code == 0, err
    lines = commands_of(out)
    assert len(lines) == 7
    assert f"--corpus=folder --datadir={data}" in lines[1]
    assert f"'--data_folder={tmp_path}/my rec' --split_seed=3 --num_test=5" in lines[1]
    assert f"--train_manifest={data}/split3/train.json" in lines[2]
    assert f"--valid_manifest={data}/split3/valid.json" in lines[2]
    assert f"embed.py {exp} --data={data}/split3 --allow_nonfinite" in lines[3]
    assert lines[3].endswith("--device=cpu")
    assert f"score.py {exp} --data={data}/split3 --backend=auto" in lines[4]
    assert lines[4].endswith("--nan_trials=filter --max_nan_trials=2")
    assert lines[5].endswith(f"-m speechbrain_ext report {exp} --quiet")
    assert lines[6].endswith(f"pack {exp} --output={exp}/exp.zip")
    assert not exp.exists()
    assert not data.exists()


def test_each_split_and_corpus_of_voxceleb_mini_is_an_experiment(voxceleb, checkout):
    for arguments, tag in (
        (["--corpus=espeak"], "ecapa_mini_espeak"),
        (["--corpus=debian", "--split_seed=2"], "ecapa_mini_debian_split2"),
        (["--corpus=debian", "--split_seed=2", "--tag=mine"], "mine"),
        (["--corpus=debian", "--inner_split=4"], "ecapa_mini_debian_split1_inner4"),
    ):
        _, out, _ = voxceleb("--dry_run", *arguments)
        assert commands_of(out)[5].endswith(f"report exp/{tag} --quiet")


def test_auto_is_settled_once_and_an_experiment_keeps_its_voices(voxceleb, checkout):
    here = checkout / "egs/voxceleb_mini"
    _, out, _ = voxceleb("--dry_run")
    assert "--corpus auto:" in out
    assert not (here / "data").exists()
    (here / "data").mkdir()
    for corpus in ("espeak", "debian"):
        (here / "data/corpus").write_text(f"{corpus}\n")
        _, out, _ = voxceleb("--dry_run")
        assert f"local/data.py --corpus={corpus} --datadir=data/{corpus}" in out
    settings = here / "exp/mine/.stages/settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("recipe=speaker/ecapa_mini\ncorpus=espeak\nsplit_seed=4\n")
    _, out, _ = voxceleb("--dry_run", "--tag=mine")
    assert "--corpus=espeak --datadir=data/espeak --split_seed=4" in out
    (here / "data/corpus").write_text("damaged")
    code, _, err = voxceleb("--dry_run")
    assert code == 2
    assert "remove that file" in err


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


@pytest.mark.parametrize(
    ("task", "place", "train"),
    [
        ("codec", "egs", "codec/train.py"),
        ("codec", "egs/more", "codec/train.py"),
        ("codec", "../else where", "codec/train.py"),
        ("speaker", "../else where", "speaker/train.py"),
    ],
)
def test_a_new_folder_runs_wherever_it_is_made(
    checkout, task, place, train, monkeypatch
):
    into = checkout / place
    into.mkdir(exist_ok=True)
    monkeypatch.chdir(checkout)
    assert run(["new", task, "my-corpus", "--into", place]) == 0
    script = into / "my-corpus" / "run.sh"
    assert "(egs/my-corpus)" in output_of(script, "--help")
    foretold = output_of(script, "--dry_run", "--tag=x")
    assert "stage 2 train      will run: not run yet" in foretold
    assert train in foretold
    assert f"recipes/{task}/" in (script.parent / "README.md").read_text()
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
