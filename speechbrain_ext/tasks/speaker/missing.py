"""Trials without a score: counted, and each blamed on an utterance by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from speechbrain_ext.scoring.trials import Trials

_NAMED_IN_MESSAGE = 5


def finite_rows(embeddings: EmbeddingSet, ids: list[str]) -> np.ndarray:
    """Vectors of utterances; one with any NaN or Inf, or all zero, is all NaN.

    An Inf beside finite values could still give a finite score somewhere, and so could
    zeros of which a mean is taken.

    Returns
    -------
    np.ndarray
        float32 [number of ids, dim].
    """
    vectors = embeddings.rows(ids)
    vectors[_has_no_direction(vectors)] = np.nan
    return vectors


def _has_no_direction(vectors: np.ndarray) -> np.ndarray:
    return ~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1)


def count_lost(embeddings: EmbeddingSet, lists: Mapping[str, Trials]) -> int:
    """Count the trials of a list without score, in the list that has most."""
    most = 0
    for trials in lists.values():
        lost = _has_no_direction(embeddings.rows(trials.ids))
        most = max(most, int((lost[trials.enroll] | lost[trials.test]).sum()))
    return most


def blame_embeddings(
    embeddings: EmbeddingSet,
    lists: Mapping[str, Trials],
    utterances: Mapping[str, Utterance],
    system: str,
) -> list[dict[str, Any]]:
    """Name the utterances whose embedding is not finite, or zero, with their trials.

    Arguments
    ---------
    embeddings : EmbeddingSet
        Of the test utterances.
    lists : mapping
        Name of a list to its trials.
    utterances : mapping
        The manifest.
    system : str
        Whose embeddings these are, as tables call it.

    Returns
    -------
    list of dict
        ``utt_id``, ``file``, ``system``, ``why``, ``trials`` (list to count), for each
        utterance that a trial names.
    """
    named = []
    for row in np.flatnonzero(_has_no_direction(embeddings.vectors)):
        utt_id, vector, counts = embeddings.ids[row], embeddings.vectors[row], {}
        for name, trials in lists.items():
            where = [i for i, known in enumerate(trials.ids) if known == utt_id]
            hit = np.isin(trials.enroll, where) | np.isin(trials.test, where)
            if hit.any():
                counts[name] = int(hit.sum())
        bad = int(np.count_nonzero(~np.isfinite(vector)))
        why = f"{bad} of {vector.size} values are not finite"
        if not bad:
            why = f"all {vector.size} values are 0"
        if counts:
            named.append(
                {
                    "utt_id": utt_id,
                    "file": file_name(utterances[utt_id]),
                    "system": system,
                    "why": f"{system}: {why}",
                    "trials": counts,
                }
            )
    return named


def file_name(utterance: Utterance) -> str:
    """Path of the audio from two folders above it: short, the same on any machine."""
    return "/".join(utterance.wav.parts[-3:])


def blame_scores(
    scores: np.ndarray,
    trials: Trials,
    vectors: np.ndarray,
    utterances: Mapping[str, Utterance],
    system: str,
    name: str,
) -> list[dict[str, Any]]:
    """Name trials that have no score although both embeddings have a direction.

    Arguments
    ---------
    scores : np.ndarray
        [num_trials].
    trials : Trials
        What was scored.
    vectors : np.ndarray
        Of `finite_rows`, [number of ids, dim].
    utterances, system
        As in `blame_embeddings`.
    name : str
        Name of the list.

    Returns
    -------
    list of dict
        As `blame_embeddings`, one for each trial.
    """
    finite = np.isfinite(vectors).all(axis=1)
    odd = np.isnan(scores) & finite[trials.enroll] & finite[trials.test]
    named = []
    for trial in np.flatnonzero(odd):
        pair = trials.ids[trials.enroll[trial]], trials.ids[trials.test[trial]]
        named.append(
            {
                "utt_id": " and ".join(pair),
                "file": ", ".join(file_name(utterances[one]) for one in pair),
                "system": system,
                "why": f"{system}: the score of two finite embeddings is NaN",
                "trials": {name: 1},
            }
        )
    return named


def refusal(named: list[dict[str, Any]], most: int, allowed: int) -> str:
    """Say how many trials have no score, whose fault that is, and what to do."""
    lines = [
        f"score: {most:,} trials of a list have no finite score (allowed: {allowed:,}, "
        "--max_nan_trials)"
    ]
    lines += [
        f"  {entry['utt_id']} ({entry['file']}): {entry['why']}"
        for entry in named[:_NAMED_IN_MESSAGE]
    ]
    if len(named) > _NAMED_IN_MESSAGE:
        lines.append(f"  and {len(named) - _NAMED_IN_MESSAGE} more, see results.json")
    lines += [
        "  Next: listen to these files, then ./run.sh --stage embed --force",
        f"  or accept them: ./run.sh --stage score --max_nan_trials={most}",
    ]
    return "\n".join(lines)
