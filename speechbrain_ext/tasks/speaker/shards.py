"""Embeddings that are done survive a run that is killed."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from speechbrain_ext.scoring.embeddings import EmbeddingError, EmbeddingSet

#: A new shard is written after this time, in seconds: the most that a kill costs.
_SECONDS_A_SHARD = 10.0


class Shards:
    """A folder of small `EmbeddingSet` files, believed only as far as they fit.

    A vector is taken over if its shard was made by the same checkpoint and system,
    and its stamp (audio and settings) is the one wanted.

    Arguments
    ---------
    folder : str or PathLike
        Where the shards are; made when the first is written.
    checkpoint, system : str
        What makes the vectors now; see `EmbeddingSet`.
    wanted : Mapping
        utt_id -> stamp of all utterances that shall be embedded.
    finished : Iterable of EmbeddingSet
        Earlier results that may hold some of them too.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        checkpoint: str,
        system: str,
        wanted: Mapping[str, str],
        finished: Iterable[EmbeddingSet] = (),
    ):
        self.folder = Path(folder)
        self.checkpoint, self.system, self.wanted = checkpoint, system, wanted
        self._vectors: dict[str, np.ndarray] = {}
        self._seconds: dict[str, float] = {}
        self._unsaved: list[str] = []
        self._saved_at = time.monotonic()
        for shard in itertools.chain(finished, self._read()):
            self._take(shard)
        #: utterances that were done before
        self.num_reused = len(self._vectors)

    def _read(self) -> Iterable[EmbeddingSet]:
        for path in sorted(self.folder.glob("*.npz")):
            try:
                yield EmbeddingSet.load(path)
            except EmbeddingError:
                continue  # what it held is made again

    def _take(self, shard: EmbeddingSet) -> None:
        if (shard.checkpoint, shard.system) != (self.checkpoint, self.system):
            return
        for row, (utt_id, stamp) in enumerate(
            zip(shard.ids, shard.stamps, strict=False)
        ):
            if self.wanted.get(utt_id) == stamp:
                self._vectors[utt_id] = shard.vectors[row]
                self._seconds[utt_id] = float(shard.seconds[row])

    def __contains__(self, utt_id: str) -> bool:
        return utt_id in self._vectors

    def add(self, utt_id: str, vector: np.ndarray, seconds: float) -> None:
        """Keep one vector, [dim]; now and then, what is new is written."""
        self._vectors[utt_id] = vector
        self._seconds[utt_id] = seconds
        self._unsaved.append(utt_id)
        if time.monotonic() - self._saved_at > _SECONDS_A_SHARD:
            self.flush()

    def flush(self) -> None:
        """Write what is new to a shard of its own."""
        if self._unsaved:
            taken = {path.stem for path in self.folder.glob("*.npz")}
            number = next(n for n in itertools.count() if f"{n:05d}" not in taken)
            self._set_of(self._unsaved).save(self.folder / f"{number:05d}.npz")
        self._unsaved = []
        self._saved_at = time.monotonic()

    def result(self, ids: Iterable[str]) -> EmbeddingSet:
        """Return the vectors of utterances that are all done, in the given order."""
        return self._set_of(list(ids))

    def _set_of(self, ids: list[str]) -> EmbeddingSet:
        return EmbeddingSet(
            ids,
            np.stack([self._vectors[utt_id] for utt_id in ids]),
            np.array([self._seconds[utt_id] for utt_id in ids]),
            self.checkpoint,
            self.system,
            [self.wanted[utt_id] for utt_id in ids],
        )

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exception) -> None:
        self.flush()  # after Ctrl-C too

    def remove(self) -> None:
        """Remove the folder: its vectors are in their final place."""
        shutil.rmtree(self.folder, ignore_errors=True)
