"""The seed's checklist: each line can pass, and each can fail with a next command."""

import json

import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.errors import UserError
from speechbrain_ext.report.doctor import examine, render

HEALTHY = (
    "epoch: 1, lr: 1.00e-03 - train loss: 2.00, train vq: 5.00e-01, train usage: "
    "7.00e-01, train rejected: 0 - valid snr: 9.00\n"
    "epoch: 2, lr: 1.00e-03 - train loss: 1.00, train vq: 4.00e-01, train usage: "
    "7.00e-01, train rejected: 0 - valid snr: 10.00\n"
)


@pytest.fixture
def experiment(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for role, count in (("train", 8), ("valid", 1), ("test", 1)):
        manifest = {f"{role}{i}": {} for i in range(count)}
        (data / f"{role}.json").write_text(json.dumps(manifest))
    (data / "rejected.tsv").write_text("file\treason\nx.wav\tempty\n")
    folder = tmp_path / "exp"
    (folder / "save" / "CKPT+1").mkdir(parents=True)
    (folder / "save" / "CKPT+1" / "CKPT.yaml").write_text("epoch: 2\n")
    (folder / "hyperparams.yaml").write_text(f"train_manifest: {data}/train.json\n")
    (folder / "train_log.txt").write_text(HEALTHY)
    (folder / "log.txt").write_text("all is well\n")
    return folder


def failures(folder):
    return [finding for finding in examine(folder) if finding.passed is False]


def test_a_healthy_run_passes_every_line(experiment):
    assert [f.passed for f in examine(experiment)] == [True] * 10
    assert render(examine(experiment)).endswith("training is healthy")
    assert run(cli, ["doctor", str(experiment)], "speechbrain-ext") == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("train loss: 1.00", "train loss: nan"), "not in epoch 2"),
        (("valid snr: 10.00", "valid snr: nan"), "valid SNR is finite"),
        (("vq: 4.00e-01", "vq: 6.31"), "VQ loss 6.31"),
        (("usage: 7.00e-01", "usage: 3.00e-02"), "3% of the codebooks"),
        (("rejected: 0", "rejected: 2"), "batches rejected: 4"),
    ],
)
def test_each_fault_in_the_log_fails_with_a_next_command(experiment, change, text):
    (experiment / "train_log.txt").write_text(HEALTHY.replace(*change))
    found = [f for f in failures(experiment) if text in f.text]
    assert found
    assert found[0].advice


def test_a_growing_loss_with_a_falling_snr_fails(experiment):
    text = HEALTHY.replace("train loss: 1.00", "train loss: 3.00")
    (experiment / "train_log.txt").write_text(text.replace("snr: 10.00", "snr: 8.00"))
    assert [f.text for f in failures(experiment)] == ["train loss falls: 2 -> 3"]


def test_a_flat_loss_passes_where_the_snr_holds(experiment):
    text = HEALTHY.replace("train loss: 1.00", "train loss: 2.01")
    (experiment / "train_log.txt").write_text(text)
    assert failures(experiment) == []
    assert "valid SNR holds: 9.00 -> 10.00 dB" in render(examine(experiment))


def test_no_epoch_no_checkpoint_and_stft_warnings_fail(experiment):
    (experiment / "train_log.txt").write_text("")
    (experiment / "save" / "CKPT+1" / "CKPT.yaml").unlink()
    (experiment / "log.txt").write_text("UserWarning: A window was not provided\n")
    texts = " ".join(f.text for f in failures(experiment))
    assert "epochs completed: 0" in texts
    assert "checkpoints: 0" in texts
    assert "STFT warnings in log.txt: 1" in texts
    assert run(cli, ["doctor", str(experiment)], "speechbrain-ext") == 1


def test_too_many_rejected_files_fail(experiment):
    listed = experiment.parent / "data" / "rejected.tsv"
    listed.write_text("file\treason\n" + "x.wav\tempty\n" * 5)
    assert failures(experiment)[0].text == "files rejected in preparation: 5 of 15"


def test_a_folder_that_is_no_experiment_is_a_message(tmp_path):
    with pytest.raises(UserError, match="is no experiment"):
        examine(tmp_path)
