"""Two experiments side by side: what differs, what that means, and the exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from speechbrain_ext.cli import run
from speechbrain_ext.config.dotted import settings_of
from speechbrain_ext.config.loader import plan_recipe
from speechbrain_ext.errors import exits_cleanly
from speechbrain_ext.report.diff.command import diff
from speechbrain_ext.report.diff.comparison import compare
from speechbrain_ext.report.diff.sides import OPENERS, Side, open_side
from speechbrain_ext.sharing.bundle import pack, packing, unpack

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "egs" / "voxceleb_mini" / "results" / "debian_split1_seed1234.json"
RECIPE = ROOT / "recipes" / "speaker" / "ecapa_mini.yaml"
ENV = {
    "versions": {"python": "3.11.7", "torch": "2.11.0"},
    "git": {"commit": "a" * 40, "dirty": False},
    "processor": "CPU",
    "threads": 1,
    "gpu": None,
    "run_opts": {},
}
HYPERPARAMS = "seed: 1\nlearning_rate: 0.1\noutput_folder: exp/a\nnet: {width: 8}\n"


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(HYPERPARAMS)
    (folder / "env.json").write_text(json.dumps(ENV))
    shutil.copy(RESULTS, folder / "results.json")
    return folder


@pytest.fixture
def other(experiment):
    return Path(shutil.copytree(experiment, experiment.parent / "b"))


def sections(a, b):
    found = compare(open_side(str(a)), open_side(str(b)))
    return {section.name: section for section in found}


def rows(section):
    return {row.key: (row.a, row.b) for row in section.rows}


def called(*arguments):
    result = CliRunner().invoke(diff, list(map(str, arguments)), standalone_mode=False)
    return result.return_value, result.output


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_an_experiment_equals_its_copy(experiment, other):
    code, text = called(experiment, other)
    assert code == 0
    assert "No difference" in text


def test_settings_are_told_by_dotted_key_and_places_left_out(experiment, other):
    text = HYPERPARAMS.replace("width: 8", "width: 16").replace("exp/a", "exp/b")
    (other / "hyperparams.yaml").write_text("# a comment\n" + text + "depth: 2\n")
    found = rows(sections(experiment, other)["configuration"])
    assert found == {"net.width": ("8", "16"), "depth": ("(absent)", "2")}
    code, text = called(experiment, other)
    assert code == 1
    assert "configuration: 2 of 5 differ" in text


def test_intervals_say_whether_a_difference_is_established(experiment, other):
    def better(results):
        for system in results["systems"]:
            figures = system["lists"]["main"]
            if system["chosen"]:
                figures.update(eer=0.001, eer_interval=[0.0, 0.002])
            if system["name"] == "cosine":
                figures["eer"] += 0.01

    edit(other / "results.json", better)
    found = {row.key: row for row in sections(experiment, other)["metrics"].rows}
    assert found["EER %, main, chosen backend"].note.endswith(", apart")
    assert found["EER %, main, cosine"].note == "+1.00, overlap"
    assert len(found) == 2


def test_figures_of_other_splits_are_marked(experiment, other):
    edit(
        other / "results.json",
        lambda results: results["conditions"].update(split_hash="b" * 64),
    )
    found = sections(experiment, other)
    assert "split" in found["metrics"].note
    assert "split hash" in rows(found["data"])


def test_environment_data_and_code_are_compared(experiment, other):
    def changed(env):
        env["versions"]["torch"] = "2.11.1"
        env["git"]["dirty"] = True
        env["threads"] = 2

    edit(other / "env.json", changed)
    for folder, licence in ((experiment, "GPL-2"), (other, "CC0-1.0")):
        data = {"corpus": "x", "licence": licence, "counts": {"train": 3}}
        edit(
            folder / "results.json",
            lambda results, data=data: results["conditions"].update(data=data),
        )
        record = {"train_manifest": {"utterances": 3, "hash": licence}}
        (folder / "data.json").write_text(json.dumps(record))
    found = sections(experiment, other)
    assert rows(found["environment"]) == {
        "torch": ("2.11.0", "2.11.1"),
        "threads": ("1", "2"),
    }
    assert rows(found["code"]) == {"changes not committed": ("no", "yes")}
    assert rows(found["data"]).keys() == {"licence", "train_manifest, content"}


def test_what_was_changed_on_the_way_is_shown(experiment, other):
    entry = {
        "time": "2026-01-01",
        "epoch": 3,
        "forced": True,
        "changes": [{"key": "seed", "old": "2", "new": "1"}],
    }
    (other / "resumed.json").write_text(json.dumps([entry]))
    [row] = sections(experiment, other)["history"].rows
    assert row.a == "(nothing)"
    assert "seed: 2 -> 1 (forced" in row.b
    entry["time"] = "another day"
    (experiment / "resumed.json").write_text(json.dumps([entry]))
    assert sections(experiment, other)["history"].rows == []


def test_a_recipe_equals_what_it_was_resolved_to(tmp_path):
    from speechbrain_ext.config.flatten import flatten

    inputs = dict.fromkeys(("output_folder", "train_manifest", "valid_manifest"), "x")
    plan = plan_recipe(RECIPE, inputs)
    (tmp_path / "hyperparams.yaml").write_text(flatten(plan.root, plan.resolver))
    assert settings_of(RECIPE) == settings_of(tmp_path / "hyperparams.yaml")
    code, text = called(RECIPE, tmp_path)
    assert code == 0
    assert "metrics: not compared: A (recipe) and B (experiment) have none" in text


def test_bundles_are_compared_as_experiments_are(tmp_path):
    recipe = ROOT / "recipes" / "codec" / "transform.yaml"
    for name, rate in (("a", "0.001"), ("b", "0.002")):
        pack(recipe, tmp_path / f"{name}.zip", overrides=[f"--learning_rate={rate}"])
    a, b = (open_side(str(tmp_path / f"{name}.zip")) for name in "ab")
    assert a.kind == "bundle"
    [configuration, code] = [section for section in compare(a, b) if section.rows]
    assert rows(configuration) == {"learning_rate": ("0.001", "0.002")}
    assert set(rows(code)) == {"digest of the bundle"}
    unpacked = open_side(str(unpack(tmp_path / "a.zip", tmp_path / "a")))
    assert not any(section.rows for section in compare(a, unpacked))


def test_bundles_of_other_code_differ_as_verify_says(tmp_path, monkeypatch):
    recipe = ROOT / "recipes" / "codec" / "transform.yaml"
    for name in "ab":
        pack(recipe, tmp_path / f"{name}.zip")
        monkeypatch.setattr(packing, "library_hash", lambda: "0" * 64)
    code, text = called(*(tmp_path / f"{name}.zip" for name in "ab"))
    assert code == 1
    assert "library, SHA-256" in text
    assert "digest of the bundle" in text


def test_what_a_stranger_wrote_does_not_steer_the_terminal(experiment, other):
    edit(other / "env.json", lambda env: env.update(processor="\x1b[2JCPU"))
    _, text = called(experiment, other)
    assert "\x1b" not in text
    assert "\\x1b[2JCPU" in text


def test_results_alone_can_be_compared():
    beside = RESULTS.with_name("debian_split2_seed1234.json")
    code, text = called(RESULTS, beside)
    assert code == 1
    assert "configuration: not compared" in text
    assert "EER %, main, chosen backend" in text


def test_codec_results_are_compared_rate_by_rate():
    folder = ROOT / "egs" / "telugu" / "results"
    found = sections(folder / "festival.json", folder / "human_g722.json")
    compared = rows(found["metrics"])
    for name in ("SNR dB at 8.0 kbps nominal", "kbps, of 8.0 kbps nominal"):
        assert all(float(value) > 0 for value in compared[name])
    found = sections(folder / "wave_festival.json", folder / "wave_human.json")
    assert all(
        float(value) > 0 for value in rows(found["metrics"])["SNR dB at 7.0 kbps"]
    )
    found = sections(folder / "festival.json", RESULTS)
    assert list(found) == ["task"]
    assert rows(found["task"]) == {"task": ("codec", "speaker")}


def test_the_page_is_100_columns_wide_and_hashes_are_short(experiment, other):
    long = "x" * 300
    (other / "hyperparams.yaml").write_text(
        HYPERPARAMS + f"a_very_long_key_{long}: '{long}'\nnet2: !new:a.{long}.{long}\n"
    )
    edit(other / "results.json",
         lambda r: r["conditions"].update(split_hash="b" * 64))  # fmt: skip
    _, text = called(experiment, other)
    names = text.splitlines()[2:]
    assert max(map(len, names)) <= 100
    assert "b" * 13 not in text
    _, plain = called(experiment, other, "--json")
    found = json.loads(plain)
    assert found["equal"] is False
    assert found["sections"]["configuration"]["rows"][0]["b"] == long
    assert "b" * 64 in plain


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "no such file"),
        ("empty", "no experiment"),
        ("notes.txt", "no recipe (.yaml), bundle (.zip)"),
        ("broken.zip", "is no zip archive"),
        ("broken.json", "cannot be read as JSON"),
        ("list.json", "no results.json"),
        ("bad.yaml", "config error"),
    ],
)
def test_what_cannot_be_compared_is_a_message(name, said, experiment, capsys):
    folder = experiment.parent
    (folder / "empty").mkdir()
    for file, text in (("notes.txt", ""), ("broken.json", "{"), ("list.json", "[]"),
                       ("broken.zip", "PK"), ("bad.yaml", "a: 1\na: 2\n")):  # fmt: skip
        (folder / file).write_text(text)
    argv = [str(experiment), str(folder / name)]
    assert exits_cleanly(lambda: run(diff, argv, "diff"))() == 2
    assert said in capsys.readouterr().err


def test_a_new_kind_of_thing_is_one_entry(experiment, monkeypatch):
    opener = (
        lambda path: path.suffix == ".zip",
        lambda path, name: Side(name, "bundle", settings={"seed": "2"}),
    )
    monkeypatch.setattr("speechbrain_ext.report.diff.sides.OPENERS", [opener, *OPENERS])
    found = compare(open_side("x.zip"), open_side(str(experiment)))
    assert ("seed", "2", "1") in [(r.key, r.a, r.b) for r in found[0].rows]


def test_comparing_and_listing_import_no_torch(experiment):
    script = (
        "import sys; from speechbrain_ext.cli import cli, run\n"
        f"run(cli, ['diff', {str(experiment)!r}, {str(experiment)!r}], 'x')\n"
        "run(cli, ['list'], 'x')\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
