"""The speaker task from manifests to an encoder: it trains, resumes, averages."""

import contextlib
import functools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechbrain_ext.brain.checkpoints.checkpoint import VerifiedCheckpointer
from speechbrain_ext.data import loader, speaker_loader
from speechbrain_ext.data.augment import Augment
from speechbrain_ext.data.manifest import ManifestError, read_manifest, write_manifest
from speechbrain_ext.errors import UserError
from speechbrain_ext.report.doctor import examine
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.tasks.speaker import train as task
from speechbrain_ext.tasks.speaker.averaging import WeightAverage
from speechbrain_ext.tasks.speaker.brain import SpeakerBrain
from speechbrain_ext.tasks.speaker.train import train
from speechbrain_ext.tasks.speaker.validation import ValidScores, pieces_of
from speechbrain_ext.tasks.speaker.weights import load_encoder, valid_rank
from speechbrain_ext.tasks.training import where_it_goes_on
from tests.tasks.test_codec_task import assert_same_weights
from tests.tasks.test_codec_task import recipe as any_recipe
from tests.tasks.voices import corpus

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "speaker" / "ecapa_mini.yaml"
TINY = {
    "number_of_epochs": 2,
    "speeds": [1.0],
    "crops_per_epoch": 16,
    "learning_rate": 5e-3,
    "crop_seconds": 0.5,
    "batch_size": 8,
    "average_checkpoints": 2,
    "n_mels": 24,
    "embedding_dim": 16,
    "encoder.encoder.channels": [16, 16, 24],
    "encoder.encoder.kernel_sizes": [5, 3, 1],
    "encoder.encoder.dilations": [1, 2, 1],
    "encoder.encoder.attention_channels": 8,
    "encoder.encoder.se_channels": 8,
    "encoder.encoder.res2net_scale": 2,
    "training.warmup_steps": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("voices"))


def recipe(data, output, **overrides):
    return any_recipe(data, output, path=RECIPE, base=TINY, **overrides)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "plain"
    return folder, train(recipe(data, folder))


def state(brain):
    return brain.modules.state_dict()


@pytest.mark.smoke
def test_a_run_leaves_what_others_read(trained):
    folder, brain = trained
    for name in ("hyperparams.yaml", "env.json", "log.txt", "train_log.txt"):
        assert (folder / name).stat().st_size
    speakers = json.loads((folder / "speakers.json").read_text())
    assert speakers == {"speakers": ["s0", "s1", "s2", "s3"], "num_classes": 4}
    rows = read_train_log(folder / "train_log.txt")
    assert [row["epoch"] for row in rows] == [1, 2]
    wanted = {"lr", "margin", "train loss", "train accuracy", "train grad_norm"}
    wanted |= {"train rejected", "valid loss", "valid accuracy", "valid eer"}
    assert wanted <= rows[-1].keys()
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[-1]["margin"] == pytest.approx(0.2)
    assert not [finding for finding in examine(folder) if finding.passed is False]


def test_it_learns_the_voices(data, tmp_path):
    brain = train(recipe(data, tmp_path / "exp", crops_per_epoch=120))
    rows = read_train_log(tmp_path / "exp" / "train_log.txt")
    assert rows[-1]["train accuracy"] > 0.8  # chance: 0.25
    assert brain.valid_scores.stats(seed=1)["eer"] < 0.25  # chance: 0.5


def test_an_interrupted_run_ends_with_the_same_bits(data, trained, tmp_path):
    read = loader.read_samples
    seen = []

    def interrupted(utterance, *args, **kwargs):
        seen.append(utterance.utt_id)
        if len(seen) == 8 + 16 + 8 + 12:  # estimate, epoch, validation, in the second
            raise KeyboardInterrupt
        return read(utterance, *args, **kwargs)

    settings = {"ckpt_interval_steps": 1}  # the minutes of the recipe give way
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "read_samples", interrupted)
        patch.setattr(speaker_loader, "read_samples", interrupted)
        with pytest.raises(KeyboardInterrupt, match="checkpoint: epoch 2, step 1$"):
            train(recipe(data, tmp_path / "exp", **settings))
    again = train(recipe(data, tmp_path / "exp", **settings))
    assert again.health.committed == 4
    assert_same_weights(state(again), state(trained[1]))
    moments = [brain.optimizer.state_dict()["state"] for brain in (again, trained[1])]
    for one, other in zip(*[m.values() for m in moments], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupt_says_truthfully_where_the_run_goes_on(data, tmp_path, capsys):
    checkpointer = VerifiedCheckpointer(tmp_path / "none")
    assert "from the beginning" in where_it_goes_on(checkpointer)
    settings = {"number_of_epochs": 1, "average_checkpoints": 0}
    brain = train(recipe(data, tmp_path / "exp", **settings))
    assert where_it_goes_on(brain.checkpointer).endswith("epoch 1, complete")
    assert " steps on cpu: about " in capsys.readouterr().err
    train(recipe(data, tmp_path / "exp", **settings))
    told = capsys.readouterr().err
    assert "already trained: epoch 1 of 1 is done" in told
    assert "about" not in told


def test_a_run_killed_while_it_averages_ends_the_same(
    data, trained, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "apply", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(recipe(data, tmp_path / "exp"))
    assert not (tmp_path / "exp" / "save" / "averaged").exists()
    again = train(recipe(data, tmp_path / "exp"))
    assert_same_weights(state(again), state(trained[1]))
    ours, theirs = (load_encoder(f)[1] for f in (tmp_path / "exp", trained[0]))
    assert ours["valid_eer"] == theirs["valid_eer"]


def test_averaged_weights_are_the_mean_of_the_last_epochs(data, tmp_path, monkeypatch):
    states = []
    add = WeightAverage.add

    def watched(self, epoch):
        copy = {n: v.double().clone() for n, v in self.module.state_dict().items()}
        states.append(copy)
        add(self, epoch)

    monkeypatch.setattr(WeightAverage, "add", watched)
    folder = tmp_path / "exp"
    brain = train(recipe(data, folder, number_of_epochs=3))
    encoder, info = load_encoder(folder)
    assert info["epochs"] == [2, 3]
    assert info["checkpoint"].startswith("save/averaged/CKPT")
    for name, value in encoder.state_dict().items():
        mean = (states[1][name] + states[2][name]) / 2
        assert torch.allclose(
            value.double(), mean, rtol=1e-6, atol=0.5 * (not value.is_floating_point())
        ), name
    assert_same_weights(encoder.state_dict(), brain.encoder.state_dict())
    # A training that is started again goes on from its last epoch, and changes nothing.
    before = sorted(path.name for path in folder.rglob("CKPT*"))
    again = train(recipe(data, folder, number_of_epochs=3))
    assert again.hparams.epoch_counter.current == 3
    assert before == sorted(path.name for path in folder.rglob("CKPT*"))
    last = states[2]
    for name, value in again.encoder.state_dict().items():
        assert torch.equal(value.double(), last[name])


def test_a_run_made_longer_averages_its_own_last_epochs(data, trained, tmp_path):
    folder = Path(shutil.copytree(trained[0], tmp_path / "longer"))
    assert load_encoder(folder)[1]["epochs"] == [1, 2]
    brain = train(recipe(data, folder, number_of_epochs=4, average_checkpoints=2))
    assert brain.average.epochs == [3, 4]
    assert load_encoder(folder)[1]["epochs"] == [3, 4]


def test_without_averages_the_lowest_eer_wins_and_a_nan_never(data, tmp_path):
    folder = tmp_path / "exp"
    brain = train(recipe(data, folder, number_of_epochs=1, average_checkpoints=0))
    checkpointer = VerifiedCheckpointer(folder / "save", {"encoder": brain.encoder})
    kept = load_encoder(folder)[1]["checkpoint"]
    for eer, loss in ((math.nan, 0.1), (0.9, 0.1), (0.0, 9.0), (0.0, 2.0)):
        with torch.no_grad():
            brain.encoder.encoder.fc.conv.bias.fill_(loss)
        meta = {"eer": eer, "loss": loss, "epoch": 2}
        checkpointer.save_checkpoint(meta=meta, name=f"{eer}_{loss}")
    encoder, info = load_encoder(folder)
    assert info["checkpoint"] == "save/CKPT+0.0_2.0"
    assert info["checkpoint"] != kept
    assert encoder.encoder.fc.conv.bias[0] == 2.0
    assert not encoder.training
    assert len(info["sha256"]) == 64
    assert info["sample_rate"] == 16000


def test_an_epoch_whose_validation_lost_utterances_never_wins_by_it(data, tmp_path):
    folder = tmp_path / "exp"
    brain = train(recipe(data, folder, number_of_epochs=1, average_checkpoints=0))
    checkpointer = VerifiedCheckpointer(folder / "save", {"encoder": brain.encoder})
    own = load_encoder(folder)[1]["checkpoint"]
    meta = checkpointer.list_checkpoints()[0].meta
    assert meta["nonfinite"] == 0
    lucky = {"eer": 0.0, "loss": 0.0, "epoch": 2, "nonfinite": 1}
    checkpointer.save_checkpoint(meta=lucky, name="lucky")
    assert load_encoder(folder)[1]["checkpoint"] == own


def test_an_experiment_that_was_moved_gives_the_same_encoder(trained, tmp_path):
    moved = shutil.copytree(trained[0], tmp_path / "elsewhere")
    ours, info = load_encoder(moved)
    assert_same_weights(ours.state_dict(), trained[1].encoder.state_dict())
    assert info["sha256"] == load_encoder(trained[0])[1]["sha256"]


@pytest.mark.parametrize("damage", ["nothing", "no checkpoint", "bytes"])
def test_an_experiment_without_weights_is_a_message(trained, tmp_path, damage):
    folder = tmp_path / "exp"
    if damage != "nothing":
        shutil.copytree(trained[0], folder)
        if damage == "no checkpoint":
            shutil.rmtree(folder / "save")
        for weights in folder.glob("save/**/encoder.ckpt"):
            weights.write_bytes(b"no pickle")
    with pytest.raises(UserError, match="train|damaged"):
        load_encoder(folder)


def poison(monkeypatch, utt_id):
    read = loader.read_samples

    def poisoned(utterance, start=0, count=-1):
        wav = read(utterance, start, count)
        if utterance.utt_id == utt_id:
            wav[100] = np.nan
        return wav

    monkeypatch.setattr(loader, "read_samples", poisoned)
    monkeypatch.setattr(speaker_loader, "read_samples", poisoned)


def test_a_nan_file_is_named_put_back_and_replayed(data, tmp_path, monkeypatch, caplog):
    from speechbrain_ext.brain.forensics.dump import read_dump
    from speechbrain_ext.brain.forensics.replay import replay_dump
    from speechbrain_ext.brain.forensics.untrained import our_brain

    folder = tmp_path / "exp"
    with monkeypatch.context() as patch:
        poison(patch, "s1.u1")
        brain = train(recipe(data, folder))
    assert brain.health.rejected > 0
    assert brain.health.committed > 0
    assert all(torch.isfinite(v).all() for v in state(brain).values())
    assert "utterance 's1.u1' holds 1 NaN" in caplog.text
    texts = [f.text for f in examine(folder) if f.passed is False]
    assert texts == [f"batches rejected: {brain.health.rejected}"]
    # The data may be gone: who is which class stands in speakers.json.
    (data / "train.json").rename(data / "away.json")
    try:
        dump = read_dump(next((folder / "debug_nan").glob("nan_*.pt")))
        with our_brain(dump, None) as fresh:
            replay = replay_dump(dump, fresh)
            assert fresh.classifier.margin == 0.0  # as before the batch, not the last
    finally:
        (data / "away.json").rename(data / "train.json")
    assert (replay.conclusion, replay.diagnosis.cause) == ("data", "input non-finite")


def test_a_nan_in_validation_is_named_and_never_helps(
    data, tmp_path, monkeypatch, caplog
):
    poison(monkeypatch, "s2.u3")
    train(recipe(data, tmp_path / "exp"))
    rows = read_train_log(tmp_path / "exp" / "train_log.txt")
    assert {row["valid nonfinite"] for row in rows} == {1}
    assert all(math.isfinite(row["valid eer"]) for row in rows)
    assert "left out and counted: s2.u3: wav of utterance" in caplog.text


def test_settings_that_cannot_train_are_told_together(data, tmp_path):
    wrong = {
        "crop_seconds": 0.0,
        "batch_size": 1,
        "num_workers": -1,
        "average_checkpoints": 4,
        "speeds": [0.9, 1.1],
        "balance": 1.5,
        "noise_prob": 2.0,
        "scale": -1.0,
        "margin": 2.0,
        "rir_folder": "rooms",
        "precision": "fp16",
        "device": "cpu",
    }
    with pytest.raises(UserError) as caught:
        train(recipe(data, tmp_path / "exp", **wrong))
    for name in wrong.keys() - {"device"}:
        assert str(caught.value).count(f"  {name.split('.')[-1]} ") == 1
    assert not (tmp_path / "exp" / "hyperparams.yaml").exists()


def test_augmentation_with_wrong_settings_is_refused_at_the_start(data, tmp_path):
    built = recipe(data, tmp_path / "exp", device="cpu", noise_prob=0.5)
    folder = {"noise_folder": "none such", "noise_prob": 0.5}
    for keywords in (folder, {**folder, "snr_db": [9, 1]}):
        built.hparams["augment"] = functools.partial(Augment, **keywords)
        wrong = "snr_db" in keywords
        with pytest.raises(UserError) if wrong else contextlib.nullcontext() as told:
            task.check_settings(built.hparams, built.run_opts)
        assert not wrong or "  snr_db must be [lowest, highest]" in str(told.value)


def test_crops_longer_than_every_utterance_are_refused(data, tmp_path):
    longest = max(u.duration for u in read_manifest(data / "train.json").values())
    with pytest.raises(UserError) as caught:
        train(recipe(data, tmp_path / "exp", crop_seconds=longest + 1))
    assert f"crop_seconds is {longest + 1}" in str(caught.value)
    assert f"has {longest:.2f} s" in str(caught.value)
    assert not (tmp_path / "exp" / "hyperparams.yaml").exists()


@pytest.mark.parametrize(
    ("folder", "prob"), [("noise_folder", "noise_prob"), ("rir_folder", "reverb_prob")]
)
def test_a_folder_of_noise_that_nothing_would_be_taken_from_is_told(
    data, tmp_path, folder, prob
):
    given = {folder: str(tmp_path), prob: 0.0}
    with pytest.raises(UserError, match=f"{folder} .*--{prob}=0.5"):
        train(recipe(data, tmp_path / "exp", **given))
    built = recipe(data, tmp_path / "exp", **{**given, prob: 0.2})
    task.check_settings(built.hparams, built.run_opts)


def test_several_processes_on_a_cpu_are_told_that_batchnorm_forbids_them(
    data, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    built = recipe(data, tmp_path / "exp", device="cpu")
    with pytest.raises(UserError, match="2 processes need as many GPUs"):
        task.check_settings(built.hparams, built.run_opts)


def changed(data, folder, change):
    """A copy of the manifests with other speakers."""
    for role in ("train", "valid"):
        utterances = [
            change(role, u) for u in read_manifest(data / f"{role}.json").values()
        ]
        write_manifest(folder / f"{role}.json", utterances)
    return folder


def named(utterance, spk_id):
    import dataclasses

    return dataclasses.replace(utterance, spk_id=spk_id)


def test_speakers_that_do_not_fit_are_a_message(data, trained, tmp_path):
    none = changed(data, tmp_path / "none", lambda role, u: named(u, None))
    with pytest.raises(
        ManifestError, match=r"12 utterances have no spk_id, first s0.u0"
    ):
        train(recipe(none, tmp_path / "a"))
    strange = changed(
        data,
        tmp_path / "strange",
        lambda role, u: named(u, "new" if role == "valid" else u.spk_id),
    )
    with pytest.raises(UserError, match="1 speakers are not among the 4 .*first new"):
        train(recipe(strange, tmp_path / "b"))
    one = changed(data, tmp_path / "one", lambda role, u: named(u, "only"))
    with pytest.raises(UserError, match="num_classes must be >= 2"):
        train(recipe(one, tmp_path / "c"))


def test_classes_are_speakers_times_speeds_and_stay_those_of_the_run(data, tmp_path):
    built = task.make_brain(recipe(data, tmp_path / "exp", speeds=[1.0, 0.9, 1.1]))
    assert built.classifier.num_classes == 12
    assert built.hparams.nan_guard.label_ranges == {"spk": 12}
    (tmp_path / "exp").mkdir(exist_ok=True)
    built.write_beside(tmp_path / "exp")
    with pytest.raises(UserError, match="says 12 classes, but 4 speakers at 1 speeds"):
        task.make_brain(recipe(data, tmp_path / "exp"))


def test_the_classifier_depends_on_the_seed_alone(data, tmp_path):
    torch.manual_seed(1)
    one = task.make_brain(recipe(data, tmp_path / "a")).classifier.weight
    torch.rand(7)
    built = recipe(data, tmp_path / "a")
    torch.rand(3)
    assert torch.equal(one, task.make_brain(built).classifier.weight)
    other = task.make_brain(recipe(data, tmp_path / "a", seed=2)).classifier.weight
    assert not torch.equal(one, other)


def test_bfloat16_trains_as_float32_does(data, trained, tmp_path):
    brain = train(
        recipe(
            data,
            tmp_path / "exp",
            precision="bf16",
        )
    )
    assert all(torch.isfinite(v).all() for v in state(brain).values())
    assert {v.dtype for v in brain.encoder.parameters()} == {torch.float32}
    row = read_train_log(tmp_path / "exp" / "train_log.txt")[0]
    full = read_train_log(trained[0] / "train_log.txt")[0]
    assert row["train loss"] == pytest.approx(full["train loss"], rel=0.05)


def test_fine_tuning_starts_from_the_averaged_weights(data, trained, tmp_path, capsys):
    brain = train(
        recipe(
            data,
            tmp_path / "exp",
            init_from=str(trained[0]),
            number_of_epochs=1,
            average_checkpoints=0,
            learning_rate=1e-12,
        )
    )
    assert "averaged" in capsys.readouterr().out
    name = "encoder.fc.conv.weight"
    before = load_encoder(trained[0])[0].state_dict()[name]
    assert torch.allclose(brain.encoder.state_dict()[name], before, atol=1e-6)
    rows = read_train_log(tmp_path / "exp" / "train_log.txt")
    assert [row["epoch"] for row in rows] == [0, 1]


def test_the_margin_goes_up_within_the_run(data, tmp_path, monkeypatch):
    seen = []
    objectives = SpeakerBrain.compute_objectives

    def watched(self, predictions, batch, stage):
        if stage.name == "TRAIN":
            seen.append(round(self.classifier.margin, 4))
        return objectives(self, predictions, batch, stage)

    monkeypatch.setattr(SpeakerBrain, "compute_objectives", watched)
    settings = {"crops_per_epoch": 40, "number_of_epochs": 2}
    train(recipe(data, tmp_path / "exp", **settings))
    # Ten steps: 0 up to the first one, whole from the fourth on.
    assert seen[2:] == [0, 0, 0.0667, 0.1333, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]


def test_pieces_are_whole_and_a_short_utterance_is_one():
    wav = torch.arange(10.0)
    assert pieces_of(wav, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pieces_of(wav, 11).tolist() == [wav.tolist()]
    assert pieces_of(wav[:1], 4).shape == (1, 1)


def filled(classes, vectors, logits):
    scores = ValidScores()
    for index, (label, vector, row) in enumerate(
        zip(classes, vectors, logits, strict=True)
    ):
        scores.add(f"u{index}", label, torch.tensor([vector]), torch.tensor([row]))
    return scores


def test_validation_counts_as_the_formulas_say():
    vectors = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.0, 3.0]]
    logits = [[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]
    stats = filled([0, 0, 1, 1], vectors, logits).stats(seed=1)
    assert stats["accuracy"] == 0.75
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert stats["loss"] == pytest.approx((3 * right + wrong) / 4, rel=1e-6)
    assert stats["eer"] == 0.0
    assert filled([0, 0, 1, 1], vectors, logits).why_no_eer() == ""


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ([0, 0], "of one speaker"),
        ([0, 1], "no speaker has two"),
        ([], "no valid utterance"),
    ],
)
def test_an_eer_without_both_kinds_of_pairs_is_nan_and_says_why(classes, why):
    rows = [[1.0, 0.0]] * len(classes)
    scores = filled(classes, rows, rows)
    assert math.isnan(scores.stats(seed=1)["eer"])
    assert why in scores.why_no_eer()


def test_without_an_eer_the_lowest_valid_loss_is_the_best():
    losses = [2.0, math.nan, 1.0, 3.0]
    found = [
        SimpleNamespace(meta={"eer": math.nan, "loss": loss, "nonfinite": 0})
        for loss in losses
    ]
    assert max(found, key=valid_rank).meta["loss"] == 1.0


def test_what_is_not_finite_is_left_out():
    rows = [[1.0, 0.0], [1.0, 0.1], [math.nan, 0.0], [0.0, math.inf], [0.0, 1.0]]
    stats = filled([0, 0, 0, 1, 1], rows, rows).stats(seed=1)
    assert all(map(math.isfinite, stats.values()))
    assert filled([0, 1], rows[2:4], rows[2:4]).losses == []
