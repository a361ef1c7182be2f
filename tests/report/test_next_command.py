"""A hint names the command of the experiment that it is about."""

import pytest

from speechbrain_ext.next_command import next_command
from speechbrain_ext.report.doctor import examine
from speechbrain_ext.report.results import ResultsError, read_results


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "exp" / "us"
    folder.mkdir(parents=True)
    (folder / "run.sh").write_text('cd -- x\nexec ./run.sh --tag=us "$@"\n')
    (folder / "hyperparams.yaml").write_text("task: speechbrain_ext.tasks.speaker\n")
    return "exp/us"


def test_the_own_command_stands_in_for_the_plain_one(experiment):
    text = next_command("first: ./run.sh --stage train --tag slow", experiment)
    assert text == "first: exp/us/run.sh --stage train --tag slow"
    assert next_command("./run.sh --stage train", ".") == "./run.sh --stage train"


def test_an_early_end_and_a_force_of_the_last_command_do_not_come_back(
    experiment, tmp_path
):
    (tmp_path / experiment / "run.sh").write_text(
        'exec ./run.sh --tag=us --stop_stage=data --force=true "$@"\n'
    )
    text = next_command("./run.sh --stage score", experiment)
    assert text == "exp/us/run.sh --stage score --stop_stage score --force=false"


def test_missing_results_name_the_stage_of_their_task(experiment):
    with pytest.raises(ResultsError) as caught:
        read_results(f"{experiment}/results.json")
    assert str(caught.value).endswith("with: exp/us/run.sh --stage score --force")


def test_the_doctor_names_the_own_command(experiment):
    advice = [finding.advice for finding in examine(experiment)]
    assert any("exp/us/run.sh --stage train" in line for line in advice)
    assert not any("./run.sh" in line for line in advice)
