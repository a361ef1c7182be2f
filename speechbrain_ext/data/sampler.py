"""Randomness of data as a pure function of (seed, epoch, utt_id).

Nothing is drawn from a stream that somebody else also draws from. So a crop does not
depend on the number of workers, on the order of files, on resuming, or on which other
utterances were rejected or quarantined.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.errors import WorkError


def digest(*key: object) -> bytes:
    """Hash a key to 32 bytes, the same in every process."""
    # repr keeps ("a", 1) and ("a1",) apart. Python's own hash() is salted per process.
    return hashlib.sha256(repr(key).encode()).digest()


def fraction(*key: object) -> float:
    """Hash a key to a number in [0, 1); different keys are independent draws."""
    # 53 bits: with more, the largest would round to 1.
    return (int.from_bytes(digest(*key)[:8], "big") >> 11) / 2**53


def generator_for(
    seed: int, epoch: int, utt_id: str, purpose: str = ""
) -> np.random.Generator:
    """Return the random generator of one utterance in one epoch.

    Arguments
    ---------
    seed : int
        The experiment's seed.
    epoch : int
        Counted from any number.
    utt_id : str
        The utterance.
    purpose : str
        Keeps independent uses apart, such as ``"noise"`` and ``"reverb"``.

    Returns
    -------
    numpy.random.Generator
        A fresh PCG64; equal arguments give equal streams in every process.

    Example
    -------
    >>> a = generator_for(1, 0, "utt").random()
    >>> a == generator_for(1, 0, "utt").random() != generator_for(1, 1, "utt").random()
    True
    """
    key = digest(int(seed), int(epoch), str(utt_id), purpose)
    return np.random.Generator(np.random.PCG64(int.from_bytes(key, "big")))


class Crop(NamedTuple):
    """A piece of an utterance: where it starts, in samples."""

    utt_id: str
    start_samples: int


class CropSampler:
    """An epoch's list of random crops, longer utterances proportionally more often.

    Every utterance owns a time axis with cells of width ``1 / duration``; the k-th
    cell holds one arrival at a hashed place. The epoch is the first
    ``crops_per_epoch`` arrivals of all utterances, in order of arrival. Hence

    - the number of crops of an utterance is within 1 of proportional, give or take
      what the cut at the end decides;
    - an utterance comes back evenly through the epoch, in ever new order;
    - taking utterances away leaves the crops of the others, in their order, and adds
      new ones only at the end.

    Arguments
    ---------
    utterances : Mapping
        utt_id -> `Utterance`, all of one sample rate.
    crop_samples : int
        Length of a crop in samples (> 0). An utterance that is shorter starts at 0;
        the caller pads.
    crops_per_epoch : int
        How many crops an epoch has (> 0).
    seed : int
        The experiment's seed.

    Example
    -------
    >>> from pathlib import Path
    >>> one = Utterance("a", Path("a.wav"), 2.0, 16000, None, "")
    >>> [crop.utt_id for crop in CropSampler({"a": one}, 8000, 3, seed=1).crops(0)]
    ['a', 'a', 'a']
    """

    def __init__(
        self,
        utterances: Mapping[str, Utterance],
        crop_samples: int,
        crops_per_epoch: int,
        seed: int,
    ):
        if not utterances:
            raise ValueError(f"{type(self).__name__}: there are no utterances")
        if crop_samples <= 0 or crops_per_epoch <= 0:
            raise ValueError(
                f"{type(self).__name__}: crop_samples and crops_per_epoch must be "
                f"positive, got {crop_samples} and {crops_per_epoch}"
            )
        rates = {utterance.sample_rate for utterance in utterances.values()}
        if len(rates) > 1:
            raise ValueError(
                f"{type(self).__name__}: one sample rate expected, got "
                f"{sorted(rates)} Hz"
            )
        self.crop_samples = crop_samples
        self.crops_per_epoch = crops_per_epoch
        self.seed = seed
        self.num_samples = {
            utt_id: utterance.num_samples for utt_id, utterance in utterances.items()
        }

    def __len__(self) -> int:
        """Return the number of crops in an epoch."""
        return self.crops_per_epoch

    def crops(self, epoch: int, without: Collection[str] = ()) -> list[Crop]:
        """Return the crops of one epoch; a pure function of the arguments.

        Arguments
        ---------
        epoch : int
            Counted from any number.
        without : Collection[str]
            Utterances to leave out, such as those in quarantine: the crops are those
            of a manifest that never held them. Unknown ids are passed over.

        Returns
        -------
        list of Crop
            As many as ever, ``crops_per_epoch``.

        Raises
        ------
        WorkError
            If no utterance is left.
        """
        lengths = self.remaining(without)
        # Up to here each utterance has at least num_samples * horizon - 1 arrivals,
        # which sums to crops_per_epoch.
        horizon = (self.crops_per_epoch + len(lengths)) / sum(lengths.values())
        arrivals = (
            arrival
            for utt_id, length in lengths.items()
            for arrival in self._arrivals(utt_id, length, horizon, epoch)
        )
        first = heapq.nsmallest(self.crops_per_epoch, arrivals)
        return [Crop(utt_id, start) for _, utt_id, start in first]

    def remaining(self, without: Collection[str]) -> dict[str, int]:
        """Return utt_id -> length in samples of the utterances that are left.

        Raises
        ------
        WorkError
            If that is none.
        """
        left = {u: n for u, n in self.num_samples.items() if u not in without}
        if not left:
            raise WorkError(
                f"{type(self).__name__}: all {len(self.num_samples)} utterances of the "
                "train manifest are in quarantine; nothing is left to train on.\n"
                "  Next: see the reasons in quarantine.json beside debug_nan, mend the "
                "files and take them back: --nan_guard.keep_quarantined=true"
            )
        return left

    def _arrivals(self, utt_id: str, length: int, horizon: float, epoch: int):
        last_start = max(length - self.crop_samples, 0)
        for k in range(math.ceil(length * horizon)):
            key = digest(int(self.seed), int(epoch), utt_id, "crop", k)
            place = int.from_bytes(key[:8], "big") / 2**64
            start = int.from_bytes(key[8:16], "big") % (last_start + 1)
            yield (k + place) / length, utt_id, start
