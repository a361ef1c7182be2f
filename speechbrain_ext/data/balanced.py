"""Which crops of which speakers make the batches of an epoch."""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.sampler import CropSampler, digest, fraction

# Multiples of it, modulo 1, leave no large gap however many there are.
_GOLDEN = (math.sqrt(5) - 1) / 2
_SLOWEST, _FASTEST = 0.5, 2.0


class SpeakerCrop(NamedTuple):
    """A piece of an utterance, and how it is to be played.

    Arguments
    ---------
    utt_id : str
        The utterance.
    start_samples : int
        Where the piece starts in the file.
    speed : float
        Tempo and pitch factor; above 1 is faster and higher.
    epoch : int
        The epoch it was drawn for.
    use : int
        How often the utterance came before in this epoch. With ``epoch`` it makes the
        crop's own randomness, such as its noise.
    """

    utt_id: str
    start_samples: int
    speed: float = 1.0
    epoch: int = 0
    use: int = 0


@functools.lru_cache(maxsize=64)
def speed_ratio(speed: float) -> tuple[int, int]:
    """Express a speed as a ratio of sample rates, (read, played).

    Example
    -------
    >>> speed_ratio(1.1), speed_ratio(0.9)
    ((11, 10), (9, 10))
    """
    ratio = Fraction(speed).limit_denominator(100)
    return ratio.numerator, ratio.denominator


def source_samples(crop_samples: int, speed: float) -> int:
    """Return how many samples to read for a crop that is played at a speed."""
    read, played = speed_ratio(speed)
    return math.ceil(crop_samples * read / played)


class BalancedCrops(CropSampler):
    """An epoch's crops, balanced over speakers and spread over its batches.

    How often a speaker comes is fixed first, then in which batches, then with what:

    - A speaker with D seconds weighs ``D ** (1 - balance)``. With ``balance`` 1 all
      speakers come equally often in an epoch, give or take one.
    - Crops are dealt to the batches like cards, one speaker after the other, so each
      batch holds as many different speakers as there can be: a speaker of n crops is
      in ``n // batches`` or one more rows of every batch. Nothing collides, so nothing
      is dropped, with more rows than speakers, too.
    - A speaker's utterances come in turn, each before any comes again (with
      ``utterance_balance`` 1; below, longer ones in proportion more often). The turn
      goes on from a new place in each epoch (golden-ratio steps), so that utterances
      are used evenly over epochs that are too short for all of them.
    - The speeds of a speaker come equally often, too, in ever new order.

    All is a pure function of (seed, epoch). Taking an utterance away changes the crops
    of its speaker only (with ``balance`` 1, where the others stand, too); taking a
    whole speaker away leaves the others' crops and adds further ones.

    Arguments
    ---------
    utterances : Mapping
        utt_id -> `Utterance` with ``spk_id``, all of one sample rate.
    crop_samples : int
        Length of a crop in samples as it is played (> 0).
    crops_per_epoch : int
        How many crops an epoch has at least (> 0): they are rounded up to whole batches
        on all ranks, so no crop is left over at the end.
    seed : int
        The experiment's seed.
    balance : float
        In [0, 1]: 1 = every speaker equally often, 0 = in proportion to their seconds.
    utterance_balance : float
        In [0, 1], among the utterances of a speaker: one of d seconds weighs
        ``d ** (1 - utterance_balance)``.
    speeds : Sequence of float
        Speeds to play crops at, each from 0.5 to 2.
    batch_size : int
        Rows of a batch on one rank.
    world_size : int
        Number of ranks; `EpochCrops` gives rank r the crops ``[r::world_size]``.

    Raises
    ------
    ValueError
        If a setting is out of its range, or an utterance has no speaker.

    Example
    -------
    >>> from pathlib import Path
    >>> names = ("a1", "a2", "b1")
    >>> found = {u: Utterance(u, Path(u), 2.0, 16000, u[0], "") for u in names}
    >>> crops = BalancedCrops(found, 8000, 4, seed=1, batch_size=2).crops(0)
    >>> sorted(crop.utt_id for crop in crops)
    ['a1', 'a2', 'b1', 'b1']
    """

    def __init__(
        self,
        utterances: Mapping[str, Utterance],
        crop_samples: int,
        crops_per_epoch: int,
        seed: int,
        *,
        balance: float = 1.0,
        utterance_balance: float = 1.0,
        speeds: Sequence[float] = (1.0,),
        batch_size: int = 1,
        world_size: int = 1,
    ):
        super().__init__(utterances, crop_samples, crops_per_epoch, seed)
        faults = []
        for name, value in (
            ("balance", balance),
            ("utterance_balance", utterance_balance),
        ):
            if not 0 <= value <= 1:
                faults.append(f"{name} must be in [0, 1], got {value}")
        if batch_size < 1 or world_size < 1:
            faults.append(
                "batch_size and world_size must be >= 1, got "
                f"{batch_size} and {world_size}"
            )
        in_range = all(_SLOWEST <= speed <= _FASTEST for speed in speeds)
        if not (speeds and in_range and len(set(speeds)) == len(speeds)):
            faults.append(
                f"speeds must be different numbers from {_SLOWEST} to {_FASTEST}, at "
                f"least one, got {list(speeds)}"
            )
        nameless = sorted(u for u, x in utterances.items() if x.spk_id is None)
        if nameless:
            faults.append(
                f"{len(nameless)} utterances have no spk_id in the manifest, such as "
                f"{nameless[0]}"
            )
        if faults:
            raise ValueError("BalancedCrops: " + "; ".join(faults))
        self.balance, self.utterance_balance = balance, utterance_balance
        self.speeds = tuple(float(speed) for speed in speeds)
        self.batch_size, self.world_size = batch_size, world_size
        whole = batch_size * world_size
        self.crops_per_epoch = math.ceil(crops_per_epoch / whole) * whole
        self.spk_of = {u: utterance.spk_id for u, utterance in utterances.items()}

    def crops(self, epoch: int, without: Collection[str] = ()) -> list[SpeakerCrop]:
        """Return the crops of one epoch, as `CropSampler.crops` promises it.

        They are ``crops_per_epoch``; those of the ranks take turns.
        """
        lengths_of: dict[str, dict[str, int]] = {}
        for utt_id, length in sorted(self.remaining(without).items()):
            lengths_of.setdefault(self.spk_of[utt_id], {})[utt_id] = length
        speakers = sorted(lengths_of)
        weights = [
            sum(lengths_of[spk_id].values()) ** (1 - self.balance)
            for spk_id in speakers
        ]
        places = [self._fraction(epoch, spk_id, "place") for spk_id in speakers]
        counts = _counts(np.array(weights), np.array(places), self.crops_per_epoch)
        turns = [
            iter(self._turns(epoch, spk_id, lengths_of[spk_id], int(count)))
            for spk_id, count in zip(speakers, counts, strict=True)
        ]
        num_batches = self.crops_per_epoch // self.batch_size
        dealt = _deal(counts, np.argsort(places), num_batches)
        by_rank = dealt.reshape(-1, self.world_size, self.batch_size)
        return [next(turns[index]) for index in by_rank.transpose(0, 2, 1).flat]

    def _turns(self, epoch: int, spk_id: str, lengths: dict[str, int], count: int):
        """Yield the crops of one speaker in the order in which they are used."""
        order = sorted(lengths, key=lambda utt_id: digest(self.seed, utt_id, "turn"))
        # The n utterances lie on a circle of length n, each on an arc as long as its
        # weight. A lap visits n points of it, 1 apart.
        weights = np.array([lengths[u] for u in order], float)
        weights **= 1 - self.utterance_balance
        ends = np.cumsum(weights * (len(order) / weights.sum())).tolist()
        start = self._fraction(None, spk_id, "start") + epoch * _GOLDEN
        uses: Counter[str] = Counter()
        for turn in range(count):
            lap, step = divmod(turn, len(order))
            offset = len(order) * (start % 1) + lap * _GOLDEN % 1
            point = (math.floor(offset) + step) % len(order) + offset % 1
            utt_id = order[min(bisect_right(ends, point), len(order) - 1)]
            speed = self._speed(epoch, spk_id, turn)
            use = uses[utt_id]
            uses[utt_id] += 1
            last = lengths[utt_id] - source_samples(self.crop_samples, speed)
            place = self._fraction(epoch, utt_id, "crop", use)
            start_samples = int(place * (max(last, 0) + 1))
            yield SpeakerCrop(utt_id, start_samples, speed, epoch, use)

    def _speed(self, epoch: int, spk_id: str, turn: int) -> float:
        if len(self.speeds) == 1:
            return self.speeds[0]
        lap, step = divmod(turn, len(self.speeds))
        shuffled = sorted(
            self.speeds,
            key=lambda speed: self._fraction(epoch, spk_id, "speed", lap, speed),
        )
        return shuffled[step]

    def _fraction(self, epoch: int | None, *key: object) -> float:
        return fraction(int(self.seed), epoch if epoch is None else int(epoch), *key)


def _counts(weights: np.ndarray, places: np.ndarray, total: int) -> np.ndarray:
    """Share out ``total`` crops by weight; places in [0, 1) decide the remainders.

    As in `CropSampler`, the k-th crop of a speaker arrives at (k + place) / weight, and
    the first arrivals of all speakers are taken.
    """
    horizon = (total + len(weights)) / weights.sum()
    numbers = np.ceil(weights * horizon).astype(int)
    index = np.repeat(np.arange(len(weights)), numbers)
    k = np.arange(len(index)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    arrivals = (k + places[index]) / weights[index]
    first = np.argsort(arrivals, kind="stable")[:total]
    return np.bincount(index[first], minlength=len(weights))


def _deal(counts: np.ndarray, order: np.ndarray, num_batches: int) -> np.ndarray:
    """Deal speakers to batches, [num_batches, rows] of indices.

    Batches are gone through with a stride near the golden ratio and not one by one, so
    that a speaker who does not reach all batches is spread over the whole epoch.
    """
    cards = np.repeat(order, counts[order])
    stride = max(1, round(num_batches * _GOLDEN))
    while math.gcd(stride, num_batches) > 1:
        stride += 1
    batch_of = np.arange(len(cards)) * stride % num_batches
    return cards[np.argsort(batch_of, kind="stable")].reshape(num_batches, -1)
