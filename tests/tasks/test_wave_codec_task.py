"""The wave codec's recipe: contexts, post-filter, whole files, a search of settings."""

import math
from pathlib import Path

import pytest
import torch

from speechbrain_ext.config import load_recipe
from speechbrain_ext.data.audio import save_audio
from speechbrain_ext.data.manifest import Utterance, write_manifest
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.report.codec.results import system_folder
from speechbrain_ext.report.page import render_markdown
from speechbrain_ext.report.results import read_results
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.tasks.codec import tune as tuning
from speechbrain_ext.tasks.codec.evaluate import evaluate
from speechbrain_ext.tasks.codec.rates import check_snrs
from speechbrain_ext.tasks.codec.train import train
from speechbrain_ext.tasks.codec.weights import load_best, load_codec
from tests.codec.signals import speech

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "codec" / "wave.yaml"
TINY = {
    "number_of_epochs": 2,
    "crops_per_epoch": 4,
    "crop_seconds": 0.5,
    "batch_size": 2,
    "test_interval": 1,
    "valid_kbps": [8.0],
    "eval_kbps": [12.0],
    "eval_snr": [10.0],
    "codec.hidden": 8,
    "codec.context_steps": 40,
    "codec.post_filter_channels": 4,
    "training.warmup_steps": 1,
}


def recipe(data, output, **overrides):
    places = {
        "train_manifest": str(data / "train.json"),
        "valid_manifest": str(data / "valid.json"),
        "output_folder": str(output),
        "noprogressbar": True,
    }
    return load_recipe(RECIPE, {**TINY, **places, **overrides})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for role, count, first in (("train", 3, 0), ("valid", 1, 3), ("test", 2, 4)):
        utterances = []
        for seed in range(first, first + count):
            path = folder / "wav" / f"utt{seed}.wav"
            save_audio(path, speech(1.6, seed=seed), 16000)
            digest = sha256_file(path)
            utterances.append(Utterance(path.stem, path, 1.6, 16000, None, digest))
        write_manifest(folder / f"{role}.json", utterances)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "wave"
    return folder, train(recipe(data, folder))


def test_training_lowers_the_loss_and_the_best_is_chosen_by_it(trained):
    folder, brain = trained
    rows = read_train_log(folder / "train_log.txt")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    losses = [row["valid loss"] for row in rows]
    assert all(map(math.isfinite, losses))
    codec = recipe(Path(), folder).hparams["modules"]["codec"]
    found = load_best(codec, folder / "save")
    assert found.meta["loss"] == pytest.approx(min(losses), rel=1e-2)


def test_gradients_reach_the_post_filter_and_nothing_else_changes(trained):
    _, brain = trained
    codec = brain.modules.codec
    assert {name.split(".")[1] for name, _ in codec.named_parameters()} == {
        "post_filter"
    }
    before = {name: value.clone() for name, value in codec.named_buffers()}
    codec(torch.from_numpy(speech(0.5, seed=1))[None]).wav.sum().backward()
    assert all(p.grad is not None for p in codec.parameters())
    assert all(torch.equal(before[name], b) for name, b in codec.named_buffers())


def test_results_are_of_whole_files_at_the_rates_of_opus_too(data, trained):
    folder, _ = trained
    evaluate(folder, data / "test.json", jobs=1)
    results = read_results(folder / "results.json")
    opus = [s["kbps"] for s in results["systems"] if s["name"] == "opus"]
    ours = [s for s in results["systems"] if s["name"] == "ours"]
    assert len(ours) == 1 + len(opus)
    for one, rate in zip(ours, sorted([12.0, *opus]), strict=True):
        assert one["rate_kind"] == "whole files"
        assert 0.9 * rate < one["kbps"] <= rate
        place = folder / "reconstructions" / system_folder(one)
        assert len(list(place.glob("*.wav"))) == 2
    fidelity = next(s for s in results["systems"] if s["name"] == "fidelity")
    assert 9.95 <= fidelity["mean"]["snr_db"] <= 10.6
    text = render_markdown(results)
    assert "ours, SNR held" in text
    assert "whole files, header and checksum included" in text
    assert "nominal" not in text


def test_a_search_writes_a_preset_that_the_recipe_takes(data, trained, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr(tuning, "_liking", lambda a, b, _: -float(((a - b) ** 2).sum()))
    preset = tuning.tune([folder], evaluations=2, num_files=1, kbps=[12.0])
    first = preset.read_text()
    assert tuning.tune([folder], evaluations=4, num_files=1, kbps=[12.0]) == preset
    tuning.tune([folder], folder / "x.yaml", evaluations=1, num_files=1, start=preset)
    with pytest.raises(UserError, match="no preset of an earlier search"):
        tuning.tune([folder], start=folder / "hyperparams.yaml")
    with pytest.raises(UserError, match="of a search with other seed: seed 1"):
        tuning.tune([folder], num_files=1, kbps=[12.0], seed=2)
    loaded = load_recipe(
        RECIPE,
        {**TINY, "train_manifest": "a", "valid_manifest": "b", "output_folder": "c"},
        presets=[str(preset)],
    )
    settings = loaded.hparams["modules"]["codec"].perceptual.settings
    assert f"gamma: {settings.gamma}" in preset.read_text()
    assert first.count("codec.settings.") == 6


def test_a_preset_that_was_lost_comes_back(data, trained, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr(tuning, "_liking", lambda a, b, _: -float(((a - b) ** 2).sum()))
    asked = {"evaluations": 1, "num_files": 1, "kbps": [12.0]}
    preset = tuning.tune([folder], folder / "lost.yaml", **asked)
    before = preset.read_text()
    preset.unlink()
    assert tuning.tune([folder], preset, **asked) == preset
    values = [line for line in before.splitlines() if not line.startswith("#")]
    assert preset.read_text().splitlines()[1:] == values


def test_rates_and_fidelities_that_are_none_are_refused(data, trained):
    folder, _ = trained
    with pytest.raises(UserError, match="--kbps:\n.*between 2 and 256, got 0"):
        tuning.tune([folder], kbps=[0.0])
    with pytest.raises(UserError, match="names no rate"):
        tuning.tune([folder], kbps=[])
    for ratio in (-5.0, 91.0, math.nan):
        with pytest.raises(UserError, match="--snr:\n.*at most 90 dB"):
            evaluate(folder, data / "test.json", snr=[ratio])
    with pytest.raises(UserError, match="Identity promises no fidelity"):
        check_snrs(torch.nn.Identity(), [20.0], "snr")


def test_a_search_without_a_wave_codec_is_a_message(trained, monkeypatch):
    monkeypatch.setattr(
        tuning, "load_codec", lambda folder, stage: (torch.nn.Identity(), {})
    )
    with pytest.raises(UserError, match="--recipe codec/wave"):
        tuning.tune([trained[0]])


def test_a_wrong_choice_is_refused_before_training(data, tmp_path):
    with pytest.raises(UserError, match="choose_by is snr or loss, got 'pesq'"):
        train(recipe(data, tmp_path / "exp", choose_by="pesq"))


def test_a_codec_with_nothing_to_train_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="nothing to train"):
        train(recipe(data, tmp_path / "exp", **{"codec.post_filter_channels": 0}))


def test_weights_come_back_as_they_were(trained):
    folder, brain = trained
    codec, info = load_codec(folder, stage="test")
    wave = speech(0.4, seed=8)
    data = codec.compress(wave, 16000, kbps=12)
    assert (codec.decompress(data)[0] == codec.decompress(data)[0]).all()
    assert info["epoch"] in (0, 1, 2)
