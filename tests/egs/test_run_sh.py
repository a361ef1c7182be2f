"""Promises of egs/common.sh, on a toy recipe whose stages take milliseconds."""

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RUN_SH = """\
#!/usr/bin/env bash
set -euo pipefail
caller_dir=$PWD
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
root=../..
source "$root/egs/common.sh"

about "A toy that is 100% done %s."
stage 0 copy   "copy the source"
stage 2 train  "count epochs"
stage 3 report "write RESULTS.md"

common_options
option recipe text:NAME "" "none by default, so that nothing is passed on"
option epochs count:N 2 "epochs to count"
option source path:FILE source.txt "what is copied"
option mood "choice:good|bad|refused|crash|killed|stuck" good "how it ends"
option share part:PART 0.2 "a part"
option wait flag false "train sleeps"
preset=()
parse "$@"
log "$0"
find_python
tag=${opt[tag]:-toy}
check_tag "$tag"
exp=${opt[expdir]:-exp/$tag}
recall "$exp" source
recall "$exp" mood
stage_copy() {
  lives_in data
  needs "${opt[source]}"
  makes data/copied.txt
  runs tool.py copy "--source=${opt[source]}" "--nj=${opt[nj]}"
}
stage_train() {
  lives_in "$exp"
  needs data/copied.txt
  makes "$exp/state"
  restarts "$exp/state" "$exp/notes"
  extends epochs
  runs_on_gpus tool.py train "--exp=$exp" "--epochs=${opt[epochs]}" \\
    "--mood=${opt[mood]}" "${preset[@]/#/--preset=}" "${resume[@]}" \\
    "${overrides[@]+"${overrides[@]}"}"
}
stage_report() {
  lives_in "$exp"
  needs "$exp/state"
  makes "$exp/RESULTS.md"
  runs tool.py report "--exp=$exp"
}
if [[ ${opt[wait]} == true ]]; then export TOY_WAIT=1; fi
tell show "$exp/RESULTS.md"
tell look State "$exp/state"
tell settle settled.txt "${opt[mood]}"
go "$exp" source mood
"""

TOOL = """\
import os, pathlib, sys, time
print("argv", sys.argv[1:], "terminal", sys.stdout.isatty(), sys.stderr.isatty())
what, *rest = sys.argv[1:]
options = dict(word.lstrip("-").partition("=")[::2] for word in rest)
exp = pathlib.Path(options.get("exp", "."))
if what == "copy":
    os.makedirs("data", exist_ok=True)
    text = pathlib.Path(options["source"]).read_text()
    pathlib.Path("data/copied.txt").write_text(text)
if what == "train":
    if options["mood"] == "refused":
        sys.exit(2)
    if options["mood"] in ("crash", "killed"):
        (exp / "notes").write_text("why")
        os.kill(os.getpid(), 9) if options["mood"] == "killed" else sys.exit(1)
    if options["mood"] == "stuck":
        (exp / "waiting").write_text(str(os.getpid()))
        time.sleep(30)
    state = exp / "state"
    state.mkdir(parents=True, exist_ok=True)
    epoch = state / "epoch"
    first = int(epoch.read_text()) + 1 if epoch.exists() else 1
    for number in range(first, int(options["epochs"]) + 1):
        print(f"epoch {number} from {first}")
        epoch.write_text(str(number))
        print("bar 50%", end="\\r", file=sys.stderr)
        print("bar 100%", file=sys.stderr)
        if os.environ.get("TOY_WAIT"):
            (exp / "waiting").write_text(str(os.getpid()))
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                try:
                    time.sleep(0.3)  # saving: a second Ctrl-C would spoil it
                    (exp / "saved").write_text("whole")
                finally:
                    sys.exit(130)
    if options["mood"] == "bad":
        sys.exit("train: no good mood")
if what == "report":
    n = (exp / "state" / "epoch").read_text()
    (exp / "RESULTS.md").write_text(f"| epochs | {n} |\\n")
"""


class Toy:
    """A checkout with one toy recipe, in a path with a space."""

    def __init__(self, folder: Path):
        self.root = folder / "check out"
        self.here = self.root / "egs" / "toy"
        self.here.mkdir(parents=True)
        shutil.copy(ROOT / "egs" / "common.sh", self.root / "egs")
        self.script = self.here / "run.sh"
        self.script.write_text(RUN_SH)
        self.script.chmod(0o755)
        (self.here / "tool.py").write_text(TOOL)
        (self.here / "source.txt").write_text("one")
        self.env = environment()

    def start(self, *arguments, cwd=None, **keywords) -> subprocess.Popen:
        return subprocess.Popen(
            [self.script, *arguments],
            cwd=cwd or self.here,
            env=self.env,
            stdout=keywords.pop("stdout", subprocess.PIPE),
            stderr=keywords.pop("stderr", subprocess.PIPE),
            text=True,
            **keywords,
        )

    def run(self, *arguments, rc=0, cwd=None) -> str:
        process = self.start(*arguments, cwd=cwd)
        out, err = process.communicate(timeout=30)
        assert process.returncode == rc, out + err
        if rc:
            assert err, "an error says something on stderr"
        assert "Traceback" not in err
        return out + err

    def read(self, path: str) -> str:
        return (self.here / path).read_text()


def environment(**more) -> dict:
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CDPATH")}
    return {
        **kept,
        "SPEECHBRAIN_EXT_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        **more,
    }


def wait_until(condition, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def wait_for(path: Path) -> str:
    return wait_until(lambda: path.exists() and path.read_text())


def ended(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        )
    except FileNotFoundError:
        return True


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


# --- running, skipping, redoing ------------------------------------------------------


@pytest.mark.smoke
def test_runs_everything_and_the_same_command_again_is_a_no_op(toy):
    first = toy.run()
    assert "| epochs | 2 |" in first
    assert "Successfully finished. [elapsed=" in first
    before = {p: p.stat().st_mtime_ns for p in toy.here.rglob("*") if p.is_file()}
    second = toy.run()
    assert second.count("up to date, skipped") == 3
    assert "Nothing to do" in second
    outputs = {p for p in before if ".stages" not in p.parts and p.name != "run.sh"}
    assert all(p.stat().st_mtime_ns == before[p] for p in outputs)


def test_log_lines_name_time_place_and_stage(toy):
    lines = toy.run("--stop_stage", "0").splitlines()
    line = next(text for text in lines if "Stage 0" in text)
    stamp, place, rest = line.split(" ", 2)
    time.strptime(stamp, "%Y-%m-%dT%H:%M:%S")
    number = RUN_SH.splitlines().index(
        '  runs tool.py copy "--source=${opt[source]}" "--nj=${opt[nj]}"'
    )
    assert place == f"(run.sh:{number + 1}:stage_copy)"
    assert rest.startswith("Stage 0 (copy): copy the source")


@pytest.mark.parametrize(
    ("change", "stages", "reason"),
    [
        (["--epochs=3"], ["train", "report"], "option epochs: 2 -> 3"),
        (["--mood", "good"], [], ""),
        (["--preset", "x"], ["train"], "option preset: (not given) -> x"),
        (["--nj=7", "--ngpu", "1"], [], ""),
        ("source", ["copy", "train"], "input source.txt changed"),
        ("touch", [], ""),
        ("output", ["copy"], "output data/copied.txt changed"),
        ("lost", ["report"], "output exp/toy/RESULTS.md is missing"),
    ],
)
def test_a_stage_runs_again_only_for_a_reason_and_says_it(toy, change, stages, reason):
    toy.run()
    source = toy.here / "source.txt"
    if change == "source":
        source.write_text("two")
    elif change == "touch":
        os.utime(source)
    elif change == "output":
        (toy.here / "data/copied.txt").write_text("edited")
    elif change == "lost":
        (toy.here / "exp/toy/RESULTS.md").unlink()
    arguments = change if isinstance(change, list) else []
    foretold = toy.run("--dry_run", *arguments)
    text = toy.run(*arguments)
    ran = [n for n in ("copy", "train", "report") if f"({n}): up to date" not in text]
    assert ran == stages
    assert reason in text
    assert reason in foretold


def test_more_epochs_go_on_but_another_option_starts_anew(toy):
    toy.run()
    assert "epoch 3 from 3" in toy.run("--epochs=3")
    text = toy.run("--epochs=3", "--preset=x")
    assert "epoch 1 from 1" in text
    assert toy.read("exp/toy/previous/train/state/epoch") == "3"


def test_force_resume_goes_on_from_the_finished_state(toy):
    toy.run()
    text = toy.run("--preset=x", "--epochs=3", "--force-resume")
    assert "epoch 3 from 3" in text
    assert "'--force_resume'" in text
    assert not (toy.here / "exp/toy/previous").exists()
    assert toy.run("--preset=x", "--epochs=3").count("up to date") == 4
    assert "give one of them" in toy.run("--force", "--force_resume", rc=2)


def test_force_redoes_finished_stages_from_their_start(toy):
    toy.run()
    text = toy.run("--force", "--stage", "train")
    assert text.count("[--force]") == 2
    assert "epoch 1 from 1" in text
    assert "(copy)" not in text


def test_dry_run_changes_nothing_and_prints_commands_that_run(toy):
    text = toy.run("--dry_run", "--tag", "x y")
    assert sorted(p.name for p in toy.here.iterdir()) == [
        "run.sh",
        "source.txt",
        "tool.py",
    ]
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert len(commands) == 3
    for command in commands:
        subprocess.run(shlex.split(command), cwd=toy.here, check=True, env=toy.env)
    assert toy.read("exp/x y/RESULTS.md") == "| epochs | 2 |\n"


def test_dry_run_says_what_would_be_set_aside_and_where(toy):
    toy.run()
    text = toy.run("--dry_run", "--preset=x")
    assert (
        "its earlier state will move to exp/toy/previous/train: exp/toy/state" in text
    )
    assert "will be lost" not in text
    assert "begins anew; its earlier state" in text
    text = toy.run("--dry_run", "--epochs=3")
    assert "will move" not in text
    assert "goes on from exp/toy/state" in text
    assert toy.read("exp/toy/state/epoch") == "2"
    toy.run("--preset=x")
    assert "what lies there now will be lost" in toy.run("--dry_run")


def test_dry_run_says_that_a_later_stage_depends_on_an_earlier_one(toy):
    toy.run()
    (toy.here / "source.txt").write_text("two")
    text = toy.run("--dry_run")
    assert "unless stage 0 (copy) leaves data/copied.txt as it is" in text


def test_a_skipped_stage_costs_less_than_a_third_of_a_second(toy):
    toy.run()
    toy.run()
    start = time.monotonic()
    toy.run()
    assert (time.monotonic() - start) / 3 < 0.3


def test_runs_from_any_directory_and_reads_paths_as_the_user_means_them(toy, tmp_path):
    (tmp_path / "my file").write_text("mine")
    toy.run("--source", "my file", "--stop_stage=copy", cwd=tmp_path)
    assert toy.read("data/copied.txt") == "mine"
    toy.env["HOME"] = str(tmp_path)
    text = toy.run("--source=~/my file", "--stop-stage=copy", cwd="/")
    assert "up to date" in text
    toy.run("--source", toy.here / "source.txt", "--stop_stage=copy")
    assert "up to date" in toy.run("--stop_stage=copy")


def test_an_experiment_remembers_where_its_data_came_from(toy, tmp_path):
    (tmp_path / "other").write_text("mine")
    toy.run("--source", tmp_path / "other", "--tag", "mine")
    text = toy.run("--tag", "mine")
    assert f"as in exp/mine before: --source={tmp_path}/other" in text
    assert "Nothing to do" in text
    assert f"source={tmp_path}/other" in toy.read("exp/mine/.stages/settings")
    toy.run("--tag", "fresh")
    assert toy.read("data/copied.txt") == "one"


def test_a_stage_before_the_first_that_is_outdated_is_mentioned(toy):
    toy.run()
    (toy.here / "source.txt").write_text("two")
    text = toy.run("--stage", "2")
    assert "note: stage 0 (copy) lies before --stage" in text
    assert toy.read("data/copied.txt") == "one"


# --- failing, interrupting, killing --------------------------------------------------


def test_missing_inputs_exit_2_with_the_command_that_makes_them(toy):
    text = toy.run("--stage", "report", "--tag", "a b", rc=2)
    assert "stage 3 (report) needs exp/a b/state: made by stage 2 (train)" in text
    wanted = "type: " + shlex.join([str(toy.script), "--tag=a b"])
    assert wanted + " --stage copy --stop_stage train" in text
    assert not (toy.here / "exp").exists()
    text = toy.run("--source", "nowhere.txt", rc=2)
    assert "nowhere.txt: no stage makes it" in text


def test_failing_stage_exits_1_naming_stage_log_and_command(toy):
    text = toy.run("--mood=bad", rc=1)
    assert "run.sh: stage 2 (train) failed: exit code 1" in text
    assert "log: exp/toy/log/train.log" in text
    assert "command: (cd " in text
    assert "train: no good mood" in toy.read("exp/toy/log/train.log")
    assert not (toy.here / "exp/toy/RESULTS.md").exists()
    assert "[it failed last time]" in toy.run("--mood=good")


def test_a_stage_that_refuses_its_input_exits_2_and_nothing_is_lost(toy):
    assert "failed: exit code 2" in toy.run("--mood=refused", rc=2)
    toy.run()
    text = toy.run("--mood=refused", rc=2)
    assert "what it had made before is as it was" in text
    assert not (toy.here / "exp/toy/previous").exists()
    assert toy.read("exp/toy/state/epoch") == "2"
    assert "Nothing to do" in toy.run()


@pytest.mark.parametrize("mood", ["refused", "crash", "killed"])
def test_an_option_that_failed_is_not_remembered(toy, mood):
    toy.run("--tag=t", f"--mood={mood}", rc=2 if mood == "refused" else 1)
    assert not (toy.here / "exp/t/.stages/settings").exists()
    assert "mood=" not in toy.run("--tag=t").replace("--mood=good", "")
    toy.run("--tag=t", f"--mood={mood}", rc=2 if mood == "refused" else 1)
    assert "as in" not in toy.run("--tag=t", "--dry_run")
    toy.run("--tag=t", "--mood=good")
    assert toy.read("exp/t/.stages/settings") == "mood=good\n"


def test_what_a_stage_succeeded_with_is_remembered_though_a_later_one_fails(toy):
    (toy.here / "other").write_text("mine")
    toy.run("--tag=t", "--source=other", "--mood=crash", rc=1)
    assert toy.read("exp/t/.stages/settings") == "source=other\n"
    assert toy.read("settled.txt") == "crash\n"  # once a stage was content


def test_a_wrong_first_command_leaves_nothing_of_the_experiment(toy):
    toy.run("--source=nowhere.txt", rc=2)
    assert not (toy.here / "settled.txt").exists()
    toy.run("--stop_stage=copy")
    shutil.rmtree(toy.here / "exp")
    text = toy.run("--mood=refused", rc=2)
    assert not (toy.here / "exp/toy").exists()
    assert "go on:" not in text
    assert "log:" not in text


def test_the_written_command_is_not_a_refused_one(toy):
    toy.run()
    before = toy.read("exp/toy/run.sh")
    toy.run("--mood=refused", rc=2)
    assert toy.read("exp/toy/run.sh") == before


@pytest.mark.parametrize("mood", ["crash", "killed"])
def test_a_crash_before_the_first_checkpoint_costs_nothing(toy, mood):
    toy.run("--epochs=3")
    text = toy.run("--epochs=3", f"--mood={mood}", rc=1)
    assert "what it had made before is as it was" in text
    assert "what it wrote now is in exp/toy/failed/train" in text
    assert toy.read("exp/toy/failed/train/notes") == "why"
    assert not (toy.here / "exp/toy/notes").exists()
    assert toy.read("exp/toy/state/epoch") == "3"
    assert "Nothing to do" in toy.run("--epochs=3")


def test_an_interrupt_before_the_first_checkpoint_costs_nothing(toy):
    toy.run()
    process = toy.start("--mood=stuck")
    wait_for(toy.here / "exp/toy/waiting")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert "interrupted before it had made anything" in out.replace(";", "")
    assert "Nothing to do" in toy.run()


def test_kill_9_before_the_first_checkpoint_costs_nothing(toy):
    toy.run()
    process = toy.start("--mood=stuck", stdout=subprocess.DEVNULL)
    child = int(wait_for(toy.here / "exp/toy/waiting"))
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: ended(child))
    assert not (toy.here / "exp/toy/state").exists()
    text = toy.run()
    assert "it was killed at its beginning" in text
    assert toy.read("exp/toy/state/epoch") == "2"
    assert text.count("up to date, skipped") == 3


def test_a_stage_that_does_not_make_what_it_promised_has_failed(toy):
    toy.script.write_text(
        RUN_SH.replace("makes data/copied.txt", "makes data/copied.txt data/more.txt")
    )
    text = toy.run(rc=1)
    assert "it ended well but did not make data/more.txt" in text


def test_interrupt_reaches_the_command_once_and_the_next_run_goes_on(toy):
    process = toy.start("--wait")
    wait_for(toy.here / "exp/toy/waiting")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Stage 2 (train): interrupted" in out
    assert toy.read("exp/toy/saved") == "whole"
    text = toy.run()
    assert "[it was interrupted]" in text
    assert "epoch 2 from 2" in text
    assert toy.read("exp/toy/RESULTS.md") == "| epochs | 2 |\n"


def test_ctrl_c_on_a_terminal_interrupts_once_and_bars_stay(toy):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(toy.here)
        os.execve(toy.script, [str(toy.script), "--wait"], toy.env)
    wait_for(toy.here / "exp/toy/waiting")
    os.write(terminal, b"\x03")
    shown = b""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert b"terminal True True" in shown
    assert b"bar 50%\rbar 100%" in shown
    assert toy.read("exp/toy/saved") == "whole"
    assert "\nbar 100%\n" in toy.read("exp/toy/log/train.log")


def test_kill_9_never_leaves_a_stage_that_looks_finished(toy):
    process = toy.start("--wait", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child = int(wait_for(toy.here / "exp/toy/waiting"))
    process.kill()
    process.wait()
    # The command outlived us and still holds the folder: no second one beside it.
    text = toy.run(rc=2)
    assert "another run is at work in exp/toy" in text
    assert "stage train" in text
    assert "left over from a run that was killed" in text
    stop = next(line for line in text.splitlines() if "To stop it: kill" in line)
    assert stop.split("kill ")[1].split() == [str(child)]
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: ended(child))
    text = toy.run()
    assert "[it was interrupted]" in text
    assert "| epochs | 2 |" in text


def test_a_killed_command_is_named_with_its_signal(toy):
    process = toy.start("--wait")
    child = int(wait_for(toy.here / "exp/toy/waiting"))
    os.kill(child, signal.SIGKILL)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "killed by SIGKILL, perhaps by the system for want of memory" in err


def test_goes_on_when_nobody_reads_its_output_any_more(toy):
    line = f"{shlex.quote(str(toy.script))} | head -n 1"
    subprocess.run(["bash", "-c", line], env=toy.env, check=True, capture_output=True)
    assert "Nothing to do" in toy.run()


def test_the_written_command_goes_on_and_keeps_the_history(toy, tmp_path):
    tag = 'it\'s $(touch canary) "x"'
    toy.run("--tag", tag, "--epochs=3", "--stage", "0")
    toy.run("--tag", tag, "--stop_stage", "copy", "--epochs=3")
    again = toy.here / "exp" / tag / "run.sh"
    text = again.read_text()
    assert text.count("# 2") == 2
    # Options that follow win over those written.
    result = subprocess.run(
        [again, "--stop_stage", "3"], cwd="/", env=toy.env, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert b"Nothing to do" in result.stdout
    assert not list(tmp_path.rglob("canary"))


# --- options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stge", "2"], "unknown option --stge; did you mean '--stage'?"),
        (["--stge=2"], "unknown option --stge; did you mean '--stage'?"),
        (["--forse"], "unknown option --forse; did you mean '--force'?"),
        (["--PATH", "x"], "unknown option --PATH"),
        (["--HOME=x"], "unknown option --HOME"),
        (["--opt", "x"], "unknown option --opt"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "--force"], "--stage needs a value"),
        (["--tag", ""], "--tag needs a value"),
        (["--tag="], "--tag needs a value"),
        (["--stage", "two"], "--stage two: no such stage"),
        (["--stage", "trian"], "did you mean 'train'?"),
        (["--stage", "-1"], "--stage -1: no such stage"),
        (["--stage", "99999999999999999999"], "no such stage"),
        (["--stage", "3", "--stop_stage", "2"], "nothing to run: --stage 3"),
        (["--stage", "4"], "nothing to run: --stage 4"),
        (["--nj", "two"], "--nj needs a whole number, not 'two'"),
        (["--nj", "0"], "--nj must be at least 1"),
        (["--ngpu", "1.5"], "--ngpu needs a whole number"),
        (["--share", "5"], "--share needs a part, from 0 to 1, not '5'"),
        (["--share=1.01"], "--share needs a part, from 0 to 1"),
        (["--share=.2x"], "--share needs a part, from 0 to 1"),
        (["--force=maybe"], "--force is true or false, not 'maybe'"),
        (["--mood", "god"], "no such mood; did you mean 'good'?"),
        ([""], "an empty argument"),
        (["", "--tag", "x"], "an empty argument"),
        (["train"], "'train' is not an option; did you mean '--stage train'?"),
        (["--tag", "x", "extra"], "'extra' is not an option"),
        (["-x"], "'-x' is not an option"),
        (["--"], "'--' is not an option"),
        (["--=x"], "'--=x' is not an option"),
        (["--a[0]=x"], "unknown option --a[0]"),
        (["--tag", "../up"], "it names a folder"),
        (["--tag", "a\nb"], "the value holds a line break"),
    ],
)
def test_wrong_usage_exits_2_says_why_and_touches_nothing(toy, arguments, message):
    assert message in toy.run(*arguments, rc=2)
    assert not (toy.here / "exp").exists()
    assert not (toy.here / "data").exists()


@pytest.mark.parametrize(
    "tag",
    ["$(touch canary)", "`touch canary`", "a;touch canary", "a b", "exp #1", "%s"],
)
def test_values_are_taken_literally(toy, tag):
    toy.run("--tag", tag)
    assert (toy.here / "exp" / tag / "RESULTS.md").exists()
    assert not list(toy.root.rglob("canary"))


def test_both_forms_dashes_flags_and_the_last_value_count(toy):
    text = toy.run(
        *["--stop-stage=train", "--epochs", "3", "--epochs=08", "--force", "false"],
        "--dry-run=true",
    )
    assert "--epochs=8" in text
    assert "report" not in text


def test_numbers_without_a_stage_stand_for_the_next_one(toy):
    text = toy.run("--dry_run", "--stage", "1", "--stop_stage", "2", rc=2)
    lines = [line for line in text.splitlines() if line.startswith("stage ")]
    assert [line.split()[2] for line in lines] == ["train"]


def test_settings_of_the_recipe_are_passed_on_as_they_are(toy):
    script = toy.script.read_text().replace(
        'option recipe text:NAME ""', "option recipe text:NAME x"
    )
    toy.script.write_text(script)
    url = "--url=http://a/b?x=1&y=2"
    text = toy.run(url, "--a-b.c", "[1, 2]", "--flag", "--epochs=1")
    assert f"'{url}', '--a_b.c=[1, 2]', '--flag'" in text


def test_help_is_made_from_the_tables_and_needs_no_environment(toy):
    toy.env = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
    text = toy.run("--help")
    assert "A toy that is 100% done %s." in text
    for word in ("0  copy", "2  train", "3  report", "--stop_stage", "(default: 2)"):
        assert word in text
    assert "--mood good|bad|" in text


def test_without_an_environment_it_says_what_to_type(toy):
    toy.env = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
    text = toy.run(rc=2)
    assert f"type: make -C {shlex.quote(str(toy.root))} setup".replace("'", "") in (
        text.replace("\\", "")
    )
    text = toy.run("--python", "no/such", rc=2)
    assert f"no such interpreter: {toy.here}/no/such" in text


def test_an_active_environment_and_the_checkouts_own_are_found(toy, tmp_path):
    for home, variable in [(toy.root / ".venv", None), (tmp_path / "v", "VIRTUAL_ENV")]:
        (home / "bin").mkdir(parents=True)
        wrapper = home / "bin/python"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
        del toy.env["SPEECHBRAIN_EXT_PYTHON"]
        if variable:
            toy.env[variable] = str(home)
        text = toy.run("--dry_run")
        assert shlex.quote(f"{toy.root}/egs/../.venv/bin/python") not in text
        assert str(home) in text
        toy.env["SPEECHBRAIN_EXT_PYTHON"] = ""
