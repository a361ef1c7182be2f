"""Speakers come equally often, apart from each other, and nothing is lost."""

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from speechbrain_ext.data.balanced import BalancedCrops, source_samples
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.errors import WorkError

RATE = 16000


def corpus(numbers, seconds=3.0):
    """Speaker i has numbers[i] utterances; ``seconds`` may be a function of (i, j)."""
    found = {}
    for i, number in enumerate(numbers):
        for j in range(number):
            length = seconds(i, j) if callable(seconds) else seconds
            name = f"s{i:03d}-{j:03d}"
            found[name] = Utterance(name, Path("x"), length, RATE, f"s{i:03d}", "")
    return found


def sampler(utterances, crops_per_epoch=240, seed=1, **settings):
    return BalancedCrops(utterances, RATE, crops_per_epoch, seed, **settings)


def speaker(crop):
    return crop.utt_id.split("-")[0]


def batches(crops, size):
    return [crops[i : i + size] for i in range(0, len(crops), size)]


@pytest.mark.parametrize("batch_size", [64, 128, 140, 141, 200, 400])
def test_no_data_is_lost_at_any_batch_size(batch_size):
    # A sampler that drops a second crop of a speaker from a batch uses 76 % of such
    # utterances at 64, 19 % at 140 and none above.
    utterances = corpus([30] * 140)
    balanced = sampler(utterances, 4200, batch_size=batch_size)
    crops = balanced.crops(1)
    assert len(crops) == len(balanced) >= 4200
    assert len(crops) % batch_size == 0
    assert len(crops) - 4200 < batch_size
    assert {crop.utt_id for crop in crops} == set(utterances)
    most = -(-batch_size // 140)
    for batch in batches(crops, batch_size):
        counts = Counter(map(speaker, batch))
        assert len(counts) == min(batch_size, 140)
        assert max(counts.values()) <= most


@pytest.mark.parametrize("seed", range(5))
def test_speakers_come_equally_often_give_or_take_one(seed):
    draw = np.random.default_rng(seed)
    utterances = corpus(draw.integers(1, 40, 23), lambda i, j: draw.uniform(0.3, 9))
    for epoch in range(3):
        crops = sampler(utterances, int(draw.integers(1, 500)), seed).crops(epoch)
        counts = Counter(map(speaker, crops))
        numbers = [counts[f"s{i:03d}"] for i in range(23)]
        assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("batch_size", [1, 7, 24, 60])
def test_batches_hold_as_many_different_speakers_as_there_can_be(balance, batch_size):
    utterances = corpus([2, 3, 20, 9, 1, 40, 5, 5])
    crops = sampler(utterances, 240, balance=balance, batch_size=batch_size).crops(3)
    counts = Counter(map(speaker, crops))
    dealt = batches(crops, batch_size)
    for batch in dealt:
        here = Counter(map(speaker, batch))
        for spk_id, number in counts.items():
            fair = number / len(dealt)
            assert int(fair) <= here[spk_id] <= -int(-fair // 1)


def test_a_speaker_is_spread_over_the_epoch():
    crops = sampler(corpus([5] * 60), 600, batch_size=20).crops(1)
    places = defaultdict(list)
    for step, batch in enumerate(batches(crops, 20)):
        for crop in batch:
            places[speaker(crop)].append(step)
    for steps in places.values():  # 10 crops in 30 batches: 3 apart if all is even
        assert np.diff(steps).max() <= 6
        assert steps[0] < 6
        assert steps[-1] >= 24


def test_utterances_of_a_speaker_come_in_turn():
    crops = sampler(corpus([7, 30, 1]), 120, batch_size=6).crops(2)
    for spk_id, number in (("s000", 7), ("s001", 30), ("s002", 1)):
        mine = [crop for crop in crops if speaker(crop) == spk_id]
        for lap in batches(mine, number):
            assert len({crop.utt_id for crop in lap}) == len(lap)
        assert [crop.use for crop in mine] == [k // number for k in range(len(mine))]


@pytest.mark.parametrize("crops_each", [1, 7, 19])
def test_short_epochs_use_all_utterances_evenly_in_the_long_run(crops_each):
    balanced = sampler(corpus([40, 40]), 2 * crops_each)
    uses = Counter()
    epochs = round(2.7 * 40 / crops_each) + 1
    for epoch in range(1, 1 + epochs):
        uses.update(crop.utt_id for crop in balanced.crops(epoch))
    assert len(uses) == 80
    assert max(uses.values()) - min(uses.values()) <= 4


def test_without_balance_seconds_decide_and_long_utterances_come_more_often():
    utterances = corpus([4, 8], lambda i, j: 2.0 * (j + 1) * (i + 1))
    total = sum(x.duration for x in utterances.values())
    crops = sampler(
        utterances, 820, balance=0.0, utterance_balance=0.0, batch_size=10
    ).crops(1)
    counts = Counter(crop.utt_id for crop in crops)
    for utt_id, utterance in utterances.items():
        expected = 820 * utterance.duration / total
        assert counts[utt_id] == pytest.approx(expected, abs=2.01)


def test_speakers_stay_equal_where_their_longer_utterances_come_more_often():
    utterances = corpus([4, 8], lambda i, j: 2.0 * (j + 1) * (i + 1))
    crops = sampler(utterances, 400, utterance_balance=0.0, batch_size=10).crops(1)
    assert set(Counter(map(speaker, crops)).values()) == {200}
    counts = Counter(crop.utt_id for crop in crops)
    for utt_id, utterance in utterances.items():
        mine = [u.duration for u in utterances.values() if u.spk_id == utterance.spk_id]
        expected = 200 * utterance.duration / sum(mine)
        assert counts[utt_id] == pytest.approx(expected, abs=2.01)


def test_balance_moves_between_seconds_and_speakers():
    utterances = corpus([1, 16])
    shares = [
        Counter(map(speaker, sampler(utterances, 170, balance=b).crops(0)))["s000"]
        for b in (0.0, 0.5, 1.0)
    ]
    assert shares == [10, 34, 85]  # 1/17, 1/5 and 1/2


def test_leaving_utterances_out_keeps_the_other_speakers_crops_in_place():
    utterances = corpus([5, 9, 30, 4, 4])
    balanced = sampler(utterances, 96, batch_size=8, speeds=(1.0, 0.9, 1.1))
    gone = {"s001-003", "s002-000", "s002-001", "unknown"}
    never = {u: x for u, x in utterances.items() if u not in gone}
    for epoch in range(3):
        whole, left = balanced.crops(epoch), balanced.crops(epoch, gone)
        assert left == sampler(never, 96, batch_size=8, speeds=(1.0, 0.9, 1.1)).crops(
            epoch
        )
        assert not {crop.utt_id for crop in left} & gone
        for before, after in zip(whole, left, strict=True):
            assert speaker(before) == speaker(after)
            if speaker(before) not in ("s001", "s002"):
                assert before == after


def test_leaving_a_whole_speaker_out_keeps_all_other_crops():
    utterances = corpus([5, 9, 30, 4])
    balanced = sampler(utterances, 96, batch_size=8)
    gone = {u for u in utterances if u.startswith("s001")}
    left = balanced.crops(1, gone)
    kept = {crop for crop in balanced.crops(1) if crop.utt_id not in gone}
    assert kept <= set(left)
    assert len(left) == 96
    with pytest.raises(WorkError, match="BalancedCrops: all 48 utterances"):
        balanced.crops(1, set(utterances))


def test_the_list_is_a_pure_function_of_seed_and_epoch():
    utterances = corpus([3, 5, 8])
    shuffled = dict(sorted(utterances.items(), reverse=True))
    crops = sampler(utterances).crops(4)
    assert sampler(shuffled).crops(4) == crops
    assert sampler(utterances).crops(5) != crops
    assert sampler(utterances, seed=2).crops(4) != crops
    code = (
        "from tests.data.test_balanced import corpus, sampler;"
        "print(sampler(corpus([3, 5, 8])).crops(4)[:9])"
    )
    root = Path(__file__).resolve().parents[2]
    env = {"PYTHONHASHSEED": "5", "PYTHONPATH": str(root), "LC_ALL": "C.UTF-8"}
    run = [sys.executable, "-c", code]
    told = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(crops[:9])


def test_each_speaker_is_played_at_each_speed_equally_often():
    speeds = (1.0, 0.9, 1.1)
    crops = sampler(corpus([6, 2, 11]), 100, speeds=speeds).crops(1)
    counts = Counter((speaker(crop), crop.speed) for crop in crops)
    numbers = [counts[f"s{i:03d}", speed] for i in range(3) for speed in speeds]
    assert max(numbers) - min(numbers) <= 1
    # not the same speed again whenever an utterance comes again
    together = {(crop.utt_id, crop.speed) for crop in crops}
    assert len(together) > 2 * len({crop.utt_id for crop in crops})


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_crops_lie_inside_the_file_and_reach_both_ends(speed):
    crops = sampler(corpus([1]), 3000, speeds=(speed,)).crops(0)
    last = 3 * RATE - source_samples(RATE, speed)
    starts = np.array([crop.start_samples for crop in crops])
    assert 0 <= starts.min() < 0.02 * last
    assert 0.98 * last < starts.max() <= last


def test_an_utterance_shorter_than_a_crop_starts_at_zero():
    crops = sampler(corpus([2], 0.2), 10, speeds=(1.0, 1.1)).crops(0)
    assert {crop.start_samples for crop in crops} == {0}


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_get_disjoint_batches_of_different_speakers(world_size):
    utterances = corpus([10] * 50)
    balanced = sampler(utterances, 480, batch_size=24, world_size=world_size)
    crops = balanced.crops(1)
    assert len(crops) % (24 * world_size) == 0
    counts = Counter(map(speaker, crops))
    assert max(counts.values()) - min(counts.values()) <= 1
    for rank in range(world_size):
        mine = crops[rank::world_size]
        assert all(len(set(map(speaker, b))) == 24 for b in batches(mine, 24))
        # no rank is blind for half of the speakers
        assert len(set(map(speaker, mine))) > 40


def test_one_speaker_one_utterance_one_crop():
    assert len(sampler(corpus([1]), 1).crops(1)) == 1
    assert len(sampler(corpus([1, 1]), 1, batch_size=400).crops(1)) == 400


def test_impossible_settings_are_refused_all_at_once():
    utterances = corpus([1])
    utterances["x"] = Utterance("x", Path("x"), 1.0, RATE, None, "")
    with pytest.raises(ValueError, match="balance .*batch_size .*speeds .*1 utt.*x$"):
        sampler(utterances, balance=1.5, batch_size=0, speeds=(1.0, 1.0))
    for speeds in ((), (0.0,), (3.0,), (float("nan"),)):
        with pytest.raises(ValueError, match="speeds must be different numbers"):
            sampler(corpus([1]), speeds=speeds)
    with pytest.raises(ValueError, match="BalancedCrops: there are no utterances"):
        sampler({})
