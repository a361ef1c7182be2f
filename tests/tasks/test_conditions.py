"""What is told beside the figures of an experiment."""

import pytest

from speechbrain_ext.tasks.conditions import own_command

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
