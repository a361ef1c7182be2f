"""Quarantined utterances are not drawn; an interrupted epoch goes on as it began."""

import json

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_ext.brain.quarantine import (
    Quarantine,
    QuarantineAware,
    apply_quarantine,
)
from speechbrain_ext.data.loader import CropLoader, EpochCrops, crop_loader
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.sampler import CropSampler
from speechbrain_ext.errors import UserError, WorkError

RATE, BATCH = 8000, 2


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wavs")
    draw = np.random.default_rng(0)
    found = {}
    for name, seconds in zip("abcde", (0.2, 0.3, 0.15, 0.4, 0.25), strict=True):
        path = folder / f"{name}.wav"
        soundfile.write(path, draw.uniform(-1, 1, round(seconds * RATE)), RATE)
        found[name] = Utterance(name, path, seconds, RATE, None, "")
    return found


def make_loader(utterances, num_workers=0):
    return crop_loader(
        utterances,
        crop_samples=400,
        crops_per_epoch=24,
        batch_size=BATCH,
        seed=3,
        num_workers=num_workers,
    )


def delivered(batch):
    """Ids and a digest of the samples of a batch."""
    return batch.id, batch.wav.data.numpy().tobytes()


def quarantine_of(*utt_ids):
    quarantine = Quarantine(None)
    quarantine.add(utt_ids, reason="NaN", cause="input non-finite", epoch=1, batch=3)
    return quarantine


def sampler_of(utterances, rank=0, world_size=1):
    return EpochCrops(CropSampler(utterances, 400, 24, seed=3), rank, world_size)


def test_the_crops_are_those_of_a_manifest_that_never_held_them(utterances):
    crops = CropSampler(utterances, 400, 24, seed=3)
    rest = {u: x for u, x in utterances.items() if u not in "bd"}
    never = CropSampler(rest, 400, 24, seed=3)
    for epoch in range(5):
        left = crops.crops(epoch, {"b", "d", "unknown"})
        assert left == never.crops(epoch)
        kept = [crop for crop in crops.crops(epoch) if crop.utt_id not in "bd"]
        assert left[: len(kept)] == kept


def test_it_holds_from_the_next_epoch_on_and_can_be_taken_back(utterances):
    sampler = sampler_of(utterances)
    assert isinstance(sampler, QuarantineAware)
    sampler.set_epoch(1)
    first = list(sampler)
    assert apply_quarantine(sampler, quarantine_of("a", "unknown"))
    assert list(sampler) == first
    sampler.set_epoch(2)
    assert "a" not in {crop.utt_id for crop in sampler}
    assert len(list(sampler)) == len(sampler) == 24
    sampler.set_quarantined(frozenset())
    sampler.set_epoch(2)
    assert list(sampler) == sampler_of(utterances).crops.crops(2)


def test_ranks_share_what_one_process_draws(utterances):
    samplers = [sampler_of(utterances, rank, 2) for rank in range(2)]
    for sampler in samplers:
        sampler.set_quarantined(frozenset({"c"}))
        sampler.set_epoch(4)
    first, second = map(list, samplers)
    drawn = [crop for pair in zip(first, second, strict=True) for crop in pair]
    assert drawn == samplers[0].crops.crops(4, {"c"})


def test_leaving_out_everybody_is_refused_with_the_next_command(utterances):
    sampler = sampler_of(utterances)
    sampler.set_epoch(1)
    before = list(sampler)
    with pytest.raises(WorkError, match="all 5 utterances .*quarantine") as caught:
        apply_quarantine(sampler, quarantine_of(*"abcde", "unknown"))
    assert "--nan_guard.keep_quarantined=true" in str(caught.value)
    assert list(sampler) == before


def train(utterances, folder, *, stop_after=None, num_workers=0):
    """Two epochs as the Brain goes through them; ``b`` is found bad in epoch 1.

    Returns what was delivered, by epoch; stops after batch ``stop_after`` of epoch 2
    with a checkpoint, when ``a`` has been found bad, too.
    """
    loader = make_loader(utterances, num_workers)
    checkpointer = Checkpointer(folder, {"dataloader-TRAIN": loader})
    path = folder / "quarantine.json"
    quarantine = Quarantine(path)
    checkpointer.recover_if_possible()
    first_epoch = 1 if checkpointer.find_checkpoint() is None else 2
    seen = {1: [], 2: [], 3: []}
    for epoch in range(first_epoch, 4):
        quarantine.sync()
        apply_quarantine(loader.sampler, quarantine)
        loader.sampler.set_epoch(epoch)
        for step, batch in enumerate(loader, 1):
            seen[epoch].append(delivered(batch))
            bad = {(1, 3): "b", (2, 4): "a"}.get((epoch, step))
            if bad and bad not in quarantine:
                quarantine.add([bad], reason="", cause="", epoch=epoch, batch=step)
            if (epoch, step) == (2, stop_after):
                checkpointer.save_checkpoint(end_of_epoch=False)
                return seen
    return seen


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_interrupted_epoch_goes_on_with_the_same_batches(
    tmp_path, utterances, num_workers
):
    whole = train(utterances, tmp_path / "whole")
    first = train(utterances, tmp_path / "cut", stop_after=5)
    rest = train(utterances, tmp_path / "cut", num_workers=num_workers)
    assert first[1] == whole[1]
    assert first[2] + rest[2] == whole[2]
    assert rest[3] == whole[3]
    ids = [{u for ids, _ in whole[epoch] for u in ids} for epoch in (1, 2, 3)]
    assert ids == [set("abcde"), set("acde"), set("cde")]


def test_the_checkpoint_is_stocks_and_older_ones_can_be_read(tmp_path, utterances):
    for left_out in ("", "b"):
        loader = make_loader(utterances)
        loader.sampler.set_quarantined(frozenset(left_out))
        loader.sampler.set_epoch(1)
        iterator = iter(loader)
        next(iterator)
        folder = tmp_path / f"without {left_out}"
        Checkpointer(folder, {"loader": loader}).save_checkpoint(end_of_epoch=False)
        for kind in (SaveableDataLoader, CropLoader):
            other = kind(loader.dataset, sampler=sampler_of(utterances))
            Checkpointer(folder, {"loader": other}).recover_if_possible()
            assert other._speechbrain_recovery_skip_to == 1
        beside = [path.name for path in folder.glob("CKPT*/*.json")]
        assert beside == (["loader.left_out.json"] if left_out else [])


def test_an_epoch_that_ended_is_not_resumed(tmp_path, utterances):
    loader = make_loader(utterances)
    loader.sampler.set_quarantined(frozenset("b"))
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == 12
    Checkpointer(tmp_path, {"loader": loader}).save_checkpoint()
    later = make_loader(utterances)
    Checkpointer(tmp_path, {"loader": later}).recover_if_possible()
    later.sampler.set_quarantined(frozenset("c"))
    later.sampler.set_epoch(2)
    assert later.sampler.left_out == {"c"}


def test_a_broken_list_in_a_checkpoint_is_told(tmp_path, utterances):
    loader = make_loader(utterances)
    loader.sampler.set_quarantined(frozenset("b"))
    loader.sampler.set_epoch(1)
    next(iter(loader))
    Checkpointer(tmp_path, {"loader": loader}).save_checkpoint(end_of_epoch=False)
    path = next(tmp_path.glob("CKPT*/*.json"))
    assert json.loads(path.read_text()) == ["b"]
    path.write_text('["b')
    with pytest.raises(UserError, match="can't be resumed.\n  Next: "):
        Checkpointer(
            tmp_path, {"loader": make_loader(utterances)}
        ).recover_if_possible()
