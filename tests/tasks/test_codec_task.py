"""The codec task from manifests to a table: trains, resumes, survives, scores."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechbrain_ext.config import load_recipe
from speechbrain_ext.data import loader
from speechbrain_ext.data.audio import save_audio
from speechbrain_ext.data.manifest import (
    ManifestError,
    Utterance,
    read_manifest,
    write_manifest,
)
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.report.doctor import examine
from speechbrain_ext.report.results import read_results
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.tasks.codec.brain import CodecBrain
from speechbrain_ext.tasks.codec.evaluate import evaluate
from speechbrain_ext.tasks.codec.train import train
from speechbrain_ext.tasks.codec.weights import load_best, load_codec
from speechbrain_ext.tasks.conditions import trained_recipe
from speechbrain_ext.tasks.settings import enough

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "codec" / "transform.yaml"
TINY = {
    "number_of_epochs": 2,
    "crops_per_epoch": 8,
    "crop_seconds": 0.5,
    "batch_size": 4,
    "test_interval": 1,
    "valid_kbps": [0.8, 1.6],
    "eval_kbps": [0.4, 1.6],
    "codec.width": 16,
    "codec.decoder_blocks": 1,
    "codec.quantizer.dim": 16,
    "codec.quantizer.num_quantizers": 8,
    "codec.quantizer.codebook_size": 16,
    "codec.quantizer.group_sizes": [8, 8],
    "codec.quantizer.depth": 6,
    "codec.quantizer.quantizer_dropout": 0.0,
    "training.warmup_steps": 2,
    "code_steps": 0,
}


def speech(seed, seconds=1.5):
    """Amplitude-modulated harmonics: something that PESQ takes for a voice."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    pitch = 2 * np.pi * rng.uniform(100, 200) * time
    voiced = sum(np.sin(k * pitch + rng.uniform(0, 6)) / k for k in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 2 * time), 0, 1)
    return (0.1 * voiced * envelope + 1e-3 * rng.standard_normal(len(time))).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for role, count, first in (("train", 4, 0), ("valid", 1, 4), ("test", 2, 5)):
        utterances = []
        for seed in range(first, first + count):
            path = folder / "wav" / f"utt{seed}.wav"
            save_audio(path, speech(seed), 16000)
            utterances.append(
                Utterance(path.stem, path, 1.5, 16000, None, sha256_file(path))
            )
        write_manifest(folder / f"{role}.json", utterances)
    return folder


def recipe(data, output, *, path=RECIPE, base=None, **overrides):
    return load_recipe(
        path,
        {
            **(base or TINY),
            "train_manifest": str(data / "train.json"),
            "valid_manifest": str(data / "valid.json"),
            "output_folder": str(output),
            "noprogressbar": True,
            **overrides,
        },
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "plain"
    brain = train(recipe(data, folder))
    return folder, brain


def codec_state(brain):
    return brain.modules.codec.state_dict()


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.smoke
def test_a_run_leaves_what_the_readme_promises(trained):
    folder, brain = trained
    for name in ("hyperparams.yaml", "env.json", "log.txt", "train_log.txt"):
        assert (folder / name).stat().st_size
    rows = read_train_log(folder / "train_log.txt")
    assert [row["epoch"] for row in rows] == [0, 1, 2]  # 0: before any step
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert {"train loss", "train vq", "train usage", "train rejected", "valid snr"} <= (
        rows[1].keys()
    )
    assert not [finding for finding in examine(folder) if finding.passed is False]


def test_the_checklist_is_shown_after_the_first_epoch(data, tmp_path, capfd):
    train(recipe(data, tmp_path / "exp", number_of_epochs=1))
    said = capfd.readouterr().err
    assert "pass  epochs completed: 1" in said
    assert "doctor: training is healthy" in said


def test_an_interrupted_run_ends_with_the_same_bits(data, trained, tmp_path):
    other = recipe(data, tmp_path / "exp")
    crops = loader.CropDataset.__getitem__
    seen = []

    def interrupted(self, crop):
        seen.append(crop)
        if len(seen) == 14:  # in the second epoch; 4 crops went into the estimate
            raise KeyboardInterrupt
        return crops(self, crop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader.CropDataset, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(other)
    again = train(recipe(data, tmp_path / "exp"))
    assert_same_weights(codec_state(again), codec_state(trained[1]))


def test_a_nan_file_is_named_and_the_run_goes_on(data, tmp_path, monkeypatch, caplog):
    read = loader.read_samples

    def poisoned(utterance, start=0, count=-1):
        wav = read(utterance, start, count)
        if utterance.utt_id == "utt1" and count > 0:
            wav[100] = np.nan
        return wav

    monkeypatch.setattr(loader, "read_samples", poisoned)
    brain = train(recipe(data, tmp_path / "exp", batch_size=2))
    assert brain.health.rejected > 0
    assert brain.health.committed > 0
    assert all(torch.isfinite(v).all() for v in codec_state(brain).values())
    assert "utterance 'utt1' holds 1 NaN" in caplog.text
    dump = next((tmp_path / "exp" / "debug_nan").glob("*.json"))
    assert "utt1" in json.loads(dump.read_text())["utt_ids"]
    texts = [f.text for f in examine(tmp_path / "exp") if f.passed is False]
    assert texts == [f"batches rejected: {brain.health.rejected}"]


def test_settings_that_cannot_train_are_told_together(data, tmp_path):
    wrong = {
        "crop_seconds": 0.0,
        "crops_per_epoch": 3,
        "num_workers": -1,
        "test_interval": 0,
        "valid_kbps": [],
        "number_of_epochs": 0,
        "precision": "fp16",
        "device": "cpu",
    }
    with pytest.raises(UserError) as caught:
        train(recipe(data, tmp_path / "exp", **wrong))
    for name in wrong.keys() - {"device"}:
        assert f"{name}" in str(caught.value)
    assert "must be >= batch_size (4), got 3" in str(caught.value)
    assert not (tmp_path / "exp" / "hyperparams.yaml").exists()


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_a_message(data, trained, tmp_path, device):
    with pytest.raises(UserError, match=f"--device={device}"):
        train(recipe(data, tmp_path / "exp", device=device))
    with pytest.raises(UserError, match=f"--device={device}"):
        evaluate(trained[0], data / "test.json", device=device)


def test_means_of_a_resumed_epoch_are_those_of_the_batches_seen(
    data, tmp_path, monkeypatch
):
    settings = {
        "crops_per_epoch": 16,
        "number_of_epochs": 1,
        "ckpt_interval_minutes": 0,
        "ckpt_interval_steps": 3,
    }
    crops = loader.CropDataset.__getitem__
    seen = []

    def interrupted(self, crop):
        seen.append(crop)
        if len(seen) == 4 + 13:  # the estimate, then three batches of four
            raise KeyboardInterrupt
        return crops(self, crop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader.CropDataset, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(data, tmp_path / "exp", **settings))
    losses = []
    remember = CodecBrain.remember

    def remembered(self, values):
        losses.append(float(values["loss"]))
        remember(self, values)

    monkeypatch.setattr(CodecBrain, "remember", remembered)
    brain = train(recipe(data, tmp_path / "exp", **settings))
    assert (brain.health.committed, brain.health.epoch_batches) == (4, 4)
    assert brain.train_stats["loss"] == pytest.approx(losses[-1])


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(
    data, trained
):
    before = (trained[0] / "hyperparams.yaml").read_text()
    with pytest.raises(UserError, match=r"learning_rate: 0.0002 -> 0.5"):
        train(recipe(data, trained[0], learning_rate=0.5))
    assert (trained[0] / "hyperparams.yaml").read_text() == before


def test_fine_tuning_starts_from_the_given_weights(data, trained, tmp_path, capsys):
    brain = train(
        recipe(
            data,
            tmp_path / "exp",
            init_from=str(trained[0]),
            number_of_epochs=1,
            crops_per_epoch=4,
            learning_rate=1e-12,
        )
    )
    assert "tensors loaded" in capsys.readouterr().out
    name = "basis"
    before, after = codec_state(trained[1])[name], codec_state(brain)[name]
    assert torch.allclose(before, after, atol=1e-6)


def test_a_changed_file_is_found_before_training(data, tmp_path):
    wav = next(iter((data / "wav").glob("utt4.wav")))
    whole = wav.read_bytes()
    try:
        wav.write_bytes(whole[:-2] + b"\0\1")
        with pytest.raises(ManifestError, match="utt4"):
            train(recipe(data, tmp_path / "exp"))
    finally:
        wav.write_bytes(whole)
    assert not (tmp_path / "exp" / "hyperparams.yaml").exists()


def test_results_hold_our_rates_beside_opus_and_can_be_read_back(data, trained):
    folder, _ = trained
    state = {"command": "x", "corpus": {"corpus": "toy", "language": ["te"]}}
    (data / "prepare.json").write_text(json.dumps(state))
    evaluate(folder, data / "test.json", jobs=1)
    results = read_results(folder / "results.json")
    rates = {s["name"]: [] for s in results["systems"]}
    for system in results["systems"]:
        rates[system["name"]].append(system["kbps"])
        assert [f["utt_id"] for f in system["files"]] == ["utt5", "utt6"]
        assert "pesq_wb" in system["mean"]
        place = f"{system['name']}_{system['kbps']:.1f}k"
        assert (folder / "reconstructions" / place / "utt5.wav").exists()
    assert rates["ours"] == [0.4, 1.6]
    assert len(rates["opus"]) >= 3
    assert results["conditions"]["config_hash"]
    assert results["conditions"]["data"] == {
        **state["corpus"],
        "counts": {"train": 4, "valid": 1, "test": 2},
        "seconds": {"train": 6.0, "valid": 1.5, "test": 3.0},
    }
    cost = results["conditions"]["cost"]
    assert (cost["epochs"], cost["device"], cost["threads"]) == (2, "cpu", 1)
    assert results["conditions"]["resumed"] == []


@pytest.mark.parametrize(
    ("kbps", "message"), [([99.0], "must be between"), ([0.1], "must be between")]
)
def test_a_rate_the_codec_does_not_have_is_a_message(data, trained, kbps, message):
    with pytest.raises(UserError, match=message):
        evaluate(trained[0], data / "test.json", kbps=kbps)


def test_a_damaged_checkpoint_is_a_message(data, trained, tmp_path):
    folder = tmp_path / "exp"
    shutil.copytree(trained[0], folder)
    text = (folder / "hyperparams.yaml").read_text()
    (folder / "hyperparams.yaml").write_text(text.replace(str(trained[0]), str(folder)))
    for weights in (folder / "save").glob("CKPT*/codec.ckpt"):
        weights.write_bytes(b"no pickle")
    with pytest.raises(UserError, match="damaged"):
        evaluate(folder, data / "test.json")


def test_an_experiment_that_was_moved_can_still_be_scored(data, trained, tmp_path):
    moved = shutil.copytree(trained[0], tmp_path / "elsewhere")
    results = evaluate(moved, data / "test.json", kbps=[1.6], jobs=1)
    assert results["conditions"]["valid_snr_db"] > 0
    assert (moved / "results.json").exists()


def test_first_weights_take_no_more_speech_than_needed(data):
    utterances = read_manifest(data / "train.json")
    assert enough(utterances, 1, 1800.0) == list(utterances.values())
    some = enough(utterances, seed=1, seconds=2.0)
    assert len(some) == 2  # of 1.5 s each
    assert some == enough(dict(reversed(utterances.items())), 1, 2.0)[::-1]
    assert (
        len({tuple(u.utt_id for u in enough(utterances, s, 2.0)) for s in range(9)}) > 1
    )


def test_evaluating_what_was_never_trained_names_the_next_command(data, tmp_path):
    with pytest.raises(UserError, match="--stage train"):
        evaluate(tmp_path, data / "test.json")


def test_codes_are_learned_last_for_the_best_weights_and_make_files_smaller(
    data, tmp_path
):
    folder = tmp_path / "exp"
    brain = train(recipe(data, folder, code_steps=20))
    before = codec_state(brain)
    codec, _ = load_codec(folder, stage="test")
    assert codec.code_model is not None
    assert not [name for name in before if name.startswith("code_model.")]
    kept = (folder / "save" / "code_model.safetensors").read_bytes()
    # Again: all is there already.
    train(recipe(data, folder, code_steps=20))
    assert (folder / "save" / "code_model.safetensors").read_bytes() == kept
    train(recipe(data, folder, code_steps=21))  # longer: once more
    assert (folder / "save" / "code_model.safetensors").read_bytes() != kept
    evaluate(folder, data / "test.json", jobs=1)
    results = read_results(folder / "results.json")
    ours = [s for s in results["systems"] if s["name"] == "ours"]
    assert [s["nominal_kbps"] for s in ours] == [0.4, 1.6]
    assert {s["rate_kind"] for s in ours} == {"whole files"}
    # Of other weights it knows nothing.
    grown = train(recipe(data, folder, code_steps=0, number_of_epochs=3))
    found = load_best(brain.modules.codec, folder / "save")
    same = found.meta["epoch"] == codec_epoch(folder, kept)
    assert (brain.modules.codec.code_model is not None) == same
    assert grown.modules.codec.code_model is None


def codec_epoch(folder, kept):
    """Epoch of the checkpoint whose weights a code model was learned of."""
    from safetensors.torch import load

    wanted = load(kept)["belongs_to"]
    for checkpoint in sorted((folder / "save").glob("CKPT*")):
        codec = recipe_codec(folder)
        codec.load_state_dict(torch.load(checkpoint / "codec.ckpt", weights_only=True))
        if bytes(wanted.tolist()) == codec.digest():
            return json.loads(
                json.dumps(yaml.safe_load((checkpoint / "CKPT.yaml").read_text()))
            )["epoch"]
    return None


def recipe_codec(folder):
    return trained_recipe(folder, "test").hparams["modules"]["codec"]
