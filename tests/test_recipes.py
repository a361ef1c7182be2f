"""Every recipe, preset and fragment is without faults, and trains a step."""

from pathlib import Path

import pytest
import torch

from speechbrain_ext.config.lint import check_recipe
from speechbrain_ext.tasks.codec.train import train
from speechbrain_ext.tasks.speaker.train import load_encoder
from speechbrain_ext.tasks.speaker.train import train as train_speakers
from tests.tasks.test_codec_task import data, recipe  # noqa: F401  (a fixture)
from tests.tasks.voices import corpus

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
PRESETS = sorted(path.stem for path in (ROOT / "hparams" / "presets").glob("*.yaml"))


def faults(path, **options):
    plan = check_recipe(path, open_inputs=True, **options)
    return [str(fault) for fault in plan.faults]


def named(path):
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_recipe_has_no_faults(path):
    assert faults(path) == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_preset_fits_the_recipe_or_says_what_it_lacks(path, preset):
    found = faults(path, presets=[preset], signatures=False)
    if preset == "low_scale" and path.parent.name != "speaker":
        for fault, key in zip(found, ("scale", "margin"), strict=True):
            assert f"{key}: no key '{key}'" in fault
            assert "low_scale.yaml" in fault
    else:
        assert found == []


#: What the seed document's quick fixes do, of 0.001, 30, 0.2, 5.0 and mixed precision.
QUICK_FIXES = {
    "low_lr": {"learning_rate": "* 0.5"},
    "low_scale": {"scale": 20.0, "margin": 0.1},
    "no_amp": {"precision": "fp32"},
    "tight_clip": {"max_grad_norm": 1.0},
    "ultrasafe": {
        "learning_rate": "* 0.5",
        "batch_size": "* 0.5",
        "precision": "fp32",
        "max_grad_norm": 1.0,
    },
}


@pytest.mark.parametrize("preset", QUICK_FIXES)
@pytest.mark.parametrize("name", ["ecapa_mini", "ecapa", "resnet"])
def test_a_quick_fix_sets_what_the_seed_document_says(name, preset):
    path = ROOT / "recipes" / "speaker" / f"{name}.yaml"
    before = {key: value for key, (value, _) in values(path).items()}
    for key, (after, _) in values(path, presets=[preset]).items():
        wanted = QUICK_FIXES[preset].get(key, before[key])
        if wanted == "* 0.5":
            wanted = before[key] / 2
        assert after == pytest.approx(wanted), key


def values(path, **options):
    """Top-level numbers and texts of a recipe that presets may change."""
    plan = check_recipe(path, open_inputs=True, **options)
    names = {name for fix in QUICK_FIXES.values() for name in fix}
    return {name: (plan.root.value[name].value, name) for name in sorted(names)}


def test_every_fragment_is_used_by_a_recipe():
    texts = "".join(path.read_text(encoding="utf-8") for path in RECIPES)
    for fragment in (ROOT / "hparams" / "fragments").rglob("*.yaml"):
        assert str(fragment.relative_to(ROOT)) in texts


WAVEFORM = {
    "number_of_epochs": 1,
    "crops_per_epoch": 4,
    "crop_seconds": 0.25,
    "batch_size": 2,
    "num_workers": 0,
    "valid_kbps": [4.0],
    "codec.channels": 2,
    "codec.quantizer.dim": 8,
}


#: A discriminator that starts in the second of two steps.
AGAINST = {
    "crop_seconds": 0.25,
    "discriminator.win_lengths": [128, 64],
    "discriminator.channels": 2,
    "discriminator_schedule.start_step": 1,
    "discriminator_schedule.update_probability": 1.0,
}


@pytest.mark.parametrize("name", ["seanet", "seanet_gan", "seed"])
def test_the_waveform_codecs_train_on_a_cpu(name, data, tmp_path, capfd):  # noqa: F811
    tiny = recipe(
        data,
        tmp_path / "exp",
        path=ROOT / "recipes" / "codec" / f"{name}.yaml",
        base=WAVEFORM | (AGAINST if name == "seanet_gan" else {}),
    )
    brain = train(tiny)
    assert brain.optimizer_step == 2
    assert ("discriminator_grad_norm" in brain.train_stats) is (name == "seanet_gan")
    state = brain.modules.codec.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
    said = "codebooks do not learn with it" in capfd.readouterr().err
    assert said is (name == "seed")


SPEAKERS = {
    "number_of_epochs": 1,
    "crops_per_epoch": 4,
    "crop_seconds": 0.5,
    "batch_size": 4,
    "num_workers": 0,
    "average_checkpoints": 0,
    "n_mels": 24,
    "embedding_dim": 16,
}
SMALL = {
    "ecapa": {
        "encoder.encoder.channels": [16, 16, 16, 16, 24],
        "encoder.encoder.attention_channels": 8,
        "encoder.encoder.se_channels": 8,
    },
    "resnet": {
        "encoder.encoder.channels": [4, 4, 8, 8],
        "encoder.encoder.block_sizes": [1, 1, 1, 1],
    },
}


@pytest.mark.parametrize("name", ["ecapa", "resnet"])
def test_the_gpu_recipes_of_speakers_train_on_a_cpu(name, tmp_path):
    brain = train_speakers(
        recipe(
            corpus(tmp_path / "voices", speakers=2, train=2, valid=1, seconds=0.8),
            tmp_path / "exp",
            path=ROOT / "recipes" / "speaker" / f"{name}.yaml",
            base={**SPEAKERS, **SMALL[name]},
        )
    )
    assert brain.optimizer_step == 1
    assert brain.classifier.num_classes == 6  # at three speeds
    encoder, info = load_encoder(tmp_path / "exp")
    assert info["sample_rate"] == 16000
    with torch.no_grad():
        assert torch.isfinite(encoder(torch.zeros(1, 16000))).all()
