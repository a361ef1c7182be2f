"""From manifests to batches: random crops to train on, whole utterances to score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch.utils.data import Dataset, Sampler

from speechbrain_ext.data.manifest import ManifestError, Utterance
from speechbrain_ext.data.sampler import Crop, CropSampler
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json


class LostAudioError(ManifestError):
    """A file that was there when the manifest was verified can't be read any more."""

    def __init__(self, message: str):
        # A loader process hands over its traceback; the message stands at its end.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class CropDataset(Dataset):
    """Reads crops ``(utt_id, start)`` straight from their files.

    Arguments
    ---------
    utterances : Mapping[str, Utterance]
        What `read_manifest` returned.
    crop_samples : int
        Length of each item; a shorter utterance is padded with zeros at its end.

    Items are dicts ``{"id": str, "wav": float32 tensor [crop_samples]}``.

    Raises
    ------
    LostAudioError
        If a file can't be read any more; the message names utterance and file.
    """

    def __init__(self, utterances: Mapping[str, Utterance], crop_samples: int):
        self.utterances = utterances
        self.crop_samples = crop_samples

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, crop: Crop) -> dict:
        utterance = self.utterances[crop.utt_id]
        wav = read_samples(utterance, crop.start_samples, self.crop_samples)
        missing = self.crop_samples - len(wav)
        if missing:
            wav = np.pad(wav, (0, missing))
        return {"id": crop.utt_id, "wav": torch.from_numpy(wav)}


class UtteranceDataset(Dataset):
    """Whole utterances in manifest order, as ``{"id": str, "wav": tensor [time]}``."""

    def __init__(self, utterances: Mapping[str, Utterance]):
        self.utterances = list(utterances.values())

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict:
        utterance = self.utterances[index]
        wav = torch.from_numpy(read_samples(utterance))
        return {"id": utterance.utt_id, "wav": wav}


def read_samples(utterance: Utterance, start: int = 0, count: int = -1) -> np.ndarray:
    """Read float32 samples [time] of one prepared (mono) utterance."""
    try:
        wav, _ = soundfile.read(
            utterance.wav, frames=count, start=start, dtype="float32"
        )
    except (soundfile.LibsndfileError, OSError) as error:
        raise LostAudioError(
            f"{utterance.utt_id}: {utterance.wav} can't be read any more ({error}); "
            "prepare the data again: ./run.sh --stage prepare --force"
        ) from error
    return wav


class EpochCrops(Sampler):
    """A torch sampler over the crops of the current epoch, a share for each rank.

    ``set_epoch`` is called by ``Brain.fit`` when this is the Brain's
    ``train_sampler``; an epoch's crops depend on nothing that happened before, except
    for which utterances were in quarantine when it began.

    Attributes
    ----------
    left_out : frozenset of str
        Utterances that the current epoch goes without; fixed when it began.
    """

    def __init__(self, crops: CropSampler, rank: int = 0, world_size: int = 1):
        self.crops = crops
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.left_out: frozenset[str] = frozenset()
        self._quarantined: frozenset[str] = frozenset()
        self._resumed: frozenset[str] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch
        if self._resumed is None:
            self.left_out = self._quarantined
        else:
            self.left_out, self._resumed = self._resumed, None

    def set_quarantined(self, utt_ids: frozenset[str]) -> None:
        """Leave utterances out from the next ``set_epoch`` on; see `QuarantineAware`.

        Raises
        ------
        WorkError
            If no utterance would be left.
        """
        self.crops.remaining(utt_ids)
        self._quarantined = frozenset(utt_ids).intersection(self.crops.num_samples)

    def resume_without(self, utt_ids: frozenset[str]) -> None:
        """Let the next epoch, an interrupted one, go without what it began without."""
        self._resumed = utt_ids

    def __len__(self) -> int:
        return len(self.crops) // self.world_size

    def __iter__(self) -> Iterator[Crop]:
        crops = self.crops.crops(self.epoch, self.left_out)
        return iter(crops[self.rank :: self.world_size][: len(self)])


@register_checkpoint_hooks
class CropLoader(SaveableDataLoader):
    """A loader over `EpochCrops` that resumes within an epoch, quarantine or not.

    Its checkpoint is that of ``SaveableDataLoader``. If the epoch goes without some
    utterances, these stand beside it in ``<name>.left_out.json``, so that the rest of
    the epoch is the same after an interruption.
    """

    @mark_as_saver
    def _save_with_quarantine(self, path):
        self._speechbrain_save(path)
        if self.sampler.left_out:
            write_json(_left_out_file(path), sorted(self.sampler.left_out))

    @mark_as_loader
    def _load_with_quarantine(self, path, end_of_epoch):
        self._speechbrain_load(path, end_of_epoch)
        if self._speechbrain_recovery_skip_to is not None and not end_of_epoch:
            self.sampler.resume_without(_read_left_out(_left_out_file(path)))


def _left_out_file(path: str | Path) -> Path:
    # Not .ckpt: stock SpeechBrain would take it for an object of its own.
    return Path(path).with_suffix(".left_out.json")


def _read_left_out(path: Path) -> frozenset[str]:
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: can't be read as a list of utterances ({error}); the epoch can't "
            f"be resumed.\n  Next: remove the checkpoint: rm -r {path.parent}"
        ) from error


def crop_loader(
    utterances: Mapping[str, Utterance],
    *,
    crop_samples: int,
    crops_per_epoch: int,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> CropLoader:
    """Training batches of equal crops; its sampler is an `EpochCrops`.

    Arguments
    ---------
    utterances : Mapping[str, Utterance]
        The train manifest.
    crop_samples, crops_per_epoch, seed : int
        See `CropSampler`.
    batch_size : int
        Crops in a batch, per rank; an incomplete last batch is left out.
    num_workers : int
        Loader processes; the crops do not depend on it.
    rank, world_size : int
        This process's share in distributed training.

    Returns
    -------
    CropLoader
        Yields PaddedBatch with ``id`` (list of str) and ``wav``
        ([batch, crop_samples]).
    """
    crops = CropSampler(utterances, crop_samples, crops_per_epoch, seed)
    return loader_of(
        CropDataset(utterances, crop_samples),
        EpochCrops(crops, rank, world_size),
        batch_size,
        num_workers,
    )


def loader_of(
    dataset: CropDataset, sampler: EpochCrops, batch_size: int, num_workers: int
) -> CropLoader:
    """Batches of the items that a sampler names; an incomplete last one is left out."""
    return CropLoader(
        dataset,
        sampler=sampler,
        batch_size=batch_size,
        drop_last=True,
        collate_fn=PaddedBatch,
        num_workers=num_workers,
    )


def utterance_loader(
    utterances: Mapping[str, Utterance], num_workers: int = 0
) -> SaveableDataLoader:
    """Whole utterances one by one, so that no padding touches a score."""
    return SaveableDataLoader(
        UtteranceDataset(utterances),
        batch_size=1,
        collate_fn=PaddedBatch,
        num_workers=num_workers,
    )
