"""From which score on two recordings are taken for the same speaker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.scoring.embeddings import EmbeddingSet

#: The system and the list of trials that thresholds are taken from.
SYSTEM = "cosine"
TRIALS = "main"


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
    num_trials : int
        Trials it was measured on.
    """

    value: float
    rule: str
    far: float
    frr: float
    num_trials: int


class Thresholds:
    """Thresholds of an experiment's raw cosines, as measured on its main trials.

    Nothing is read before it is asked for.

    Arguments
    ---------
    experiment : str or PathLike
        With ``results.json``; ``scores/`` and ``embeddings/`` make it exact.
    checkpoint : str
        SHA-256 of the weights that scores shall be compared of.
    """

    def __init__(self, experiment: str | os.PathLike, checkpoint: str):
        self.experiment = Path(experiment)
        self.checkpoint = checkpoint

    def at(self, far: float | None = None) -> Threshold:
        """Return the lowest threshold with at most a given false alarm rate.

        Arguments
        ---------
        far : float or None
            In (0, 1); None: where false alarm and false rejection rate are equal.

        Raises
        ------
        UserError
            If there is no ``results.json`` of this task, no such threshold in it, or
            it was measured with other weights.
        """
        if far is not None and not 0 < far < 1:
            raise UserError(f"compare: --far must lie between 0 and 1, got {far:g}")
        figures = self._figures()
        self._check_weights()
        num_trials = figures["num_targets"] + figures["num_nontargets"]
        if far is None:
            value, eer = figures["eer_threshold"], figures["eer"]
            if value is None or eer is None:
                self._refuse("has no threshold at the equal error rate")
            return Threshold(value, "equal error rate", eer, eer, num_trials)
        found = self._from_scores(far)
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
        return Threshold(found[2], rule, found[0], found[1], num_trials)

    def shortest_seconds(self) -> float | None:
        """Length of the shortest utterance in the trials; None if it isn't known."""
        path = self._scores_path()
        embeddings = self.experiment / "embeddings" / "test.npz"
        if not (path.exists() and embeddings.exists()):
            return None
        from speechbrain_ext.scoring.trials import read_scores

        trials = read_scores(path)[0]
        known = EmbeddingSet.load(embeddings)
        return float(known.seconds[known.row_numbers(trials.ids)].min())

    def _scores_path(self) -> Path:
        return self.experiment / "scores" / f"{SYSTEM}_{TRIALS}.npz"

    def _from_scores(self, far: float) -> tuple[float, float, float] | None:
        path = self._scores_path()
        if not path.exists():
            return None
        from speechbrain_ext.scoring.metrics import thresholds_at_far
        from speechbrain_ext.scoring.trials import read_scores

        trials, scores = read_scores(path)
        return tuple(thresholds_at_far(scores, trials.labels, [far])[0])

    def _figures(self) -> dict[str, Any]:
        path = self.experiment / "results.json"
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            if results["task"] != "speaker":
                self._refuse(f"is of the task {results['task']!r}")
            system = next(s for s in results["systems"] if s["name"] == SYSTEM)
            if system.get("calibrated"):
                self._refuse("holds calibrated scores of raw cosine, no cosines")
            return system["lists"][TRIALS]
        except FileNotFoundError:
            self._refuse("is not there: the threshold is measured by scoring")
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            self._refuse(f"has no {TRIALS} trials of {SYSTEM}: {error!r}")

    def _check_weights(self) -> None:
        path = self.experiment / "embeddings" / "test.npz"
        if path.exists() and EmbeddingSet.load(path).checkpoint != self.checkpoint:
            raise UserError(
                f"compare: the scores in {self.experiment} are of other weights than "
                "its best checkpoint now\n  Next: ./run.sh --stage embed --force"
            )

    def _refuse(self, why: str) -> None:
        raise UserError(
            f"compare: {self.experiment / 'results.json'} {why}\n  Next: ./run.sh "
            "--stage embed, or: python recipes/speaker/score.py "
            f"{self.experiment} --data SPLIT_FOLDER"
        )
