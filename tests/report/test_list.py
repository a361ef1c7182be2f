"""What is here: recipes, experiments with their state, results with their figure."""

import fcntl
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from speechbrain_ext.report.listing.command import list_command, render_list
from speechbrain_ext.report.listing.inventory import (
    describe_experiment,
    list_experiments,
    list_recipes,
    list_results,
)

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "egs" / "voxceleb_mini" / "results" / "debian_split1_seed1234.json"
LINE = "epoch: {}, lr: 1.0e-3 - train loss: 2.0, train seconds: 3.0\n"


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "egs" / "toy" / "exp" / "mine"
    (folder / "save" / "CKPT+1").mkdir(parents=True)
    (folder / ".stages").mkdir()
    (folder / "hyperparams.yaml").write_text("seed: 1\nnumber_of_epochs: 2\n")
    (folder / "train_log.txt").write_text(LINE.format(1) + LINE.format(2))
    return folder


def main_figure():
    """Write the chosen system's rate on the main list, from the file itself."""
    systems = json.loads(RESULTS.read_text())["systems"]
    [main] = [system["lists"]["main"] for system in systems if system["chosen"]]
    low, high = (100 * end for end in main["eer_interval"])
    return f"EER {100 * main['eer']:.2f} % [{low:.1f}, {high:.1f}]"


def stage(experiment, status):
    path = experiment / ".stages" / "train.json"
    path.write_text(json.dumps({"status": status}))


def test_an_unpacked_bundle_is_neither_interrupted_nor_trained(experiment):
    shutil.rmtree(experiment / "save")
    assert describe_experiment(experiment)["state"] == "interrupted"
    for name in ("manifest.json", "model.safetensors"):
        (experiment / name).write_text("{}")
    assert describe_experiment(experiment)["state"] == "unpacked"
    record = experiment / ".stages" / "score.json"
    record.write_text(json.dumps({"status": "done"}))
    assert describe_experiment(experiment)["state"] == "scored"


def test_every_recipe_has_a_line_of_its_own_header():
    found = {recipe["name"]: recipe for recipe in list_recipes(ROOT)}
    assert len(found) == len(list(ROOT.glob("recipes/*/*.yaml")))
    mini = found["speaker/ecapa_mini"]
    assert mini["task"] == "speaker"
    assert mini["about"].startswith("Speaker embeddings that one core learns")
    assert mini["results"] == "egs/voxceleb_mini/RESULTS.md"
    for recipe in found.values():
        assert recipe["about"]
        assert recipe["results"] is None or (ROOT / recipe["results"]).is_file()


@pytest.mark.parametrize(
    ("status", "epochs", "results", "state"),
    [
        (None, 2, False, "trained"),
        (None, 1, False, "interrupted"),
        ("done", 2, False, "trained"),
        ("done", 2, True, "scored"),
        ("running", 1, False, "interrupted"),
        ("running", 2, True, "interrupted"),
        ("failed", 1, False, "interrupted"),
    ],
)
def test_the_state_is_told(experiment, status, epochs, results, state):
    if status:
        stage(experiment, status)
    (experiment / "train_log.txt").write_text(
        "".join(LINE.format(n + 1) for n in range(epochs))
    )
    if results:
        shutil.copy(RESULTS, experiment / "results.json")
    found = describe_experiment(experiment)
    assert found["state"] == state
    assert (found["epoch"], found["epochs"]) == (epochs, 2)


def test_a_run_that_is_at_work_is_training_and_is_left_alone(experiment):
    stage(experiment, "running")
    lock = experiment / ".stages" / "lock"
    with open(lock, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert describe_experiment(experiment)["state"] == "training"
    assert describe_experiment(experiment)["state"] == "interrupted"


def test_without_a_checkpoint_it_is_not_trained(experiment):
    shutil.rmtree(experiment / "save")
    (experiment / "train_log.txt").unlink()
    found = describe_experiment(experiment)
    assert found["state"] == "not trained"
    assert (found["epoch"], found["when"]) == (None, None)


def test_health_and_figure_are_told(experiment):
    shutil.copy(RESULTS, experiment / "results.json")
    (experiment / "debug_nan").mkdir()
    for number in (1, 2):
        (experiment / "debug_nan" / f"nan_batch_{number}.json").write_text("{}")
    (experiment / "quarantine.json").write_text(
        json.dumps({"utterances": {"a": {}, "b": {"taken_back": True}}})
    )
    (experiment / "resumed.json").write_text(
        json.dumps([{"forced": True, "changes": []}])
    )
    found = describe_experiment(experiment)
    assert (found["rejected_batches"], found["left_out"]) == (2, 1)
    assert found["forced"]
    assert found["figure"] == main_figure()
    text = render_list({"experiments": [found]}, experiment.parents[3])
    assert "2 rejected, 1 left out, forced" in text
    assert "egs/toy/exp/" in text


def test_results_of_fewer_epochs_than_are_trained_do_not_count(experiment):
    results = json.loads(RESULTS.read_text())
    results["conditions"]["cost"] = {"epochs": 1}
    (experiment / "results.json").write_text(json.dumps(results))
    found = describe_experiment(experiment)
    assert found["state"] == "trained"
    assert found["figure"].endswith("before the last training")


def test_experiments_are_found_once_from_wherever_one_stands(experiment, tmp_path):
    for here in (tmp_path, experiment.parent, experiment.parents[1], experiment):
        found = list_experiments(tmp_path, here)
        assert [Path(entry["path"]).name for entry in found] == ["mine"]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(experiment, elsewhere / "exp" / "other")
    names = {Path(e["path"]).name for e in list_experiments(tmp_path, elsewhere)}
    assert names == {"mine", "other"}


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "resumed.json",
        "quarantine.json",
        ".stages/train.json",
        "hyperparams.yaml",
    ],
)
def test_a_broken_file_is_told_or_passed_over(experiment, name):
    (experiment / name).write_bytes(b"{\xff")
    found = describe_experiment(experiment)
    assert (found["problem"] is not None) == (name == "results.json")


def test_results_have_figure_and_digest():
    found = {Path(entry["path"]).stem: entry for entry in list_results(ROOT)}
    known = json.loads(RESULTS.read_text())
    assert found[RESULTS.stem]["digest"] == known["digest"]
    assert found[RESULTS.stem]["figure"] == main_figure()
    codec = json.loads((ROOT / found["festival"]["path"]).read_text())
    kbps, mean = max(
        (system["kbps"], system["mean"])
        for system in codec["systems"]
        if system["name"] == "ours" and system["kbps"] <= 8.0
    )
    assert found["festival"]["figure"] == (
        f"SNR {mean['snr_db']:.2f} dB, PESQ {mean['pesq_wb']:.2f} at {kbps:.1f} kbps"
    )
    assert len(found["festival"]["digest"]) == 64
    assert not any(entry["problem"] for entry in found.values())


def test_the_list_is_100_columns_wide_and_json_holds_the_same():
    everything = CliRunner().invoke(list_command, [])
    assert everything.exit_code == 0
    assert max(map(len, everything.output.splitlines())) <= 100
    found = json.loads(CliRunner().invoke(list_command, ["recipes", "--json"]).output)
    assert found == {"recipes": list_recipes(ROOT)}
    assert CliRunner().invoke(list_command, ["recipe"]).exit_code == 2
