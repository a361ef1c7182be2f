import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.sampler import Crop, CropSampler, generator_for


def corpus(durations):
    return {
        f"utt{index}": Utterance(f"utt{index}", Path("x"), duration, 16000, None, "")
        for index, duration in enumerate(durations)
    }


def sampler(utterances, crops_per_epoch=200, seed=1, crop_samples=8000):
    return CropSampler(utterances, crop_samples, crops_per_epoch, seed)


def test_generators_are_equal_in_another_process():
    code = (
        "from speechbrain_ext.data.sampler import generator_for;"
        "print(generator_for(7, 3, 'తెలుగు', 'noise').integers(2**62))"
    )
    root = Path(__file__).resolve().parents[2]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": str(root), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert outputs == {str(generator_for(7, 3, "తెలుగు", "noise").integers(2**62))}


def test_generators_differ_in_every_argument():
    keys = [(1, 2, "u", ""), (2, 1, "u", ""), (1, 2, "v", ""), (1, 2, "u", "noise")]
    draws = {generator_for(*key).integers(2**62) for key in keys}
    assert len(draws) == len(keys)


def test_an_epoch_has_exactly_the_number_of_crops():
    for crops_per_epoch in (1, 2, 33, 500):
        utterances = corpus([0.1, 3.0, 60.0])
        assert len(sampler(utterances, crops_per_epoch).crops(0)) == crops_per_epoch


def test_crops_are_proportional_to_duration_within_two():
    durations = [1.0, 2.0, 4.0, 8.0, 16.0]
    counts = Counter(crop.utt_id for crop in sampler(corpus(durations), 310).crops(5))
    for index, duration in enumerate(durations):
        assert counts[f"utt{index}"] == pytest.approx(10 * duration, abs=2)


def test_the_list_does_not_depend_on_the_order_of_the_manifest():
    utterances = corpus(np.linspace(1, 9, 30))
    shuffled = dict(sorted(utterances.items(), reverse=True))
    assert sampler(utterances).crops(4) == sampler(shuffled).crops(4)


@pytest.mark.parametrize("seed", range(20))
def test_removing_an_utterance_leaves_the_crops_of_the_others(seed):
    draw = np.random.default_rng(seed)
    utterances = corpus(draw.uniform(0.2, 20.0, draw.integers(2, 13)))
    total = int(draw.integers(1, 120))
    with_all = sampler(utterances, total, seed).crops(1)
    del utterances["utt0"]
    without = sampler(utterances, total, seed).crops(1)
    kept = [crop for crop in with_all if crop.utt_id != "utt0"]
    assert without[: len(kept)] == kept
    assert len(without) == total


def test_epochs_and_seeds_differ_in_order_and_place():
    utterances = corpus([3.0] * 20)
    lists = [
        sampler(utterances, 20, seed).crops(epoch)
        for seed, epoch in [(1, 0), (1, 1), (2, 0)]
    ]
    assert len({tuple(crops) for crops in lists}) == 3
    assert len({tuple(crop.utt_id for crop in crops) for crops in lists}) == 3


def test_an_utterance_returns_evenly_but_in_new_order_within_an_epoch():
    crops = sampler(corpus([3.0] * 10), 100).crops(0)
    rounds = [tuple(c.utt_id for c in crops[i : i + 10]) for i in range(0, 100, 10)]
    assert len(set(rounds)) > 5
    for start in range(0, 90, 5):
        assert len({crop.utt_id for crop in crops[start : start + 20]}) >= 9


def test_crops_lie_inside_the_utterance_and_reach_both_ends():
    crops = sampler(corpus([1.0]), 4000).crops(0)
    starts = np.array([crop.start_samples for crop in crops])
    assert starts.min() < 80
    assert 8000 - 80 < starts.max() <= 8000
    # Uniform: the mean of 4000 draws lies within five standard errors of the middle.
    assert starts.mean() == pytest.approx(4000, abs=5 * 8000 / np.sqrt(12 * 4000))


@pytest.mark.parametrize("duration", [0.1, 0.5])
def test_an_utterance_no_longer_than_the_crop_starts_at_zero(duration):
    assert set(sampler(corpus([duration]), 3).crops(0)) == {Crop("utt0", 0)}


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="no utterances"):
        sampler({})
    with pytest.raises(ValueError, match="positive"):
        sampler(corpus([1.0]), 0)
    mixed = corpus([1.0])
    mixed["b"] = Utterance("b", Path("b"), 1.0, 8000, None, "")
    with pytest.raises(ValueError, match="8000, 16000"):
        sampler(mixed)
