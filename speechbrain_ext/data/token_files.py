"""The folder ``tokens/`` of an experiment: what lies in it, written and read.

``tokenizer.model`` is a SentencePiece model, ``tokens.json`` says what it stands for
and what was measured, and ``tokens.jsonl`` has a line for each utterance::

    {"utt_id": "a", "split": "train", "spk_id": "f1", "duration": 3.2,
     "num_samples": 51200, "num_codes": 322, "tokens": [17, 902, ...]}

The tokens are without begin and end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechbrain_ext.codec.pieces import TokenError
from speechbrain_ext.codec.tokens import CodeTokenizer
from speechbrain_ext.files import read_json

FOLDER = "tokens"
RECORD = "tokens.json"
LINES = "tokens.jsonl"
MODEL = "tokenizer.model"


@dataclass(frozen=True)
class TokenLine:
    """One utterance of ``tokens.jsonl``.

    Arguments
    ---------
    utt_id, split : str
        Its name, and the manifest that it is from: train, valid or test.
    spk_id : str or None
        Speaker where known.
    duration : float
        In seconds.
    num_samples : int
        Its length at the codec's rate.
    num_codes : int
        Codes that the tokens stand for, of all codebooks.
    tokens : list of int
        Without begin and end.
    """

    utt_id: str
    split: str
    spk_id: str | None
    duration: float
    num_samples: int
    num_codes: int
    tokens: list[int]


def write_lines(path: str | os.PathLike, lines: Iterable[TokenLine]) -> str:
    """Write ``tokens.jsonl``; returns its hexadecimal SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as stream:
        for line in lines:
            text = json.dumps(asdict(line), ensure_ascii=False, separators=(",", ":"))
            data = f"{text}\n".encode()
            digest.update(data)
            stream.write(data)
    return digest.hexdigest()


def read_lines(path: str | os.PathLike, sha256: str) -> Iterator[TokenLine]:
    """Read what `write_lines` wrote, line by line.

    Arguments
    ---------
    path : str or PathLike
        ``tokens.jsonl``.
    sha256 : str
        What `write_lines` returned.

    Raises
    ------
    TokenError
        If it is missing, broken or another one; after the last line at the latest.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for data in stream:
                digest.update(data)
                yield TokenLine(**json.loads(data))
    except (OSError, ValueError, TypeError) as error:
        raise TokenError(f"{path}: can't be read: {error}; {_REMEDY}") from None
    if digest.hexdigest() != sha256:
        raise TokenError(f"{path}: was changed or cut off; {_REMEDY}")


def read_folder(source: str | os.PathLike) -> tuple[Path, dict[str, Any]]:
    """Find the tokens of an experiment.

    Arguments
    ---------
    source : str or PathLike
        The experiment, or the folder ``tokens`` itself.

    Returns
    -------
    Path
        The folder.
    dict
        What ``tokens.json`` holds.

    Raises
    ------
    TokenError
        If there are no tokens, with the reason where it is known.
    """
    folder = Path(source)
    if not (folder / RECORD).exists():
        folder = folder / FOLDER
    record = read_json(folder / RECORD)
    if "skipped" in record:
        raise TokenError(f"{folder}: there are no tokens: {record['skipped']}")
    if not {"tokenizer", "tokens_sha256", "model"} <= set(record):
        raise TokenError(f"{source}: there are no tokens (no {RECORD}); {_REMEDY}")
    return folder, record


def load_tokenizer(source: str | os.PathLike) -> CodeTokenizer:
    """Load the tokenizer of an experiment; arguments and errors of `read_folder`."""
    folder, record = read_folder(source)
    return CodeTokenizer.load(folder / MODEL, record["tokenizer"])


_REMEDY = "make the tokens again: ./run.sh --stage tokenize --force"
