"""The systems that are scored: channel only, raw cosine, and one of each backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.scoring.backend import (
    Backend,
    BackendSettings,
)
from speechbrain_ext.scoring.calibration import Calibration
from speechbrain_ext.scoring.choice import (
    Choice,
    choose_backend,
    held_out_scores,
)
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from speechbrain_ext.scoring.norm import cosine_scores, unit_vectors

#: kind of backend -> how tables call it
LABELS = {
    "cosine": "cosine",
    "center": "centred cosine",
    "wccn": "WCCN",
    "as_norm": "AS-norm",
    "wccn+as_norm": "WCCN + AS-norm",
}
#: What ``--backend`` takes; see `make_systems`.
CHOICES = ("auto", "folds", *LABELS)
#: What ``auto`` takes where the cohort can teach it. Folds of training speakers can't
#: tell kinds apart: the network has seen them all, and separates them so well that
#: little is left to mend. Networks that have never seen some of the training speakers
#: (``--inner_split``, docs/speaker_ablation.md) tell that this one is the best.
USUAL_KIND = "wccn+as_norm"


@dataclasses.dataclass(frozen=True)
class System:
    """What turns embeddings into scores.

    Attributes
    ----------
    name, label : str
        In files, and in tables.
    settings : dict
        What was learned with.
    score : Callable
        ``(vectors [num_utterances, dim], enroll, test)`` to scores, [num_trials].
    calibration : dict or None
        ``slope`` and ``offset`` that make natural log-likelihood ratios of what the
        backend says; None: scores are no ratios.
    """

    name: str
    label: str
    settings: dict[str, Any]
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    calibration: dict[str, float] | None = None

    @property
    def is_ratio(self) -> bool:
        """Whether scores are natural log-likelihood ratios."""
        return self.calibration is not None


def kind_of(settings: BackendSettings) -> str:
    """Name the kind of a backend, whatever its numbers."""
    steps = [
        "wccn" if settings.wccn is not None else "",
        "as_norm" if settings.as_norm is not None else "",
    ]
    return "+".join(filter(None, steps)) or ("center" if settings.center else "cosine")


def make_systems(
    cohort: EmbeddingSet,
    channel: EmbeddingSet,
    speakers: Sequence[str],
    *,
    asked: str,
    calibrate: bool,
    seed: int,
) -> tuple[list[System], dict[str, Any], list[str]]:
    """Learn all systems from training speakers, and choose one.

    The settings of each kind of backend (shrinkage, size of the cohort) are those that
    are best on folds of training speakers. Test speakers never enter.

    Arguments
    ---------
    cohort, channel : EmbeddingSet
        Of training speakers' segments, in the same order.
    speakers : sequence of str
        Who speaks, one for each of ``cohort``.
    asked : str
        One of `CHOICES`: a kind; ``folds``, the kind that is best on the folds, too;
        ``auto``, `USUAL_KIND`, or the raw cosine where the cohort is too small for it.
    calibrate : bool
        Turn scores into log-likelihood ratios.
    seed : int
        Of the folds.

    Returns
    -------
    systems : list of System
        Channel only, raw cosine, and of each other kind the best setting.
    choice : dict
        ``asked``, ``chosen``, ``reason``, ``folds`` (a row for each setting).
    left_out : list of str
        Utterances of which nothing could be learned.

    Raises
    ------
    UserError
        If there are too few training speakers for what was asked, or they are not told
        apart, so that nothing can be calibrated.
    """
    usable = ~np.isnan(unit_vectors(cohort.vectors)).any(axis=1)
    left_out = [cohort.ids[row] for row in np.flatnonzero(~usable)]
    choice = choose_backend(cohort.vectors, speakers, seed=seed)
    best = _best_of_kinds(choice)
    chosen, reason = asked, f"asked for by --backend {asked}"
    if asked == "folds":
        chosen, reason = kind_of(choice.settings), choice.reason
    elif asked == "auto" and USUAL_KIND in best:
        chosen = USUAL_KIND
        reason = "the usual one, with settings from folds of training speakers"
    elif asked == "auto":
        chosen = "cosine"
        reason = (
            f"{LABELS[USUAL_KIND]}, the usual one, can't be learned: "
            f"{_why_not(choice, USUAL_KIND)}"
        )
    if chosen not in best:
        raise UserError(
            f"score: --backend={asked} can't be learned: {_why_not(choice, asked)}\n"
            "  Next: --backend=auto, or a larger cohort: ./run.sh --stage prepare"
        )
    systems = [_channel_system(channel)]
    for kind in LABELS:
        if kind in best:
            systems.append(
                _backend_system(kind, best[kind], cohort, speakers, calibrate, seed)
            )
    table = {
        "asked": asked,
        "chosen": chosen,
        "reason": reason,
        "folds": [
            _fold_row(row, _settings_of(row) == best.get(chosen))
            for row in choice.table
        ],
    }
    return systems, table, left_out


def _best_of_kinds(choice: Choice) -> dict[str, BackendSettings]:
    """Of each kind that could be learned, the setting with the least mean EER."""
    best: dict[str, tuple[float, BackendSettings]] = {"cosine": (0, BackendSettings())}
    for row in choice.table:
        if row["error"] is None:
            settings = _settings_of(row)
            kind, eer = kind_of(settings), row["eer"]
            if kind not in best or eer < best[kind][0]:
                best[kind] = eer, settings
    return {kind: settings for kind, (_, settings) in best.items()}


def _settings_of(row: dict[str, Any]) -> BackendSettings:
    names = [field.name for field in dataclasses.fields(BackendSettings)]
    return BackendSettings(**{name: row[name] for name in names})


def _why_not(choice: Choice, asked: str) -> str:
    reasons = [
        row["error"] for row in choice.table if kind_of(_settings_of(row)) == asked
    ]
    return next(filter(None, reasons), choice.reason)


def _fold_row(row: dict[str, Any], chosen: bool) -> dict[str, Any]:
    settings = _settings_of(row)
    return {
        "name": row["name"],
        "kind": kind_of(settings),
        "chosen": chosen,
        "mean": row["eer"],
        "folds": row["fold_eers"],
        "error": row["error"],
    }


def _channel_system(channel: EmbeddingSet) -> System:
    """Cosine of log-mel statistics, each measured in deviations of training speakers.

    Log-mels are all far below zero, so without this any two would point one way.
    """
    usable = channel.vectors[np.isfinite(channel.vectors).all(axis=1)]
    if len(usable) < 2:
        raise UserError(
            "score: the channel-only baseline needs two finite cohort embeddings, got "
            f"{len(usable)} of {len(channel)}; embed again: ./run.sh --stage embed"
        )
    mean, deviation = usable.mean(axis=0), usable.std(axis=0)
    scale = 1 / np.maximum(deviation, 1e-6 * max(1.0, float(deviation.max())))

    def score(vectors, enroll, test):
        return cosine_scores((vectors - mean) * scale, enroll, test)

    return System("channel", "channel only", {"standardised": "cohort"}, score)


def _backend_system(kind, settings, cohort, speakers, calibrate, seed) -> System:
    backend = Backend(settings).fit(cohort.vectors, speakers)
    written = {
        key: value
        for key, value in dataclasses.asdict(settings).items()
        if value not in (None, False)
    }
    if not calibrate:
        return System(kind, LABELS[kind], written, backend.score)
    try:
        calibration = Calibration().fit(
            *held_out_scores(cohort.vectors, speakers, settings, seed=seed)
        )
    except ValueError as error:
        raise UserError(
            f"score: {LABELS[kind]} can't be calibrated: {error}\n  Next: score "
            "without --calibrate, or train longer or on more speakers"
        ) from error

    def score(vectors, enroll, test):
        return calibration.transform(backend.score(vectors, enroll, test))

    learned = {"slope": calibration.slope, "offset": calibration.offset}
    return System(kind, LABELS[kind], written, score, learned)
