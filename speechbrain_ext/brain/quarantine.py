"""Utterances that were proven to make batches non-finite are left out, and listed.

At once, by masking batches that are on their way; from the next epoch on by samplers
that can be told; and in later runs, by the list of `quarantine_file`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.brain.batches import select_rows, utterance_ids
from speechbrain_ext.brain.quarantine_file import (
    QuarantineError,
    path_from,
    read_quarantine,
    write_quarantine,
)

logger = logging.getLogger(__name__)


@runtime_checkable
class QuarantineAware(Protocol):
    """A sampler that can leave utterances out; `EpochCrops` is one.

    What it must keep to, so that a run stays a pure function of (seed, epoch,
    quarantine):

    - the call takes effect at the next ``set_epoch``, never within an epoch: items of
      the current one are masked by `Quarantine.mask`;
    - it replaces what earlier calls said: an utterance that is not named comes back;
    - the others are drawn as if the utterances had never been in the manifest; ids it
      does not know are passed over;
    - an epoch that is resumed from a checkpoint has the set it started with;
    - `WorkError` if nothing would be left.
    """

    def set_quarantined(self, utt_ids: frozenset[str]) -> None:
        """Leave these utterances out from the next epoch on."""


class Quarantine:
    """Utterances that are left out of training, kept for later runs in a file.

    Arguments
    ---------
    path : Path or None
        ``quarantine.json``; it need not be there. None: nothing is kept.
    keep : bool
        Take back the utterances that earlier runs put there: none of those entries
        holds any more, and the file says so from the next `add` or `sync` on. New
        ones are recorded as usual.

    Attributes
    ----------
    entries : dict
        utt_id -> ``{"reason", "cause", "epoch", "batch", "dump"}`` of the utterances
        that are left out now.

    Raises
    ------
    QuarantineError
        If the file is there but is not such a list.

    Example
    -------
    >>> quarantine = Quarantine(None)
    >>> quarantine.add(["b"], reason="wav: NaN", cause="input non-finite", epoch=1,
    ...     batch=7)
    ['b']
    >>> quarantine.mask({"id": ["a", "b"], "wav": torch.zeros(2, 8)})["id"]
    ['a']
    """

    def __init__(self, path: str | os.PathLike | None, *, keep: bool = False):
        self.path = None if path is None else Path(path)
        self.entries: dict[str, dict[str, Any]] = {}
        self._taken_back: dict[str, dict[str, Any]] = {}
        self._unwritten = False
        self._told_uncut = False
        for utt_id, entry in read_quarantine(self.path).items():
            was_taken_back = entry.pop("taken_back", False)
            if keep or was_taken_back:
                self._taken_back[utt_id] = entry
                self._unwritten |= not was_taken_back
            else:
                self.entries[utt_id] = entry

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, utt_id: str) -> bool:
        return utt_id in self.entries

    @property
    def utt_ids(self) -> frozenset[str]:
        """Ids of the utterances that are left out now."""
        return frozenset(self.entries)

    def add(
        self,
        utt_ids: Iterable[str],
        *,
        reason: str,
        cause: str,
        epoch: int,
        batch: int,
        dump: str | os.PathLike | None = None,
        everywhere: bool = False,
    ) -> list[str]:
        """Put utterances into quarantine and write the file (on the main rank).

        Arguments
        ---------
        utt_ids : Iterable[str]
            Those proven to be the cause.
        reason, cause : str
            For people, and one of the causes of the diagnosis.
        epoch, batch : int
            Where it showed.
        dump : path or None
            The dump of that batch.
        everywhere : bool
            Write the file on this rank whichever it is, together with what stands in
            it: for a rank that is about to end and will not see another `sync`. If
            several ranks end within the same milliseconds, the last to write wins.

        Returns
        -------
        list of str
            Those that were not there yet. A disk that can't be written costs a
            warning; the utterances are left out all the same.
        """
        new = [u for u in dict.fromkeys(map(str, utt_ids)) if u not in self.entries]
        for utt_id in new:
            self._taken_back.pop(utt_id, None)
            self.entries[utt_id] = {
                "reason": str(reason),
                "cause": str(cause),
                "epoch": int(epoch),
                "batch": int(batch),
                "dump": path_from(self.path, dump),
            }
        if new:
            self._unwritten = True
            self._write(everywhere=everywhere)
        return new

    def mask(self, batch: Any) -> Any:
        """Take quarantined utterances out of a batch that is already on its way.

        Without an entry it costs nothing; else time in the number of ids. Batches
        whose ids do not travel as ``id`` or ``utt_id`` pass as they are.

        Arguments
        ---------
        batch : Any
            As the loader delivered it.

        Returns
        -------
        Any
            The same object if nothing in it is in quarantine; a new batch of the other
            utterances (see `select_rows`); None if none is left, or if this kind of
            batch can't be cut, which is said once.
        """
        if not self.entries:
            return batch
        utt_ids = utterance_ids(batch)
        keep = [row for row, u in enumerate(utt_ids) if u not in self.entries]
        if len(keep) == len(utt_ids):
            return batch
        rest = select_rows(batch, keep) if keep else None
        if keep and rest is None and not self._told_uncut:
            self._told_uncut = True
            logger.warning(
                "quarantine: a %s of this shape can't be cut into utterances; batches "
                "with a quarantined utterance are left out whole",
                type(batch).__name__,
            )
        return rest

    def sync(self) -> None:
        """Give all ranks the union of their lists in one order; no-op alone.

        A collective: all ranks call it at the same place. Also writes what could not
        be written before.
        """
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            gathered: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(gathered, self.entries)
            union: dict[str, dict[str, Any]] = {}
            for entries in gathered:
                for utt_id, entry in entries.items():
                    union.setdefault(utt_id, entry)
            self._unwritten |= union.keys() != self.entries.keys()
            self.entries = union
            for utt_id in union:
                self._taken_back.pop(utt_id, None)
        if self._unwritten:
            self._write()

    def _write(self, *, everywhere: bool = False) -> None:
        if self.path is None or not (everywhere or if_main_process()):
            return
        entries = self.entries
        try:
            if everywhere:
                known = self.entries.keys() | self._taken_back.keys()
                found = read_quarantine(self.path)
                others = {u: entry for u, entry in found.items() if u not in known}
                entries = others | entries
            write_quarantine(self.path, entries, self._taken_back)
        except (OSError, QuarantineError) as error:  # must not end the run
            logger.warning("quarantine: %s can't be written: %s", self.path, error)
            return
        self._unwritten = False


def apply_quarantine(sampler: Any, quarantine: Quarantine) -> bool:
    """Tell a sampler which utterances to leave out from the next epoch on.

    Arguments
    ---------
    sampler : Any
        A sampler, or what holds one as ``sampler``, ``batch_sampler`` or ``loader``:
        SpeechBrain's distributed wrapper, a batch sampler, a loader. None is allowed.
    quarantine : Quarantine
        After its `sync`, so that all ranks leave out the same.

    Returns
    -------
    bool
        True if there is a `QuarantineAware` sampler; without one masking alone keeps
        the utterances out, and their batches are smaller.

    Raises
    ------
    WorkError
        If no utterance would be left; from the sampler.
    """
    seen: set[int] = set()
    waiting = [sampler]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, QuarantineAware):
            one.set_quarantined(quarantine.utt_ids)
            return True
        waiting += [
            getattr(one, name, None) for name in ("sampler", "batch_sampler", "loader")
        ]
    return False
