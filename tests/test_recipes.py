"""Every recipe, preset and fragment is without faults, and trains a step."""

from pathlib import Path

import pytest
import torch

from speechbrain_ext.config.lint import check_recipe
from speechbrain_ext.tasks.codec.train import train
from tests.tasks.test_codec_task import data, recipe  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
PRESETS = sorted(path.stem for path in (ROOT / "hparams" / "presets").glob("*.yaml"))


def faults(path, **options):
    plan = check_recipe(path, open_inputs=True, **options)
    return [str(fault) for fault in plan.faults]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_has_no_faults(path):
    assert faults(path) == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_preset_fits_the_recipe(path, preset):
    assert faults(path, presets=[preset], signatures=False) == []


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


@pytest.mark.parametrize("name", ["seanet", "seed"])
def test_the_waveform_codecs_train_on_a_cpu(name, data, tmp_path, capfd):  # noqa: F811
    tiny = recipe(
        data,
        tmp_path / "exp",
        path=ROOT / "recipes" / "codec" / f"{name}.yaml",
        base=WAVEFORM,
    )
    brain = train(tiny)
    assert brain.optimizer_step == 2
    state = brain.modules.codec.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
    said = "seed document's rule" in capfd.readouterr().err
    assert said is (name == "seed")
