"""What is told beside the figures of an experiment."""

import pytest

from speechbrain_ext.data.manifest import Utterance, write_manifest
from speechbrain_ext.tasks.conditions import data_conditions, own_command

SCRIPT = """\
#!/usr/bin/env bash
# 2026-01-01T00:00:00 ./run.sh --tag=x
cd -- {egs} || exit 2
exec ./run.sh {options} "$@"
"""


@pytest.mark.parametrize(
    "partly",
    [
        "",
        " --stage=score --force=true",
        " --stage=2 --stop_stage=report",
    ],
)
def test_the_command_makes_the_whole_experiment_whatever_was_done_last(
    tmp_path, partly
):
    folder = tmp_path / "exp" / "x"
    folder.mkdir(parents=True)
    options = f"--corpus=debian{partly} --data_folder={tmp_path}/raw"
    (folder / "run.sh").write_text(SCRIPT.format(egs=tmp_path, options=options))
    expected = "./run.sh --corpus=debian --data_folder=raw"
    assert own_command(folder, "other") == expected
    assert own_command(tmp_path, "other") == "other"


def test_data_prepared_before_its_facts_were_kept_has_a_name(tmp_path):
    spoken = Utterance("a", tmp_path / "a.wav", 1.0, 16000, "s", "0" * 64)
    write_manifest(tmp_path / "test.json", [spoken])
    state = '{"command": "local/prepare.py --corpus=espeak --datadir=data/espeak"}'
    (tmp_path / "prepare.json").write_text(state)
    assert data_conditions(tmp_path / "test.json")["corpus"] == "espeak"
