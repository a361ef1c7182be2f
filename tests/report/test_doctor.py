"""The seed's checklist: each line can pass, and each can fail with a next command."""

import json
import shutil

import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.errors import UserError
from speechbrain_ext.report.doctor import examine, render
from speechbrain_ext.report.train_log import read_train_log

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


def test_an_unpacked_bundle_is_told_to_be_used_not_trained(experiment):
    shutil.rmtree(experiment / "save")
    assert [f.text for f in failures(experiment)] == ["checkpoints: 0"]
    for name in ("manifest.json", "model.safetensors"):
        (experiment / name).write_text("{}")
    told = render(examine(experiment))
    assert failures(experiment) == []
    assert "weights are those of a bundle" in told
    assert "./run.sh --tag exp --stage evaluate" in told
    (experiment / "run.sh").write_text("./run.sh --tag=exp\n")
    assert f"{experiment}/run.sh --stage evaluate" in render(examine(experiment))
    (experiment / "train_log.txt").unlink()
    assert failures(experiment) == []
    assert "--stage train" not in render(examine(experiment))


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


def test_files_that_are_no_text_do_not_end_it(experiment):
    for name in ("train_log.txt", "hyperparams.yaml"):
        path = experiment / name
        path.write_bytes(path.read_bytes() + b"\n# \xff\xfe\n")
    assert failures(experiment) == []
    assert read_train_log(experiment / "train_log.txt")


def test_a_folder_that_is_no_experiment_is_a_message(tmp_path):
    with pytest.raises(UserError, match="is no experiment"):
        examine(tmp_path)


SPEAKER = (
    "epoch: 1, lr: 1.00e-03, margin: 0.00e+00 - train loss: 4.00, train accuracy: "
    "1.00e-01, train rejected: 0 - valid loss: 3.0, valid eer: 2.00e-01\n"
    "epoch: 2, lr: 1.00e-03, margin: 2.00e-01 - train loss: 6.00, train accuracy: "
    "7.00e-01, train rejected: 0 - valid loss: 2.0, valid eer: 3.00e-02\n"
    "epoch: average of 1 to 2, lr: 1.00e-03 - valid loss: 2.0, valid eer: 2.00e-02\n"
)


@pytest.fixture
def speakers(experiment):
    """An experiment of the speaker task, whose split lies below the corpus."""
    data = experiment.parent / "data"
    (data / "split1").mkdir()
    (data / "utterances.json").write_text(json.dumps({f"u{i}": {} for i in range(9)}))
    (experiment / "hyperparams.yaml").write_text(
        "task: speechbrain_ext.tasks.speaker\n"
        f"train_manifest: {data}/split1/train.json\n"
    )
    (experiment / "train_log.txt").write_text(SPEAKER)
    return experiment


def test_a_healthy_speaker_run_passes_though_its_loss_grows_with_the_margin(speakers):
    found = examine(speakers)
    assert [f.passed for f in found] == [True] * 9
    text = render(found)
    assert "valid EER is finite, best 3.0%" in text
    assert "files rejected in preparation: 1 of 10" in text
    assert "SNR" not in text
    assert "VQ" not in text


@pytest.mark.parametrize(
    ("spoken", "why"),
    [("ab", "no speaker has two valid"), ("aa", "of one speaker"), ("aab", None)],
)
def test_an_error_rate_that_no_pair_could_give_is_not_measured(speakers, spoken, why):
    log = SPEAKER.replace("2.00e-01\nepoch: 2", "nan\nepoch: 2")
    (speakers / "train_log.txt").write_text(log.replace("eer: 3.00e-02", "eer: nan"))
    manifest = {f"u{n}": {"spk_id": spk_id} for n, spk_id in enumerate(spoken)}
    data = speakers.parent / "data" / "split1"
    (data / "valid.json").write_text(json.dumps(manifest))
    failed, text = failures(speakers), render(examine(speakers))
    if why is None:
        assert [f.text for f in failed] == ["valid EER is finite, best nan%"]
    else:
        assert failed == []
        assert " --   valid EER is not measured: " in text
        assert why in text
        assert "chosen by valid loss" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("train loss: 6.00", "train loss: nan"), "not in epoch 2"),
        (("eer: 3.00e-02", "eer: nan"), "valid EER is finite"),
        (("eer: 3.00e-02", "eer: 4.50e-01"), "valid EER 45.0%, below 25%"),
        (("accuracy: 7.00e-01", "accuracy: 5.00e-02"), "rises: 10.0% -> 5.0%"),
        (("rejected: 0", "rejected: 3"), "batches rejected: 6"),
    ],
)
def test_each_fault_of_a_speaker_run_fails_with_a_next_command(speakers, change, text):
    (speakers / "train_log.txt").write_text(SPEAKER.replace(*change))
    found = [f for f in failures(speakers) if text in f.text]
    assert found
    assert found[0].advice
