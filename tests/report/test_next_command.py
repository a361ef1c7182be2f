"""Messages about an experiment name its own commands, with all that it was given."""

import pytest

from speechbrain_ext.brain.forensics.causes import recommend
from speechbrain_ext.errors import UserError, WorkError, exits_cleanly
from speechbrain_ext.next_command import tells_own_commands


@pytest.fixture
def experiment(tmp_path):
    script = '#!/usr/bin/env bash\nexec ./run.sh --corpus=folder --tag=mine "$@"\n'
    (tmp_path / "run.sh").write_text(script)
    return tmp_path


@pytest.mark.parametrize("error", [UserError, WorkError])
def test_an_error_of_a_stage_names_the_experiments_run_sh(experiment, error):
    @tells_own_commands
    def work(experiment, text):
        raise error(text)

    with pytest.raises(error) as told:
        work(experiment, "embed again: ./run.sh --stage embed --force")
    assert str(told.value) == f"embed again: {experiment}/run.sh --stage embed --force"
    with pytest.raises(error, match=r"^embed again: \./run\.sh$"):
        work(experiment / "none", "embed again: ./run.sh")


def test_a_rejected_batch_names_it_too(experiment):
    dump = experiment / "debug_nan" / "nan_batch_3_epoch_1.pt"
    command = recommend("norm overflow").command_for(dump)
    assert command.startswith(f"{experiment}/run.sh --stage train --preset ")


def test_a_message_does_not_steer_the_terminal(capsys):
    @exits_cleanly
    def work():
        raise UserError("\x1b[2J gone\n  next \u0c24")

    assert work() == 2
    assert capsys.readouterr().err == "\\x1b[2J gone\n  next \u0c24\n"
