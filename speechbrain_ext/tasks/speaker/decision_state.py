"""A decision without its experiment: what was learned and measured, and no more.

No utterance and no name leaves the experiment with it: of the training speakers the
backend's statistics (AS-norm's are a mean direction for each speaker), of the trials
their scores, sorted, and whether each was a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from speechbrain_ext.errors import UserError
from speechbrain_ext.report.speaker.results import differences
from speechbrain_ext.scoring.backend import Backend, BackendSettings
from speechbrain_ext.scoring.figures import trial_figures
from speechbrain_ext.tasks.speaker.decision import BACKENDS, TRIALS, Decision

_KEPT = ("name", "label", "settings", "calibrated", "calibration")
_FIGURES = ("eer", "eer_threshold", "num_targets", "num_nontargets", "thresholds")


def decision_state(
    experiment: Path, checkpoint: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Gather what `KeptDecision` needs, for both backends.

    Arguments
    ---------
    experiment : Path
        Embedded and scored.
    checkpoint : str
        SHA-256 of its weights.

    Returns
    -------
    dict
        For JSON: ``systems`` (backend -> entry as in ``results.json``, the figures of
        the main list only) and ``shortest_seconds``.
    dict
        Name -> tensor; the names begin with the backend.

    Raises
    ------
    UserError
        As `Decision` does: not scored, or scored with other weights.
    """
    systems, tensors = {}, {}
    for backend in BACKENDS:
        decision = Decision(experiment, checkpoint, backend)
        found = decision.system
        figures = found["lists"][TRIALS]
        systems[backend] = {
            **{key: found[key] for key in _KEPT if key in found},
            "lists": {TRIALS: {key: figures[key] for key in _FIGURES}},
        }
        arrays = decision.learned.arrays()
        measured = decision.trial_scores()
        if measured is not None:
            # In this order nobody can tell which trial a score belongs to.
            order = np.lexsort(measured[::-1])
            arrays["scores"], arrays["labels"] = (part[order] for part in measured)
        for name, array in arrays.items():
            tensors[f"{backend}.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
    return {"systems": systems, "shortest_seconds": decision.shortest_seconds()}, (
        tensors
    )


def _counts(figures: Mapping[str, Any]) -> tuple[Any, Any]:
    return figures["num_targets"], figures["num_nontargets"]


class KeptDecision(Decision):
    """The decision of an export folder: scores and thresholds as the experiment's.

    Arguments
    ---------
    folder : Path
        For messages.
    state : Mapping or None
        What `decision_state` returned first; None: there was nothing to decide by.
    read_tensors : Callable
        Returns what `decision_state` returned second; called when it is needed.
    checkpoint : str
        SHA-256 of the weights.
    backend : {"chosen", "cosine"}
        Which system.
    """

    def __init__(
        self,
        folder: Path,
        state: Mapping[str, Any] | None,
        read_tensors: Callable[[], dict[str, torch.Tensor]],
        checkpoint: str,
        backend: str = "chosen",
    ):
        super().__init__(folder, checkpoint, backend)
        self._state = state
        self._read_tensors = read_tensors

    @cached_property
    def system(self) -> dict[str, Any]:
        """The system's entry, as in ``results.json``.

        Raises
        ------
        UserError
            If the model was exported without, or its figures are not those that its
            own scores give.
        """
        if self._state is None:
            self._refuse("was exported without scores and thresholds")
        try:
            found = self._state["systems"][self.backend]
            figures = found["lists"][TRIALS]
            _ = found["name"], found["label"], [figures[key] for key in _FIGURES]
            BackendSettings(**found["settings"])
            for value in (*_counts(figures), *found["settings"].values()):
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise TypeError(f"{value!r} is no number")
            self._check_calibration(found)
            odd = self._differences(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._refuse(f"does not say how to score ({error!r})")
        if odd:
            raise UserError(
                f"compare: {self.experiment / 'config.json'} was changed: {odd[0]}\n"
                "  Next: get the whole folder again, or export it again: "
                "speechbrain-ext export EXP"
            )
        return found

    def _differences(self, system: dict[str, Any]) -> list[str]:
        """Compare the figures with what the kept scores give; empty: they agree.

        An export does not say whether NaN counted as an error or was left out, so
        either will do.
        """
        if "scores" not in self._arrays:
            return []
        scores, labels = self._arrays["scores"], self._arrays["labels"]
        figures, problems = system["lists"][TRIALS], []
        for policy in ("count", "filter") if np.isnan(scores).any() else ("count",):
            found = trial_figures(scores, labels, nan=policy)
            problems = [
                line
                for key in _FIGURES
                for line in differences(key, figures[key], found[key])
            ]
            if not problems:
                break
        return problems

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        start = f"{self.backend}."
        return {
            name.removeprefix(start): tensor.numpy()
            for name, tensor in self._read_tensors().items()
            if name.startswith(start)
        }

    @cached_property
    def learned(self) -> Backend:
        """The backend as the experiment's cohort taught it.

        Raises
        ------
        UserError
            As `system`, and if its arrays are others than its settings say.
        """
        settings = BackendSettings(**self.system["settings"])
        learned = {
            name: array
            for name, array in self._arrays.items()
            if name not in ("scores", "labels")
        }
        try:
            return Backend.from_arrays(settings, learned)
        except (TypeError, ValueError) as error:
            self._refuse(f"does not fit what was learned: {error}")

    def trial_scores(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Scores and labels of the trials, sorted; None if they were not kept."""
        _ = self.system
        if "scores" not in self._arrays:
            return None
        return self._arrays["scores"], self._arrays["labels"]

    def shortest_seconds(self) -> float | None:
        """Length of the shortest utterance in the trials; None if it isn't known."""
        return None if self._state is None else self._state.get("shortest_seconds")

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(
            f"compare: {self.experiment} {why}\n  Next: score the experiment, and "
            "export it again: speechbrain-ext export EXP"
        )
