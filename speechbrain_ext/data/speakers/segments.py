"""Short utterances joined to pieces that are long enough to judge a voice by.

Pieces depend on the utterances alone, not on a seed: a speaker has the same ones in
every split. No gap is put between the parts; each comes from one source, so that a
piece is one microphone.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.split import draw_order


class Piece(NamedTuple):
    """Audio to be made from utterances of one speaker and one source.

    Arguments
    ---------
    utt_id : str
        Its own name.
    parts : tuple of Utterance
        What is joined, in order.
    num_samples : int
        Its length; what goes beyond is cut off.
    """

    utt_id: str
    parts: tuple[Utterance, ...]
    num_samples: int


def plan_segments(
    utterances: Iterable[Utterance], seconds: float, limit: int | None = None
) -> list[Piece]:
    """Plan segments of equal length, each utterance in one of them at most.

    An utterance that is long enough makes a segment by itself, shorter ones are
    joined. What remains too short is not used. Sources take turns.

    Arguments
    ---------
    utterances : Iterable of Utterance
        Of one speaker.
    seconds : float
        Length of a segment (> 0).
    limit : int, optional
        At most so many.

    Returns
    -------
    list of Piece
        Named ``<speaker>-seg01`` and so on.
    """
    queues = []
    for parts in _by_source(utterances):
        length = round(seconds * parts[0].sample_rate)
        queues.append([(full, length) for full, done in _join(parts, length) if done])
    made = [
        queue[turn]
        for turn in range(max(map(len, queues), default=0))
        for queue in queues
        if turn < len(queue)
    ]
    return [
        Piece(f"{parts[0].spk_id}-seg{number:02d}", parts, length)
        for number, (parts, length) in enumerate(made[:limit], start=1)
    ]


def plan_chunks(utterances: Iterable[Utterance], seconds: float) -> list[Piece]:
    """Plan chunks of at least a length; every sample is in one of them.

    Arguments
    ---------
    utterances : Iterable of Utterance
        Of one speaker.
    seconds : float
        Shortest chunk (> 0), but what is left over makes a shorter one.

    Returns
    -------
    list of Piece
        Those of a single utterance keep its name.
    """
    chunks = []
    for parts in _by_source(utterances):
        for joined, _ in _join(parts, round(seconds * parts[0].sample_rate)):
            name = joined[0].utt_id + ("-chunk" if len(joined) > 1 else "")
            chunks.append(Piece(name, joined, sum(one.num_samples for one in joined)))
    return chunks


def write_piece(piece: Piece, path: Path, path_of: Callable[[str], Path]) -> Utterance:
    """Join the parts and write them as PCM16.

    Arguments
    ---------
    piece : Piece
        What to make.
    path : Path
        The WAV file, in a folder that nobody reads yet.
    path_of : Callable
        utt_id -> where that utterance's PCM16 file lies now.

    Returns
    -------
    Utterance
        With ``path`` as its audio.
    """
    first = piece.parts[0]
    paths = [path_of(one.utt_id) for one in piece.parts]
    waves = [soundfile.read(one, dtype="int16")[0] for one in paths]
    wav = np.concatenate(waves)[: piece.num_samples]
    # Not through `save_audio`: the folder as a whole is moved to its place, and waiting
    # for the disk at each of a thousand files would take longer than all the rest.
    content = io.BytesIO()
    soundfile.write(content, wav, first.sample_rate, subtype="PCM_16", format="WAV")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return Utterance(
        utt_id=piece.utt_id,
        wav=path,
        duration=len(wav) / first.sample_rate,
        sample_rate=first.sample_rate,
        spk_id=first.spk_id,
        sha256=hashlib.sha256(content.getvalue()).hexdigest(),
        source=first.source,
    )


def _by_source(utterances: Iterable[Utterance]) -> list[list[Utterance]]:
    """Part utterances by source, each list in a drawn but fixed order."""
    groups = defaultdict(list)
    for utterance in utterances:
        groups[utterance.source].append(utterance)
    return [
        sorted(groups[source], key=lambda one: draw_order("segment", one.utt_id))
        for source in sorted(groups, key=str)
    ]


def _join(
    utterances: Sequence[Utterance], length: int
) -> list[tuple[tuple[Utterance, ...], bool]]:
    """Group utterances until each group has ``length`` samples; say if it has."""
    groups, waiting, num_waiting = [], [], 0
    for utterance in utterances:
        if utterance.num_samples >= length:
            groups.append(((utterance,), True))
            continue
        waiting.append(utterance)
        num_waiting += utterance.num_samples
        if num_waiting >= length:
            groups.append((tuple(waiting), True))
            waiting, num_waiting = [], 0
    if waiting:
        groups.append((tuple(waiting), False))
    return groups
