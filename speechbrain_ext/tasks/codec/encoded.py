"""Codes of a corpus, kept as they come, so that encoding can be interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from speechbrain_ext.data.manifest import Utterance


class EncodedFile:
    """One line of JSON for each utterance, appended when it is encoded.

    A line that a kill cut off does not count, nor does a file that was begun with
    another key, nor an utterance whose audio is another by now.

    Arguments
    ---------
    path : Path
        The file; missing folders are made.
    key : dict
        What the codes depend on beside the audio: the model, the codebooks.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "codes.jsonl"
    >>> utterance = Utterance("a", Path("a.wav"), 1.0, 16000, None, "f" * 64)
    >>> with EncodedFile(path, {"model": "x"}) as file:
    ...     file.append(utterance, np.array([[1, 2]]))
    >>> with EncodedFile(path, {"model": "x"}) as file:
    ...     file.find(utterance).tolist()
    [[1, 2]]
    """

    def __init__(self, path: Path, key: dict):
        self.path = path
        self._key = key
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def __enter__(self) -> EncodedFile:
        lines, size = self._read()
        if lines and lines[0] == self._key:
            for line in lines[1:]:
                codes = np.array(line["codes"], np.int32)
                self._known[line["utt_id"], line["sha256"]] = codes
        else:
            size = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self.path, "ab")  # noqa: SIM115 closed in __exit__
        self._stream.truncate(size)
        if not size:
            self._write(self._key)
        return self

    def __exit__(self, *_) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, utterance: Utterance) -> np.ndarray | None:
        """Return an utterance's codes if known, int32 [num_codebooks, num_frames]."""
        return self._known.get((utterance.utt_id, utterance.sha256))

    def append(self, utterance: Utterance, codes: np.ndarray) -> None:
        """Keep the codes of an utterance."""
        self._write(
            {
                "utt_id": utterance.utt_id,
                "sha256": utterance.sha256,
                "codes": codes.tolist(),
            }
        )

    def _write(self, line: dict) -> None:
        text = json.dumps(line, separators=(",", ":"), ensure_ascii=False)
        self._stream.write(f"{text}\n".encode())
        self._stream.flush()

    def _read(self) -> tuple[list[dict], int]:
        """Whole lines, and how many bytes they take."""
        lines, size = [], 0
        try:
            with open(self.path, "rb") as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    lines.append(json.loads(line))
                    size += len(line)
        except (OSError, ValueError):
            pass  # what could be read counts
        return lines, size
