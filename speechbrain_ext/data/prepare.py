"""From a corpus to manifests: decode, check, convert, split, write.

A data folder afterwards holds::

    wav/<utt_id>.wav            16 kHz mono PCM16
    train.json valid.json test.json
    rejected.tsv                what was left out, and why
    prepare.json                the settings, and the command that made all this
    .journal.jsonl              what is done, so that a killed run goes on

Everything but the journal is a pure function of the recordings and the settings: any
number of jobs and any interruption give the same bytes. A run that fails leaves the
earlier data as it was; see `speechbrain_ext.data.staging`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechbrain_ext.data.check import Rejected
from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.manifest import total_seconds, write_manifest
from speechbrain_ext.data.split import ROLES, split_roles
from speechbrain_ext.data.staging import StagedAudio, stage_audio


@dataclass(frozen=True)
class Settings:
    """What decides the prepared data, beside the recordings.

    Arguments
    ---------
    sample_rate : int
        Of the written audio, Hz.
    seed : int
        Of the split.
    counts : dict
        Role -> number of utterances, None for the default; see `split_roles`.
    split_by : str
        ``auto``, ``speaker`` or ``utterance``.
    max_rejected : float
        Largest part that may be rejected, in [0, 1].
    """

    sample_rate: int = 16000
    seed: int = 1
    counts: dict[str, int | None] = field(default_factory=dict)
    split_by: str = "auto"
    max_rejected: float = 0.2


@dataclass(frozen=True)
class Summary:
    """What came out of preparation.

    Arguments
    ---------
    num_utterances, seconds : dict
        Per role.
    rejected : list of Rejected
        Faulty recordings; copies are not among them.
    num_copies : int
        Recordings left out because their audio was there already.
    split_by : str
        ``corpus``, ``speaker`` or ``utterance``.
    num_reused : int
        Recordings that were done before and taken over.
    """

    num_utterances: dict[str, int]
    seconds: dict[str, float]
    rejected: list[Rejected]
    num_copies: int
    split_by: str
    num_reused: int


def prepare(
    items: Iterable[Item],
    folder: str | os.PathLike,
    settings: Settings | None = None,
    *,
    corpus: Mapping[str, Any] | None = None,
    command: str = "",
    nj: int = 1,
    log: Callable[[str], None] = print,
) -> Summary:
    """Prepare a data folder from a corpus' items.

    Arguments
    ---------
    items : Iterable of Item
        The recordings; see `speechbrain_ext.data.corpora`.
    folder : str or PathLike
        The data folder.
    settings : Settings, optional
        Defaults to ``Settings()``.
    corpus : Mapping, optional
        What is known of the corpus, for ``prepare.json`` and from there for results;
        see `speechbrain_ext.data.corpora.facts`.
    command : str
        The command that prepares this folder, for the messages of later stages.
    nj : int
        Number of jobs at a time.
    log : Callable
        Gets one line of text at a time.

    Returns
    -------
    Summary

    Raises
    ------
    UserError
        If there is no recording, or ``folder`` holds audio that isn't ours.
    WorkError
        If too many recordings are rejected, or a role would stay empty. The earlier
        contents of ``folder`` are intact.
    """
    settings = settings or Settings()
    folder = Path(folder)
    staged = stage_audio(
        items,
        folder,
        sample_rate=settings.sample_rate,
        max_rejected=settings.max_rejected,
        manifests=[f"{role}.json" for role in ROLES],
        nj=nj,
    )
    with staged as audio:
        roles, how = split_roles(
            audio.kept, settings.seed, settings.counts, settings.split_by
        )
        audio.settle()
        seconds = _write_manifests(folder, roles, audio)
        state = {"command": command, "corpus": dict(corpus or {}), "split": how}
        audio.finish({**state, **asdict(settings)})
    summary = Summary(
        num_utterances={role: len(roles[role]) for role in ROLES},
        seconds=seconds,
        rejected=audio.rejected,
        num_copies=len(audio.copies),
        split_by=how,
        num_reused=audio.num_reused,
    )
    _report(summary, folder, log)
    if losses := audio.describe_losses():
        log(losses)
    return summary


def _write_manifests(folder: Path, roles, audio: StagedAudio) -> dict[str, float]:
    """Write the three manifests; return their lengths in seconds."""
    seconds = {}
    for role, utt_ids in roles.items():
        utterances = {utt_id: audio.utterances[utt_id] for utt_id in utt_ids}
        write_manifest(folder / f"{role}.json", utterances.values())
        seconds[role] = total_seconds(utterances)
    return seconds


def _report(summary: Summary, folder: Path, log) -> None:
    sizes = ", ".join(
        f"{role} {summary.num_utterances[role]} ({summary.seconds[role] / 60:.1f} min)"
        for role in ROLES
    )
    log(f"prepare: {folder}: {sizes}; split by {summary.split_by}")
