"""Batches of a speaker task: right class and length, repeatable whatever happens."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_ext.brain.quarantine import QuarantineAware
from speechbrain_ext.data import Augment
from speechbrain_ext.data.loader import CropLoader, LostAudioError, read_samples
from speechbrain_ext.data.manifest import ManifestError, Utterance
from speechbrain_ext.data.speaker_loader import speaker_loader
from speechbrain_ext.errors import UserError

RATE, CROP = 8000, 1600
SPEAKERS = {"amy": 0, "bob": 1, "cyd": 2}
SPEEDS = (1.0, 0.9, 1.1)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wavs")
    draw = np.random.default_rng(0)
    found = {}
    for number, spk_id in enumerate(SPEAKERS):
        for j, seconds in enumerate((0.5, 0.07, 0.3)):
            name = f"{spk_id}-{j}"
            time = np.arange(round(seconds * RATE)) / RATE
            wav = 0.4 * np.sin(2 * np.pi * 200 * (number + 1) * time)
            wav += draw.normal(0, 0.01, len(wav))
            soundfile.write(folder / f"{name}.wav", wav, RATE)
            found[name] = Utterance(
                name, folder / f"{name}.wav", len(wav) / RATE, RATE, spk_id, ""
            )
    return found


def make(utterances, **settings):
    settings = {
        "crop_samples": CROP,
        "crops_per_epoch": 30,
        "batch_size": 6,
        "seed": 5,
        **settings,
    }
    return speaker_loader(utterances, SPEAKERS, **settings)


def epoch_of(loader, epoch=1):
    loader.sampler.set_epoch(epoch)
    return [(tuple(b.id), b.spk.tolist(), b.wav.data.numpy().tobytes()) for b in loader]


def test_batches_have_names_crops_and_classes(utterances):
    loader = make(utterances, speeds=SPEEDS)
    assert isinstance(loader, CropLoader)
    assert isinstance(loader.sampler, QuarantineAware)
    loader.sampler.set_epoch(1)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    classes = set()
    for batch in batches:
        assert batch.wav.data.shape == (6, CROP)
        assert batch.wav.data.dtype == torch.float32
        assert (batch.wav.lengths == 1).all()
        assert batch.spk.dtype == torch.int64
        assert batch.spk.shape == (6,)
        for utt_id, index in zip(batch.id, batch.spk.tolist(), strict=True):
            assert index % 3 == SPEAKERS[utt_id.split("-")[0]]
        classes |= set(batch.spk.tolist())
    assert classes == set(range(9))


def test_a_crop_at_speed_one_is_the_files_own_samples(utterances):
    loader = make(utterances)
    for crop in loader.sampler.crops.crops(1):
        whole = read_samples(utterances[crop.utt_id])
        piece = whole[crop.start_samples : crop.start_samples + CROP]
        laps = -(-CROP // len(piece))
        expected = np.tile(piece, laps)[:CROP]
        assert np.array_equal(loader.dataset[crop]["wav"].numpy(), expected)


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_faster_crop_is_higher_by_its_speed_and_as_loud(utterances, speed):
    loader = make(utterances, speeds=(speed,), crops_per_epoch=60)
    crops = [c for c in loader.sampler.crops.crops(1) if c.utt_id.endswith("-0")]
    for crop in crops[:6]:
        wav = loader.dataset[crop]["wav"].numpy()
        assert len(wav) == CROP
        spectrum = np.abs(np.fft.rfft(wav * np.hanning(CROP), 8 * CROP))
        pitch = np.argmax(spectrum) * RATE / (8 * CROP)
        number = SPEAKERS[crop.utt_id.split("-")[0]] + 1
        assert pitch == pytest.approx(200 * number * speed, abs=1.5)
        middle = wav[100:-100]
        assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / 2**0.5, rel=0.03)


@pytest.mark.parametrize("crops_per_epoch", [1, 29, 30, 31])
def test_no_crop_is_left_over_at_the_end_of_an_epoch(utterances, crops_per_epoch):
    loader = make(utterances, crops_per_epoch=crops_per_epoch)
    crops = loader.sampler.crops.crops(1)
    delivered = [utt_id for ids, _, _ in epoch_of(loader) for utt_id in ids]
    assert delivered == [crop.utt_id for crop in crops]
    assert crops_per_epoch <= len(delivered) < crops_per_epoch + 6


@pytest.mark.parametrize("is_augmented", [False, True])
def test_batches_do_not_depend_on_workers_or_on_other_epochs(utterances, is_augmented):
    augment = Augment(noise_prob=1, reverb_prob=1, eq_prob=1) if is_augmented else None
    one = make(utterances, augment=augment, speeds=SPEEDS)
    first, second = epoch_of(one, 1), epoch_of(one, 2)
    two = make(utterances, augment=augment, speeds=SPEEDS, num_workers=2)
    assert epoch_of(two, 2) == second
    assert first != second


def test_crops_of_one_utterance_get_different_noise(utterances):
    only = {"amy-1": utterances["amy-1"]}  # shorter than a crop: always the same piece
    augment = Augment(noise_prob=1, reverb_prob=0, eq_prob=0)
    loader = make(only, augment=augment, crops_per_epoch=6)
    loader.sampler.set_epoch(1)
    (batch,) = loader
    assert len({wav.numpy().tobytes() for wav in batch.wav.data}) == 6


def test_a_quarantined_utterance_is_neither_drawn_nor_heard_in_babble(
    utterances, tmp_path
):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.full(RATE, np.inf), RATE, subtype="FLOAT")
    bad = Utterance("cyd-0", path, 1.0, RATE, "cyd", "")
    augment = Augment(noise_prob=1, reverb_prob=0, eq_prob=0)
    never = {u: x for u, x in utterances.items() if u != "cyd-0"}
    loader = make({**utterances, "cyd-0": bad}, augment=augment)
    loader.sampler.set_quarantined(frozenset({"cyd-0"}))
    assert epoch_of(loader, 2) == epoch_of(make(never, augment=augment), 2)


def test_ranks_share_what_all_would_draw(utterances):
    shares = [
        epoch_of(make(utterances, rank=rank, world_size=2, batch_size=3))
        for rank in range(2)
    ]
    balanced = make(utterances, world_size=2, batch_size=3).sampler.crops.crops(1)
    drawn = [[utt_id for ids, _, _ in share for utt_id in ids] for share in shares]
    assert drawn == [[c.utt_id for c in balanced[rank::2]] for rank in range(2)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_interrupted_epoch_goes_on_with_the_same_batches(
    tmp_path, utterances, num_workers
):
    def fresh(num_workers=0):
        augment = Augment(noise_prob=1)
        return make(utterances, augment=augment, num_workers=num_workers)

    whole = fresh()
    whole.sampler.set_quarantined(frozenset({"bob-2"}))
    expected = epoch_of(whole)
    cut = fresh()
    cut.sampler.set_quarantined(frozenset({"bob-2"}))
    cut.sampler.set_epoch(1)
    iterator = iter(cut)
    for _ in range(2):
        next(iterator)
    Checkpointer(tmp_path, {"loader": cut}).save_checkpoint(end_of_epoch=False)
    later = fresh(num_workers)
    Checkpointer(tmp_path, {"loader": later}).recover_if_possible()
    assert epoch_of(later) == expected[2:]


def test_a_speaker_without_an_index_is_named(utterances):
    stranger = Utterance("dan-0", utterances["amy-0"].wav, 0.5, RATE, "dan", "")
    with pytest.raises(ManifestError, match=r"dan-0 .spk_id 'dan'.*prepare"):
        make({**utterances, "dan-0": stranger})
    nobody = Utterance("x", utterances["amy-0"].wav, 0.5, RATE, None, "")
    with pytest.raises(ManifestError, match="x .spk_id None"):
        make({**utterances, "x": nobody})
    with pytest.raises(ValueError, match="must be 0 to 1, each once"):
        speaker_loader(
            utterances,
            {"amy": 0, "bob": 2},
            crop_samples=CROP,
            crops_per_epoch=1,
            batch_size=1,
            seed=0,
        )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_cut_short_after_preparation_is_named(tmp_path, num_workers):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0), RATE)
    gone = {"amy-0": Utterance("amy-0", path, 9.0, RATE, "amy", "")}
    loader = make(gone, num_workers=num_workers)
    with pytest.raises(UserError, match="^amy-0: .*ends before sample") as caught:
        epoch_of(loader)
    assert isinstance(caught.value, LostAudioError)
