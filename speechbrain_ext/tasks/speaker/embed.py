"""Embed the test and cohort utterances of a split, each once."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.manifest import ManifestError, Utterance, verify_manifest
from speechbrain_ext.data.progress import progress_bar
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import write_json
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.scoring.embeddings import EmbeddingError, EmbeddingSet
from speechbrain_ext.tasks.experiment import usable_device
from speechbrain_ext.tasks.speaker.embedder import (
    BATCH_SECONDS,
    MAX_SECONDS,
    Embedder,
)
from speechbrain_ext.tasks.speaker.shards import Shards
from speechbrain_ext.tasks.speaker.weights import load_encoder

#: Manifests of a split folder that are embedded.
ROLES = ("test", "cohort")

_BOTH = "speaker and channel"
_MAX_NAMED = 10


@tells_own_commands
def embed_split(
    experiment: str | os.PathLike,
    data: str | os.PathLike,
    *,
    device: str | None = None,
    batch_seconds: float = BATCH_SECONDS,
    max_seconds: float = MAX_SECONDS,
    allow_nonfinite: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, EmbeddingSet]:
    """Write ``embeddings/{test,cohort}.npz`` and ``*.channel.npz`` of an experiment.

    The channel-only vectors are a baseline; see `Embedded`. Who speaks is written
    beside them, in ``*.speakers.json``. Killed and started again, it goes on where it
    was. What is embedded already by the same checkpoint, from the same audio and with
    the same ``max_seconds``, is not embedded again.

    Arguments
    ---------
    experiment : str or PathLike
        Folder that training wrote.
    data : str or PathLike
        Split folder with ``test.json`` and ``cohort.json``.
    device : str or None
        Where to compute; None: on a GPU if there is one.
    batch_seconds, max_seconds : float
        See `Embedder`.
    allow_nonfinite : bool
        Accept embeddings with NaN or Inf; scoring counts them as errors.
    log : Callable
        Gets one line of text at a time.

    Returns
    -------
    dict
        ``test``, ``cohort`` -> their embeddings.

    Raises
    ------
    ManifestError
        If a manifest or one of its files is missing or changed.
    UserError
        If there is no trained encoder, or the device is not there.
    WorkError
        If an embedding is not finite, naming the utterances; all files are written.
    """
    experiment, data = Path(experiment), Path(data)
    manifests = {role: verify_manifest(data / f"{role}.json") for role in ROLES}
    embedder = load_embedder(
        experiment, device, batch_seconds=batch_seconds, max_seconds=max_seconds
    )
    for role, utterances in manifests.items():
        check_rates(data / f"{role}.json", utterances, embedder.sample_rate)
    sets, faults = {}, []
    for role, utterances in manifests.items():
        started = time.monotonic()
        # So that an experiment can be used without the data it was made from.
        write_json(
            speakers_path(experiment, role),
            {utt_id: utterance.spk_id for utt_id, utterance in utterances.items()},
        )
        paths = embeddings_path(experiment, role), channel_path(experiment, role)
        sets[role], num_reused = _embed_role(embedder, role, utterances, paths)
        seconds = time.monotonic() - started
        bad = sets[role].nonfinite()
        log(
            f"embed: {role}: {len(sets[role])} utterances "
            f"({math.fsum(sets[role].seconds) / 60:.1f} min), {num_reused} done "
            f"before, {len(bad)} not finite, {seconds:.1f} s on {embedder.device}: "
            f"{paths[0]}"
        )
        if bad:
            faults.append(describe_nonfinite(role, bad, len(sets[role])))
    if faults:
        told = "\n".join(faults)
        if not allow_nonfinite:
            raise WorkError(
                f"{told}\n  All files were written; scoring counts these as errors.\n"
                f"  Next: speechbrain-ext doctor {experiment}; or go on all the same: "
                "./run.sh --max_nan_trials=N (of embed.py: --allow_nonfinite)"
            )
        print(told, file=sys.stderr)
    return sets


def embeddings_path(experiment: str | os.PathLike, role: str) -> Path:
    """Where the embeddings of a manifest are, ``test`` or ``cohort``."""
    return Path(experiment) / "embeddings" / f"{role}.npz"


def channel_path(experiment: str | os.PathLike, role: str) -> Path:
    """Where the channel-only vectors of a manifest are, ``test`` or ``cohort``."""
    return Path(experiment) / "embeddings" / f"{role}.channel.npz"


def speakers_path(experiment: str | os.PathLike, role: str) -> Path:
    """Where it says who speaks in the utterances of a manifest, as JSON."""
    return Path(experiment) / "embeddings" / f"{role}.speakers.json"


def load_embedder(
    experiment: str | os.PathLike, device: str | None = None, **settings
) -> Embedder:
    """Load the trained encoder of an experiment.

    Arguments
    ---------
    experiment : str or PathLike
        Folder that training wrote.
    device : str or None
        Where to compute; None: on a GPU if there is one.
    **settings
        For `Embedder`.

    Raises
    ------
    UserError
        If there is no trained encoder, the device is not there, or a setting is out
        of its range.
    """
    device = usable_device(device)
    encoder, info = load_encoder(experiment, device)
    try:
        return Embedder(
            encoder, info["sample_rate"], info["sha256"], device=device, **settings
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def check_rates(
    path: Path, utterances: Mapping[str, Utterance], sample_rate: int
) -> None:
    """Refuse audio at another sample rate than the encoder's.

    Raises
    ------
    ManifestError
        Naming the rates.
    """
    other = {u.sample_rate for u in utterances.values()} - {sample_rate}
    if other:
        raise ManifestError(
            f"{path}: audio at {sorted(other)} Hz, but the encoder was trained at "
            f"{sample_rate} Hz\n  Next: prepare the data at that rate: ./run.sh "
            "--stage prepare --force"
        )


def describe_nonfinite(what: str, utt_ids: Sequence[str], total: int) -> str:
    """Name the utterances whose embedding is not finite, in one line."""
    named = ", ".join(utt_ids[:_MAX_NAMED])
    more = len(utt_ids) - _MAX_NAMED
    return (
        f"embed: {what}: {len(utt_ids)} of {total} embeddings hold NaN or Inf: {named}"
        + (f" and {more} more" if more > 0 else "")
    )


def _embed_role(
    embedder: Embedder,
    role: str,
    utterances: Mapping[str, Utterance],
    paths: tuple[Path, Path],
) -> tuple[EmbeddingSet, int]:
    """Embed one manifest; returns its embeddings and how many were done before."""
    wanted = {
        utt_id: stamp_of(utterance.sha256, embedder)
        for utt_id, utterance in utterances.items()
    }
    shards = Shards(
        paths[0].parent / f".{role}.shards",
        embedder.checkpoint,
        _BOTH,
        wanted,
        finished_before(*paths),
    )
    # A batch is embedded as a whole or not at all: after an interruption the same
    # utterances share a batch, and the result has the same bits.
    todo = [
        batch
        for batch in batches(utterances, embedder.batch_samples)
        if not all(utterance.utt_id in shards for utterance in batch)
    ]
    with shards, progress_bar() as progress:
        task = progress.add_task(f"embed {role}", total=sum(map(len, todo)))
        for batch in todo:
            vectors = np.hstack(embedder.embed([read_samples(u) for u in batch]))
            for utterance, vector in zip(batch, vectors, strict=True):
                shards.add(utterance.utt_id, vector, utterance.duration)
            progress.advance(task, len(batch))
    both = shards.result(utterances)
    result = split_systems(both, embedder)
    for one, path in zip(result, paths, strict=True):
        one.save(path)
    shards.remove()
    return result[0], shards.num_reused


def batches(
    utterances: Mapping[str, Utterance], batch_samples: int
) -> list[list[Utterance]]:
    """Sort utterances into batches of equal length; a function of these alone.

    Arguments
    ---------
    utterances : Mapping
        utt_id -> utterance, in any order.
    batch_samples : int
        Most samples in a batch of more than one.

    Returns
    -------
    list of list of Utterance
        The longest first, so that what does not fit into memory fails at once.
    """
    order = sorted(utterances.values(), key=lambda u: (-u.num_samples, u.utt_id))
    found = []
    for length, group in groupby(order, key=lambda u: u.num_samples):
        alike = list(group)
        size = max(1, batch_samples // max(1, length))
        found += [alike[i : i + size] for i in range(0, len(alike), size)]
    return found


def stamp_of(sha256: str, embedder: Embedder, *settings: str) -> str:
    """Hash what decides a vector beside the checkpoint: audio and settings."""
    text = " ".join([sha256, f"max_samples={embedder.max_samples}", *settings])
    return hashlib.sha256(text.encode()).hexdigest()


def finished_before(speaker: Path, channel: Path) -> list[EmbeddingSet]:
    """Read the two files of an earlier run as one set of both systems' vectors."""
    try:
        a, b = EmbeddingSet.load(speaker), EmbeddingSet.load(channel)
    except EmbeddingError:
        return []
    if (a.ids, a.stamps, a.checkpoint) != (b.ids, b.stamps, b.checkpoint):
        return []
    vectors = np.hstack([a.vectors, b.vectors])
    return [EmbeddingSet(a.ids, vectors, a.seconds, a.checkpoint, _BOTH, a.stamps)]


def split_systems(
    both: EmbeddingSet, embedder: Embedder
) -> tuple[EmbeddingSet, EmbeddingSet]:
    """Part the vectors of both systems into speaker and channel sets."""
    dim = embedder.encoder.embedding_dim
    return tuple(
        EmbeddingSet(both.ids, part, both.seconds, both.checkpoint, system, both.stamps)
        for part, system in (
            (both.vectors[:, :dim], "speaker"),
            (both.vectors[:, dim:], "channel"),
        )
    )
