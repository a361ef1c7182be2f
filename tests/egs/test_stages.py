"""Promises of the stage engine that a toy run.sh cannot show one by one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from speechbrain_ext.errors import UserError
from speechbrain_ext.stages.fingerprint import Fingerprints
from speechbrain_ext.stages.plan import (
    Stage,
    choose_stages,
    missing_inputs,
    parse_plan,
    ranges_to_run,
)
from speechbrain_ext.stages.process import run_logged
from speechbrain_ext.stages.record import Record, parse_options
from speechbrain_ext.stages.settings import check_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A finished stage whose input, output and YAML exist."""
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("in")
    Path("out").mkdir()
    Path("out/a.txt").write_text("out")
    Path("base.yaml").write_text("lr: 1\n")
    Path("top.yaml").write_text("out_folder: here\nbase: !include:base.yaml\n")
    stage = Stage(
        number=1,
        name="train",
        home="home",
        needs=["in.txt"],
        recipe=["top.yaml"],
        makes=["out"],
        restarts=["out"],
        extends=["epochs"],
        launcher=["python"],
        command=["train.py", "--lr=1", "--epochs=2", "--device=cpu"],
    )
    finish(stage)
    return stage


def finish(stage, *, ok=True):
    record = Record(stage)
    record.finish(record.begin(fresh=False), ok=ok, seconds=1.0)


# --- up to date or not -------------------------------------------------------------


def test_nothing_changed_is_up_to_date(stage):
    assert Record(stage).judge().up_to_date


@pytest.mark.parametrize(
    ("command", "reason", "fresh"),
    [
        (["train.py", "--lr=2", "--epochs=2"], "option lr: 1 -> 2", True),
        (["train.py", "--epochs=2"], "option lr: 1 -> (not given)", True),
        (["train.py", "--lr=1", "--epochs=3"], "option epochs: 2 -> 3", False),
        (["other.py", "--lr=1", "--epochs=2"], "command: train.py -> other.py", True),
    ],
)
def test_a_changed_option_is_named_and_only_an_extension_goes_on(
    stage, command, reason, fresh
):
    stage.command = command
    verdict = Record(stage).judge()
    assert verdict.reasons == [reason]
    assert verdict.fresh is fresh


@pytest.mark.parametrize(
    ("words", "fresh"),
    [
        ([], True),  # another learning rate
        (["--lr=1", "--top=2"], False),  # more epochs
        (["--lr=1", "--top=0"], True),  # fewer
    ],
)
def test_a_number_may_grow_and_force_resume_sets_nothing_aside(stage, words, fresh):
    Path("top.yaml").write_text("out_folder: here\ntop: 1\nlr: 1\n")
    stage.grows = ["top"]
    finish(stage)
    stage.recipe = ["top.yaml", *(words or ["--lr=2"])]
    assert Record(stage).judge().fresh is fresh
    resumed = Record(stage).judge(force_resume=True)
    assert resumed.reasons == Record(stage).judge().reasons != []
    assert not resumed.fresh
    assert Record(stage).judge(force=True).fresh


def test_other_inputs_are_gone_on_with_by_force_resume(stage):
    Path("in.txt").write_text("other data")
    assert Record(stage).judge().fresh
    assert not Record(stage).judge(force_resume=True).fresh
    stage.command = [*stage.command, "--force_resume"]
    finish(stage)
    stage.command = stage.command[:-1]
    assert Record(stage).judge().up_to_date  # the flag is no setting


def test_where_a_stage_runs_is_not_what_it_computes(stage):
    stage.launcher = ["elsewhere/python", "-m", "torch.distributed.run"]
    stage.command = ["train.py", "--lr=1", "--epochs=2", "--device=cuda", "--nj=4"]
    assert Record(stage).judge().up_to_date


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("in.txt", "input in.txt changed"),
        ("out/a.txt", "output out changed"),
        ("out/new.txt", "output out changed"),
    ],
)
def test_changed_content_is_found_in_files_and_folders(stage, path, reason):
    Path(path).write_text("changed")
    assert Record(stage).judge().reasons == [reason]


def test_same_size_and_restored_time_do_not_hide_a_change(stage):
    time.sleep(0.15)  # long enough for the digest to be remembered
    Record(stage).judge()
    before = Path("in.txt").stat()
    Path("in.txt").write_text("IN")
    os.utime("in.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Record(stage).judge().reasons == ["input in.txt changed"]


def test_files_of_ours_and_temporary_ones_do_not_count(stage):
    Path("out/.a.txt.tmp").write_text("half")
    assert Record(stage).judge().up_to_date


def test_a_watched_folder_changes_by_names_sizes_and_times(stage):
    stage.watches = ["raw"]
    Path("raw/deep").mkdir(parents=True)
    Path("raw/deep/a.wav").write_bytes(b"1")
    finish(stage)
    assert Record(stage).judge().up_to_date
    Path("raw/deep/a.wav").rename("raw/deep/b.wav")
    assert Record(stage).judge().reasons == ["input raw changed"]


def test_a_loop_of_links_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    (tmp_path / "a/x").write_text("x")
    assert Fingerprints(tmp_path / "c.json").content(tmp_path / "a")


@pytest.mark.parametrize("status", ["running", "failed"])
def test_an_unfinished_stage_runs_again_and_resumes(stage, status):
    record = Record(stage)
    if status == "running":
        record.begin(fresh=False)
    else:
        finish(stage, ok=False)
    verdict = Record(stage).judge()
    assert verdict.reasons
    assert not verdict.fresh


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\xff", '{"status": "done"}'])
def test_a_damaged_record_means_run_again(stage, text):
    Record(stage).path.write_bytes(text.encode("latin-1"))
    assert not Record(stage).judge().up_to_date
    Record(stage).prints.cache.write_bytes(text.encode("latin-1"))
    finish(stage)
    assert Record(stage).judge().up_to_date


def test_an_input_changed_while_the_stage_ran_is_seen_next_time(stage):
    record = Record(stage)
    inputs = record.begin(fresh=False)
    Path("in.txt").write_text("late")
    record.finish(inputs, ok=True, seconds=1.0)
    assert Record(stage).judge().reasons == ["input in.txt changed"]


def test_set_aside_keeps_the_last_state_even_if_killed_in_between(stage):
    stage.restarts = ["out", "log.txt"]
    Path("log.txt").write_text("first")
    # As after a kill between the two: out has moved already, log.txt has not.
    Path("home/previous/train").mkdir(parents=True)
    Path("out").rename("home/previous/train/out")
    Record(stage).begin(fresh=True)
    assert Path("home/previous/train/out/a.txt").read_text() == "out"
    assert Path("home/previous/train/log.txt").read_text() == "first"


def test_a_second_run_in_the_same_folder_is_refused(stage):
    with Record(stage).locked(), pytest.raises(UserError, match="another run is at"):
        with Record(stage).locked():
            pass
    with Record(stage).locked():
        pass


def test_fingerprints_read_a_settled_file_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    time.sleep(0.15)
    prints = Fingerprints(tmp_path / ".cache.json")
    expected = prints.content(tmp_path / "a")
    prints.save()
    monkeypatch.setattr(
        "speechbrain_ext.stages.fingerprint.sha256_file",
        lambda path: pytest.fail("read again"),
    )
    assert Fingerprints(tmp_path / ".cache.json").content(tmp_path / "a") == expected


def test_a_value_may_hold_an_equals_sign_and_look_like_anything():
    assert parse_options(["--url=http://a?x=1&y=2"]) == {"url": "http://a?x=1&y=2"}
    assert parse_options(["--flag"]) == {"flag": "true"}


# --- the plan ----------------------------------------------------------------------


def test_the_handover_survives_any_value():
    odd = ["stage", "", "1 2", "--x", "a\nb", "needs"]
    plan = parse_plan(
        ["force", "1", "true", "stage", "3", "0", "s", "t", "command", str(len(odd))]
        + [*odd, "show", "1", "x"]
    )
    assert plan.force
    assert plan.stages[0].command == odd
    assert plan.show == ["x"]


@pytest.mark.parametrize("words", [["force", "2", "true"], ["nonsense", "1", "x"]])
def test_a_broken_handover_is_an_error_not_a_guess(words):
    with pytest.raises((ValueError, AttributeError)):
        parse_plan(words)


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        ("", "", "abc"),
        ("b", "", "bc"),
        ("", "b", "ab"),
        ("3", "", "c"),
        ("1", "4", "b"),
        ("2", "2", "b"),
        ("b", "b", "b"),
        ("0", "99", "abc"),
    ],
)
def test_ranges_by_number_and_name(first, last, names):
    stages = [Stage(0, "a"), Stage(2, "b"), Stage(5, "c")]
    assert "".join(s.name for s in choose_stages(stages, first, last)) == names


def test_an_input_made_by_an_earlier_chosen_stage_is_not_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [
        Stage(0, "a", makes=["data"]),
        Stage(1, "b", needs=["data/x.json"], makes=["exp"]),
        Stage(2, "c", needs=["exp/save", "nobody"]),
    ]
    assert missing_inputs(stages[:2], stages) == []
    found = [(s.name, p, m and m.name) for s, p, m in missing_inputs(stages, stages)]
    assert found == [("c", "nobody", None)]
    assert missing_inputs(stages[1:2], stages) == [
        (stages[1], "data/x.json", stages[0])
    ]


def test_what_is_missing_is_made_from_the_first_stage_that_is_missing(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stages = [
        Stage(0, "data", makes=["raw"]),
        Stage(1, "prepare", needs=["raw"], makes=["json"]),
        Stage(2, "train", needs=["json"], makes=["save"]),
        Stage(3, "embed", needs=["weights", "json"], makes=["emb"]),
        Stage(4, "score", needs=["emb", "json"]),
    ]

    def ranges(chosen):
        found = ranges_to_run(missing_inputs(chosen, stages), stages)
        return [(first.name, last.name) for first, last in found]

    assert ranges(stages[2:3]) == [("data", "prepare")]
    assert ranges(stages[1:3]) == [("data", "data")]
    assert ranges(stages[4:]) == [("data", "prepare"), ("embed", "embed")]
    Path("raw").mkdir()
    assert ranges(stages[2:3]) == [("prepare", "prepare")]
    assert ranges(stages[:3]) == []


# --- the recipe --------------------------------------------------------------------


def test_an_override_meant_for_run_sh_is_told_so(stage):
    with pytest.raises(UserError) as caught:
        check_recipe(["top.yaml", "--stge=2", "--lr=1"], options=["stage", "tag"])
    lines = str(caught.value).splitlines()
    assert "2 problems" in lines[0]
    assert any("no key 'stge'" in line for line in lines)
    assert lines[-1].endswith("--stge: or an option of run.sh; did you mean '--stage'?")


def test_a_recipe_without_fault_passes(stage):
    check_recipe(["top.yaml", "--base.lr=3"])


@pytest.mark.parametrize("recipe", ["ecapa_mini", "ecapa", "resnet"])
def test_wrong_numbers_are_found_before_the_first_stage(recipe):
    words = [f"{ROOT}/recipes/speaker/{recipe}.yaml", "--output_folder=x"]
    words += ["--train_manifest=a", "--valid_manifest=b", "--reverb_prob=0"]
    check_recipe(words)
    with pytest.raises(UserError, match=r"average_checkpoints must be .* \(2\)"):
        check_recipe([*words, "--number_of_epochs=2"])
    wrong = ["batch_size=1", "scale=0", "margin=2", "crop_seconds=0", "noise_prob=2"]
    wrong += ["speeds=[0.9]", "num_workers=-1", "number_of_epochs=0"]
    wrong += ["average_checkpoints=-1", "balance=1.5", "rir_folder=rooms"]
    with pytest.raises(UserError) as caught:
        check_recipe([*words, *(f"--{one}" for one in wrong)])
    for one in wrong:
        assert f"  {one.partition('=')[0]} " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 + len(wrong)


@pytest.mark.parametrize(
    ("words", "text", "reasons"),
    [
        ([], "# a comment\nlr: 1  # another\n", []),
        ([], "lr: 2\n", ["option base.lr: 1 -> 2"]),
        (["--base.lr=2"], "lr: 1\n", ["option base.lr: 1 -> 2"]),
        (["--base.lr=1"], "lr: 5\n", []),
        ([], "lr: 1\nmore: [1, 2]\n", ["option base.more: (not given) -> [1, 2]"]),
        (["--preset=own.yaml"], "lr: 1\n", ["option base.lr: 1 -> 7"]),
        (["--out_folder=x"], "lr: 1\n", ["option out_folder: (not given) -> x"]),
    ],
)
def test_a_recipe_is_compared_by_its_values(stage, words, text, reasons):
    Path("own.yaml").write_text("base.lr: 7\n")
    Path("base.yaml").write_text(text)
    stage.recipe = ["top.yaml", *words]
    stage.command += words
    assert Record(stage).judge().reasons == reasons


def test_a_refusal_puts_everything_back_unless_work_was_done(stage):
    for work in (False, True):
        before = Record(stage).read()
        record = Record(stage)
        record.begin(fresh=True)
        assert not Path("out").exists()
        if work:
            Path("out").mkdir()
            Path("out/new.txt").write_text("epoch 1")
        assert record.refuse() is not work
        assert (Record(stage).read() == before) is not work
        assert Path("out/a.txt").exists() is not work


# --- one command -------------------------------------------------------------------


def run_python(code, log, **keywords):
    return run_logged([sys.executable, "-c", code], log, header="h", **keywords)


def test_output_is_shown_and_logged_as_it_was(tmp_path, capfd):
    log = tmp_path / "deep" / "x.log"
    code = "import sys; print('out \\u0c24'); print('err', file=sys.stderr)"
    assert run_python(code, log) == 0
    assert capfd.readouterr() == ("out \u0c24\n", "err\n")
    text = log.read_text(encoding="utf-8")
    assert text.startswith("# h\n")
    assert sorted(text.splitlines()[1:]) == ["err", "out \u0c24"]


def test_large_output_without_line_ends_neither_blocks_nor_is_lost(tmp_path, capfd):
    code = "import sys; sys.stdout.write('x' * 3_000_000); sys.stdout.write('end')"
    assert run_python(code, tmp_path / "log") == 0
    shown = capfd.readouterr().out
    assert len(shown) == 3_000_003
    assert (tmp_path / "log").read_text().endswith("end\n")
    assert (tmp_path / "log").stat().st_size < 200_000


def test_a_daemon_left_behind_does_not_hold_us(tmp_path):
    code = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '20']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    )
    start = time.monotonic()
    assert run_python(code, tmp_path / "log") == 0
    assert time.monotonic() - start < 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_program_that_does_not_exist_is_an_exit_code(tmp_path, capfd):
    assert run_logged([str(tmp_path / "none")], tmp_path / "log", header="h") == 127
    assert "No such file" in capfd.readouterr().err


def test_it_works_outside_the_main_thread(tmp_path):
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(run_python("exit(3)", tmp_path / "log"))
    )
    thread.start()
    thread.join()
    assert codes == [3]


def test_the_engine_does_not_import_torch_or_click():
    code = (
        "import sys, speechbrain_ext.stages.__main__; "
        "print(json.dumps([m for m in ('torch', 'click') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import json; " + code],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == []
