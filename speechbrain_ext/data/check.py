"""Which recordings may not enter a corpus, and why.

A reason is one line, ``kind`` or ``kind: detail``; rejections are counted by kind.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechbrain_ext.data.audio import AudioError, load_audio, to_pcm16
from speechbrain_ext.errors import WorkError
from speechbrain_ext.files import write_text

#: Shortest recording that is kept, in seconds.
MIN_SECONDS = 0.1

#: A float file above this peak holds integers or rubbish, not samples in [-1, 1].
#: Lossy decoders overshoot full scale by a few dB at most.
MAX_PEAK = 4.0

# Content that an extension may stand for. NIST SPHERE files are called .wav by custom;
# an ID3 tag may precede MP3 and FLAC alike.
_CONTENT_OF = {
    ".wav": {"WAV", "SPHERE"},
    ".flac": {"FLAC", "ID3"},
    ".ogg": {"Ogg"},
    ".opus": {"Ogg"},
    ".mp3": {"MP3", "ID3"},
    ".m4a": {"MP4"},
    ".g722": set(),
    ".gsm": set(),
}


class Rejected(NamedTuple):
    """One recording that was left out."""

    utt_id: str
    path: str
    reason: str


def inspect_audio(path: str | os.PathLike) -> str | None:
    """Say why a file can't be used as a recording.

    Arguments
    ---------
    path : str or PathLike
        An audio file.

    Returns
    -------
    str or None
        None if it is sound; else a reason: ``missing``, ``empty``, ``wrongly
        labelled``, ``undecodable``, ``non-finite``, ``too short``, ``all zero`` or
        ``out of range``, most with a detail after a colon.
    """
    reason = find_label_fault(path)
    if reason is not None:
        return reason
    try:
        wav, sample_rate = load_audio(path)
    except AudioError as error:
        return undecodable(error)
    return find_sample_fault(wav, sample_rate)


def undecodable(error: AudioError) -> str:
    """Return the reason for a file that the decoders refused."""
    if error.reason.startswith("undecodable"):
        return error.reason
    return f"undecodable: {error.reason}"


def find_label_fault(path: str | os.PathLike) -> str | None:
    """Compare a file's extension with the first bytes of its content.

    Returns
    -------
    str or None
        None if they agree or the content has no known mark: then the decoder judges.
    """
    path = Path(path)
    if not path.is_file():  # before opening: a pipe would wait for ever
        return "missing: not a file" if path.exists() else "missing: no such file"
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        return f"unreadable: {(error.strerror or str(error)).lower()}"
    if not head:
        return "empty: no bytes"
    content = _content_of(head)
    suffix = path.suffix.lower()
    expected = _CONTENT_OF.get(suffix)
    if content is None or expected is None or content in expected:
        return None
    return f"wrongly labelled: named {suffix} but holds {content}"


def _content_of(head: bytes) -> str | None:
    """Name the format by its magic bytes."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "WAV"
    if head[4:8] == b"ftyp":
        return "MP4"
    marks = {
        b"fLaC": "FLAC",
        b"OggS": "Ogg",
        b"ID3": "ID3",
        b"NIST_1A": "SPHERE",
        b"FORM": "AIFF",
        b"%PDF": "PDF",
        b"PK\x03\x04": "ZIP",
        b"\x1f\x8b": "gzip",
    }
    for mark, name in marks.items():
        if head.startswith(mark):
            return name
    if len(head) > 2 and head[0] == 0xFF and head[1] in (0xFB, 0xFA, 0xF3, 0xF2):
        return "MP3" if head[2] not in (0xFF, 0xFB, 0xFA) else None
    return "text" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    try:
        # The last character may be cut in two by the 4096-byte limit.
        text = head.decode("utf-8", "strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return False
    if len(text.encode()) < len(head) - 3:
        return False
    return all(char.isprintable() or char in "\t\r\n\f" for char in text)


def find_sample_fault(
    wav: np.ndarray, sample_rate: int, *, needs_speech: bool = True
) -> str | None:
    """Say why decoded samples can't be used.

    Arguments
    ---------
    wav : numpy.ndarray
        float samples, [time].
    sample_rate : int
        In Hz.
    needs_speech : bool
        Silence, and what is too short for a word, is a fault.

    Returns
    -------
    str or None
        A reason, or None. ``all zero`` means zero in 16 bits, which is what is kept.

    Example
    -------
    >>> find_sample_fault(np.zeros(16000), 16000)
    'all zero: 1.00 s of silence'
    """
    if wav.size == 0:
        return "empty: no samples"
    num_bad = wav.size - int(np.isfinite(wav).sum())
    if num_bad:
        return f"non-finite: {num_bad} of {wav.size} samples are NaN or Inf"
    seconds = wav.size / sample_rate
    if needs_speech and seconds < MIN_SECONDS:
        return f"too short: {seconds:.3f} s, at least {MIN_SECONDS} s are needed"
    peak = float(np.abs(wav).max())
    if peak > MAX_PEAK:
        return f"out of range: peak {peak:.4g}, float samples lie in [-1, 1]"
    if needs_speech and not to_pcm16(wav).any():
        return f"all zero: {seconds:.2f} s of silence"
    return None


def write_rejected(path: str | os.PathLike, rejected: Iterable[Rejected]) -> None:
    r"""Write ``utt_id, path, reason`` as tab-separated lines, sorted, atomically.

    Tabs and line breaks in names appear as ``\t`` and ``\n``; bytes that are not
    UTF-8 as ``\xff``.
    """
    rows = [Rejected("utt_id", "path", "reason"), *sorted(rejected)]
    write_text(path, "".join("\t".join(map(_one_cell, row)) + "\n" for row in rows))


def _one_cell(text: str) -> str:
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def check_rejections(
    rejected: Sequence[Rejected], num_total: int, limit: float, listing: Path
) -> None:
    """Stop if too large a part of a corpus was rejected.

    Arguments
    ---------
    rejected : Sequence of Rejected
        What was left out.
    num_total : int
        How many recordings were looked at.
    limit : float
        Largest part that may be rejected, in [0, 1].
    listing : Path
        Where the list was written, for the message.

    Raises
    ------
    WorkError
        With the counts per kind, an example of each, and what to do.
    """
    if len(rejected) <= limit * num_total:
        return
    part = len(rejected) / num_total
    lines = [
        f"prepare: {len(rejected)} of {num_total} recordings rejected "
        f"({part:.0%}; at most {limit:.0%} are allowed)"
    ]
    counts = Counter(kind_of(row.reason) for row in rejected)
    for kind, count in counts.most_common():
        example = next(row for row in rejected if kind_of(row.reason) == kind)
        lines.append(
            f"  {count:6d}  {kind}, such as {_one_cell(example.path)} "
            f"({_one_cell(example.reason)})"
        )
    lines.append(f"all of them: {listing}")
    if len(rejected) < num_total:
        lines.append(
            "mend them, or go on without them: add "
            f"--max_rejected {np.ceil(part * 100) / 100:.2f}"
        )
    raise WorkError("\n".join(lines))


def kind_of(reason: str) -> str:
    """Return the part of a reason that rejections are counted by."""
    return reason.partition(":")[0]
