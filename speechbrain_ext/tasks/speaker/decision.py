"""How an experiment scores two embeddings, and from which score on it says "same"."""

from __future__ import annotations

import json
import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.next_command import next_command
from speechbrain_ext.scoring.backend import Backend, BackendSettings
from speechbrain_ext.scoring.embeddings import EmbeddingError, EmbeddingSet
from speechbrain_ext.scoring.metrics import thresholds_at_far
from speechbrain_ext.scoring.trials import read_scores
from speechbrain_ext.sharing.kinds import kind_of
from speechbrain_ext.tasks.speaker.embed import embeddings_path, speakers_path

#: The list of trials that thresholds are taken from.
TRIALS = "main"
#: What may decide: the system that scoring chose, or the raw cosine.
BACKENDS = ("chosen", "cosine")


class Threshold(NamedTuple):
    """A decision limit, and how often it was wrong on the trials.

    Attributes
    ----------
    value : float
        The same speaker from this score on.
    rule : str
        ``equal error rate``, or ``false alarm rate at most ...``.
    far, frr : float
        False alarm and false rejection rate at it, in [0, 1].
    num_targets, num_nontargets : int
        Trials that ``frr`` and ``far`` were measured on.
    """

    value: float
    rule: str
    far: float
    frr: float
    num_targets: int
    num_nontargets: int

    @property
    def num_trials(self) -> int:
        """All of them."""
        return self.num_targets + self.num_nontargets


class Decision:
    """A system of an experiment's ``results.json``, learned again from its cohort.

    Nothing is read before it is asked for.

    Arguments
    ---------
    experiment : str or PathLike
        Embedded and scored.
    checkpoint : str
        SHA-256 of the weights whose embeddings shall be compared.
    backend : {"chosen", "cosine"}
        Which system.
    """

    def __init__(
        self, experiment: str | os.PathLike, checkpoint: str, backend: str = "chosen"
    ):
        if backend not in BACKENDS:
            raise ValueError(f"Decision: backend is one of {BACKENDS}, got {backend!r}")
        self.experiment = Path(experiment)
        self.checkpoint = checkpoint
        self.backend = backend

    @cached_property
    def system(self) -> dict[str, Any]:
        """The system's entry in ``results.json``.

        Raises
        ------
        UserError
            If there is none, its scores are calibrated but the map is not there, or
            they are of other weights.
        """
        path = self.experiment / "results.json"
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            if results["task"] != "speaker":
                self._refuse(f"is of the task {results['task']!r}")
            wanted = (
                (lambda system: system["chosen"])
                if self.backend == "chosen"
                else (lambda system: system["name"] == self.backend)
            )
            found = next(filter(wanted, results["systems"]))
            _ = found["name"], found["label"], found["settings"], found["lists"][TRIALS]
        except FileNotFoundError:
            self._refuse("is not there: the threshold is measured by scoring")
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            self._refuse(f"does not say how to score ({error!r})")
        self._check_calibration(found)
        self._check_weights()
        return found

    @property
    def label(self) -> str:
        """What tables call the system."""
        label = self.system["label"]
        if self.system["name"] == "cosine":
            label = "raw cosine"
        if self.system.get("calibration") is not None:
            label += ", calibrated: a log-likelihood ratio"
        return label

    @cached_property
    def learned(self) -> Backend:
        """The backend, learned from the cohort.

        Raises
        ------
        UserError
            As `system`, and if the cohort can't teach it.
        """
        settings = BackendSettings(**self.system["settings"])
        if settings == BackendSettings():
            return Backend(settings)
        try:
            cohort = EmbeddingSet.load(embeddings_path(self.experiment, "cohort"))
            path = speakers_path(self.experiment, "cohort")
            speakers = json.loads(path.read_text(encoding="utf-8"))
            named = [speakers[utt_id] for utt_id in cohort.ids]
            self._refuse_other_weights(cohort)
            return Backend(settings).fit(cohort.vectors, named)
        except (EmbeddingError, OSError, ValueError, KeyError) as error:
            self._refuse_unpacked()
            raise UserError(
                f"compare: {self.label} can't be learned from the training speakers of "
                f"{self.experiment}: {error}\n  Next: "
                f"{next_command('./run.sh --stage embed', self.experiment)} --force; "
                "or go without: --backend cosine"
            ) from error

    def _refuse_unpacked(self) -> None:
        """Say it of a bundle, which holds no embeddings to learn from."""
        absent = not embeddings_path(self.experiment, "cohort").exists()
        if absent and kind_of(self.experiment) == "unpacked":
            raise UserError(
                f"compare: {self.experiment} was unpacked from a bundle, which has no "
                f"embeddings to learn {self.label} from\n  Next: --backend cosine "
                "needs none; or ask its author for an export: speechbrain-ext export"
            )

    def score(self, one: np.ndarray, other: np.ndarray) -> float:
        """Score two embeddings, [dim] each; the higher, the more alike.

        A log-likelihood ratio where the experiment's scores are. NaN if one of them is
        zero or not finite: it has no direction.
        """
        pair = np.stack([one, other])
        score = float(self.learned.score(pair, np.array([0]), np.array([1]))[0])
        calibration = self.system.get("calibration")
        if calibration is None:
            return score
        return calibration["slope"] * score + calibration["offset"]

    def threshold(self, far: float | None = None) -> Threshold:
        """Return the lowest threshold with at most a given false alarm rate.

        Arguments
        ---------
        far : float or None
            In (0, 1); None: where false alarm and false rejection rate are equal.

        Raises
        ------
        UserError
            As `system`, and if no threshold has so few false alarms.
        """
        if far is not None and not 0 < far < 1:
            raise UserError(f"compare: --far must lie between 0 and 1, got {far:g}")
        figures = self.system["lists"][TRIALS]
        counts = figures["num_targets"], figures["num_nontargets"]
        if far is None:
            value, eer = figures["eer_threshold"], figures["eer"]
            if value is None or eer is None:
                self._refuse("has no threshold at the equal error rate")
            return Threshold(value, "equal error rate", eer, eer, *counts)
        found = self._measured_at(far)
        if found is None:
            listed = [
                (one["far"], one["frr"], one["threshold"])
                for one in figures["thresholds"]
                if one["far"] <= far and one["threshold"] is not None
            ]
            found = max(listed, default=None)
        if found is None or not np.isfinite(found[2]):
            self._refuse(f"has no threshold with a false alarm rate of {far:g} or less")
        rule = f"false alarm rate at most {100 * far:g} %"
        return Threshold(found[2], rule, found[0], found[1], *counts)

    def _measured_at(self, far: float) -> tuple[float, float, float] | None:
        """Measure on the scores themselves, where they are; else None."""
        measured = self.trial_scores()
        if measured is None:
            return None
        return tuple(thresholds_at_far(*measured, [far])[0])

    def trial_scores(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Scores and labels of the trials, [num_trials] each; None if not kept."""
        path = self._scores_path()
        if not path.exists():
            return None
        trials, scores = read_scores(path)
        return scores, trials.labels

    def shortest_seconds(self) -> float | None:
        """Length of the shortest utterance in the trials; None if it isn't known."""
        embeddings = embeddings_path(self.experiment, "test")
        if not (self._scores_path().exists() and embeddings.exists()):
            return None
        known = EmbeddingSet.load(embeddings)
        trials = read_scores(self._scores_path())[0]
        return float(known.seconds[known.row_numbers(trials.ids)].min())

    def _scores_path(self) -> Path:
        return self.experiment / "scores" / f"{self.system['name']}_{TRIALS}.npz"

    def _check_calibration(self, system: dict[str, Any]) -> None:
        """Refuse scores whose map to log-likelihood ratios is not there, or is none."""
        found = system.get("calibration")
        if found is None and not system.get("calibrated"):
            return
        try:
            slope, offset = float(found["slope"]), float(found["offset"])
        except (KeyError, TypeError, ValueError):
            slope = offset = math.nan
        if not (0 < slope < math.inf and math.isfinite(offset)):
            self._refuse("holds calibrated scores without the map that made them")

    def _check_weights(self) -> None:
        path = embeddings_path(self.experiment, "test")
        if path.exists():
            self._refuse_other_weights(EmbeddingSet.load(path))

    def _refuse_other_weights(self, embedded: EmbeddingSet) -> None:
        if embedded.checkpoint != self.checkpoint:
            raise UserError(
                f"compare: the embeddings of {self.experiment} are of other weights "
                "than its best checkpoint now, and so are the scores\n"
                "  Next: " + next_command("./run.sh --stage embed", self.experiment)
            )

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(
            f"compare: {self.experiment / 'results.json'} {why}\n  Next: "
            f"{next_command('./run.sh --stage score', self.experiment)}, or: python "
            "recipes/speaker/score.py "
            f"{self.experiment} --data SPLIT_FOLDER"
        )
