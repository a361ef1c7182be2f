"""Batches to train a speaker encoder on: balanced crops with their class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from speechbrain_ext.data.audio import resample
from speechbrain_ext.data.augment import Augment
from speechbrain_ext.data.balanced import (
    BalancedCrops,
    SpeakerCrop,
    source_samples,
    speed_ratio,
)
from speechbrain_ext.data.loader import (
    CropDataset,
    CropLoader,
    EpochCrops,
    LostAudioError,
    loader_of,
    read_samples,
)
from speechbrain_ext.data.manifest import ManifestError, Utterance
from speechbrain_ext.data.noise import Voices


class SpeakerCropDataset(CropDataset):
    """Reads crops of `BalancedCrops`, plays them at their speed and augments them.

    Arguments
    ---------
    utterances : Mapping[str, Utterance]
        What `read_manifest` returned.
    speakers : Mapping[str, int]
        spk_id -> index.
    crop_samples : int
        Length of each item; a shorter utterance is repeated.
    speeds : Sequence of float
        All speeds, in the order of their classes.
    augment : Augment, optional
        Applied to each crop.
    voices : Voices, optional
        Where babble comes from.

    Items are dicts ``{"id": str, "wav": float32 tensor [crop_samples], "spk": int}``,
    with ``spk = speaker + num_speakers * speed_index``.

    Raises
    ------
    LostAudioError
        If a file can't be read any more; the message names utterance and file.
    """

    def __init__(
        self,
        utterances: Mapping[str, Utterance],
        speakers: Mapping[str, int],
        crop_samples: int,
        *,
        speeds: Sequence[float] = (1.0,),
        augment: Augment | None = None,
        voices: Voices | None = None,
    ):
        super().__init__(utterances, crop_samples)
        self.speakers = dict(speakers)
        self.speeds = [float(speed) for speed in speeds]
        self.augment, self.voices = augment, voices

    def __getitem__(self, crop: SpeakerCrop) -> dict:
        utterance = self.utterances[crop.utt_id]
        wav = self._played(utterance, crop)
        if self.augment is not None:
            wav = self.augment(
                wav,
                utterance.sample_rate,
                utt_id=crop.utt_id,
                epoch=crop.epoch,
                use=crop.use,
                spk_id=utterance.spk_id,
                voices=self.voices,
            )
        spk = self.speakers[utterance.spk_id]
        spk += len(self.speakers) * self.speeds.index(crop.speed)
        return {"id": crop.utt_id, "wav": torch.from_numpy(wav), "spk": spk}

    def _played(self, utterance: Utterance, crop: SpeakerCrop) -> np.ndarray:
        count = source_samples(self.crop_samples, crop.speed)
        wav = read_samples(utterance, crop.start_samples, count)
        if not len(wav):
            raise LostAudioError(
                f"{utterance.utt_id}: {utterance.wav} ends before sample "
                f"{crop.start_samples}, the manifest says {utterance.num_samples}; "
                "prepare the data again: ./run.sh --stage prepare --force"
            )
        if len(wav) < count:
            wav = np.resize(wav, count)  # repeats it
        if crop.speed != 1.0:
            wav = resample(wav, *speed_ratio(crop.speed))[: self.crop_samples]
        return wav


def speaker_loader(
    utterances: Mapping[str, Utterance],
    speakers: Mapping[str, int],
    *,
    crop_samples: int,
    crops_per_epoch: int,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    speeds: Sequence[float] = (1.0,),
    balance: float = 1.0,
    utterance_balance: float = 1.0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> CropLoader:
    """Training batches of equal crops with their classes.

    Epochs, quarantine and resuming are those of `EpochCrops` and `CropLoader`. There
    are ``len(speakers) * len(speeds)`` classes: a voice played faster is another one
    (Yamamoto et al., 2019, "Speaker augmentation and bandwidth extension").

    Arguments
    ---------
    utterances : Mapping[str, Utterance]
        The train manifest.
    speakers : Mapping[str, int]
        spk_id -> index, 0 to the number of speakers - 1.
    crop_samples, crops_per_epoch, seed, speeds, balance, utterance_balance
        See `BalancedCrops`; ``crops_per_epoch`` are rounded up to whole batches.
    batch_size : int
        Crops in a batch, per rank.
    augment : Augment, optional
        Noise, rooms and the like, other ones for each crop.
    num_workers : int
        Loader processes; the batches do not depend on it.
    rank, world_size : int
        This process's share in distributed training.

    Returns
    -------
    CropLoader
        Yields PaddedBatch with ``id`` (list of str), ``wav`` ([batch, crop_samples])
        and ``spk`` (class indices, int64 [batch]).

    Raises
    ------
    ManifestError
        If an utterance has no speaker, or one that is not in ``speakers``.
    ValueError
        If a setting is out of its range.
    """
    if sorted(speakers.values()) != list(range(len(speakers))):
        raise ValueError(
            f"speaker_loader: indices of {len(speakers)} speakers must be 0 to "
            f"{len(speakers) - 1}, each once, got {sorted(speakers.values())[:20]}"
        )
    unknown = sorted(u for u, x in utterances.items() if x.spk_id not in speakers)
    if unknown:
        raise ManifestError(
            f"speaker_loader: {len(unknown)} utterances have no known speaker, such as "
            f"{unknown[0]} (spk_id {utterances[unknown[0]].spk_id!r}); make the "
            "manifest again: ./run.sh --stage prepare --force, or train from the start "
            "under another --tag"
        )
    crops = BalancedCrops(
        utterances,
        crop_samples,
        crops_per_epoch,
        seed,
        balance=balance,
        utterance_balance=utterance_balance,
        speeds=speeds,
        batch_size=batch_size,
        world_size=world_size,
    )
    sampler = EpochCrops(crops, rank, world_size)
    dataset = SpeakerCropDataset(
        utterances,
        speakers,
        crop_samples,
        speeds=crops.speeds,
        augment=augment,
        voices=None if augment is None else Voices(utterances, sampler),
    )
    return loader_of(dataset, sampler, batch_size, num_workers)
