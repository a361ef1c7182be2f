"""What the guard knows, as a part of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from speechbrain_ext.files import write_json

if TYPE_CHECKING:
    from speechbrain_ext.brain.guard import Guard


@register_checkpoint_hooks
class GuardRecord:
    """Counts of the run and the spike guard's history, saved with each checkpoint.

    A folder without it (written by stock SpeechBrain) loads all the same.
    """

    def __init__(self, guard: Guard):
        self._guard = guard

    @mark_as_saver
    def save(self, path: str) -> None:
        """Write both as JSON."""
        write_json(
            Path(path),
            {
                "health": self._guard.health.state_dict(),
                "spikes": self._guard.spike_history.state_dict(),
            },
        )

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        """Go on from a checkpoint's counts."""
        del end_of_epoch
        guard = self._guard
        if guard.brain.is_evaluating and guard.health.epoch_batches:
            return  # to test the best checkpoint does not undo what the run has seen
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        guard.health.load_state_dict(state["health"])
        guard.spike_history.load_state_dict(state["spikes"])
