"""Embeddings of many utterances with what is needed to trust them: one ``.npz``.

Needs NumPy only. The file holds ``ids`` (text), ``vectors`` (float32 [n, dim]),
``seconds`` (float32 [n]), ``checkpoint`` and ``system`` (text), ``stamps`` (text, [n]
or [0]), and can be read with ``numpy.load`` alone; it holds no pickles.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import atomic_path

_KEYS = ("ids", "vectors", "seconds", "checkpoint", "system", "stamps")
_MAX_SHOWN = 10


class EmbeddingError(UserError):
    """A file of embeddings that is missing, broken, or lacks utterances."""


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """One vector for each of some utterances.

    Arguments
    ---------
    ids : list of str
        Names of the utterances, each once.
    vectors : numpy.ndarray
        Kept as float32, [n, dim]. May hold NaN or Inf: see `nonfinite`.
    seconds : numpy.ndarray
        Length of the audio behind each vector, kept as float32, [n].
    checkpoint : str
        SHA-256 of the weights that made the vectors; empty if none did.
    system : str
        What made them, such as ``speaker`` or ``channel``.
    stamps : list of str
        What decided each vector beside the checkpoint (a hash of the audio and of the
        settings), [n]; empty where nobody noted it. A vector whose stamp is unchanged
        need not be computed again.

    Raises
    ------
    ValueError
        If an id appears twice or the shapes do not fit.

    Example
    -------
    >>> one = EmbeddingSet(["a", "b"], np.eye(2), [3.0, 2.5], "9f86", "toy")
    >>> one.rows(["b", "a", "b"]).tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """

    ids: list[str]
    vectors: np.ndarray
    seconds: np.ndarray
    checkpoint: str = ""
    system: str = ""
    stamps: list[str] = field(default_factory=list)
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self):
        ids = [str(name) for name in self.ids]
        vectors = np.asarray(self.vectors, dtype=np.float32)
        seconds = np.asarray(self.seconds, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise ValueError(
                f"EmbeddingSet: vectors must be [{len(ids)}, dim] for {len(ids)} ids, "
                f"got shape {list(vectors.shape)}"
            )
        if seconds.shape != (len(ids),):
            raise ValueError(
                f"EmbeddingSet: seconds must be [{len(ids)}], got shape "
                f"{list(seconds.shape)}"
            )
        stamps = [str(stamp) for stamp in self.stamps]
        if len(stamps) not in (0, len(ids)):
            raise ValueError(
                f"EmbeddingSet: stamps must be {len(ids)} or none, got {len(stamps)}"
            )
        index = {name: row for row, name in enumerate(ids)}
        if len(index) < len(ids):
            twice = sorted({name for row, name in enumerate(ids) if index[name] != row})
            raise ValueError(f"EmbeddingSet: ids appear twice: {_some(twice)}")
        for name, value in (
            ("ids", ids),
            ("vectors", vectors),
            ("seconds", seconds),
            ("stamps", stamps),
            ("_index", index),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, utt_id: str) -> bool:
        return utt_id in self._index

    @property
    def dim(self) -> int:
        """Length of each vector."""
        return self.vectors.shape[1]

    def row_numbers(self, ids: Iterable[str]) -> np.ndarray:
        """Find where utterances stand; the same id may be asked for several times.

        Returns
        -------
        numpy.ndarray
            int64, [number of ids].

        Raises
        ------
        EmbeddingError
            Naming the ids that are not in the set.
        """
        ids = list(ids)
        missing = [name for name in dict.fromkeys(ids) if name not in self._index]
        if missing:
            raise EmbeddingError(
                f"embeddings: {len(missing)} of {len(set(ids))} utterances have no "
                f"embedding: {_some(missing)}\n  Rule: every utterance asked for must "
                f"be among the {len(self)} that were embedded\n  Next: embed the same "
                "data again: ./run.sh --stage embed --force"
            )
        return np.fromiter((self._index[name] for name in ids), np.int64, len(ids))

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Return the vectors of utterances, float32 [number of ids, dim].

        Raises
        ------
        EmbeddingError
            Naming the ids that are not in the set.
        """
        return self.vectors[self.row_numbers(ids)]

    def nonfinite(self) -> list[str]:
        """List the utterances whose vector holds NaN or Inf, in the set's order."""
        bad = ~np.isfinite(self.vectors).all(axis=1)
        return [self.ids[row] for row in np.flatnonzero(bad)]

    def save(self, path: str | os.PathLike) -> None:
        """Write an ``.npz`` atomically; the same set gives the same bytes.

        Raises
        ------
        ValueError
            If the path does not end in ``.npz``.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"EmbeddingSet.save: {path} must end in .npz")
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                ids=np.array(self.ids, dtype=str),
                vectors=self.vectors,
                seconds=self.seconds,
                checkpoint=np.array(self.checkpoint),
                system=np.array(self.system),
                stamps=np.array(self.stamps, dtype=str),
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> EmbeddingSet:
        """Read what `save` wrote.

        Raises
        ------
        EmbeddingError
            If the file is missing, damaged, of another kind, or holds pickles.
        """
        try:
            with open(path, "rb") as stream:
                stored = np.load(stream, allow_pickle=False)
                if not isinstance(stored, np.lib.npyio.NpzFile):
                    raise ValueError("a single array, not an .npz")
                absent = [key for key in _KEYS if key not in stored.files]
                if absent:
                    raise ValueError(f"holds no {', '.join(absent)}")
                values = {key: stored[key] for key in _KEYS}
            if not np.issubdtype(values["vectors"].dtype, np.floating):
                raise ValueError(f"vectors are {values['vectors'].dtype}, not float")
            return cls(
                values["ids"].tolist(),
                values["vectors"],
                values["seconds"],
                str(values["checkpoint"]),
                str(values["system"]),
                values["stamps"].tolist(),
            )
        except FileNotFoundError:
            reason = "no such file"
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = f"can't be read as embeddings: {error}"
        raise EmbeddingError(
            f"embeddings {path}: {reason}\n  Next: make it again: "
            "./run.sh --stage embed --force"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more
