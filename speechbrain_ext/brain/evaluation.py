"""Validation and test: what is not finite is named, left out and counted."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.batches import batch_items, item_tensor, utterance_ids
from speechbrain_ext.brain.forensics.statistics import tensor_statistics
from speechbrain_ext.brain.forensics.suspects import bad_inputs
from speechbrain_ext.errors import WorkError

if TYPE_CHECKING:
    from speechbrain import Stage

    from speechbrain_ext.brain.nan_safe import NaNSafeBrain

logger = logging.getLogger(__name__)

#: Batches that are described one by one in a stage; the others are only counted.
_TOLD = 20


class Evaluation:
    """Watches the batches of a validation or test stage.

    Entered (as a context) for the length of a stage. Stock drops a NaN from the mean
    silently, divides by the number of all batches, and calls a mean of nothing 0.0,
    which then wins as the best checkpoint.

    Arguments
    ---------
    brain : NaNSafeBrain
        Its metric lists are put back for a batch that is left out.
    """

    def __init__(self, brain: NaNSafeBrain):
        self._brain = brain
        self.open = False
        #: what a stage around this one had seen: stages may be nested
        self._outer: list[tuple] = []
        self._reset()

    def _reset(self) -> None:
        self._finite = self._seen = 0
        #: batches of this stage that were left out: utterances and reason
        self.left_out: list[dict] = []

    @property
    def running(self) -> bool:
        """Whether a validation or test stage is going on."""
        return bool(self._outer)

    @property
    def empty(self) -> bool:
        """Whether a stage is going on that was given no batch so far."""
        return self.running and not self._seen

    @property
    def nothing_left(self) -> bool:
        """Whether all batches of a stage were left out, or there was none."""
        return self.running and len(self.left_out) == self._seen

    def __enter__(self) -> Evaluation:
        self._outer.append((self._finite, self._seen, self.left_out))
        self._reset()
        return self

    def __exit__(self, *exception) -> None:
        around = self._outer.pop()
        if self._outer:  # what the outermost stage left out may be read afterwards
            self._finite, self._seen, self.left_out = around

    def watch(
        self, evaluate: Callable[[Any], torch.Tensor], batch: Any, stage: Stage
    ) -> torch.Tensor:
        """Evaluate one batch; leave no trace of it if its loss is not finite.

        Returns
        -------
        torch.Tensor
            What ``evaluate(batch)`` returned; NaN if it raised.
        """
        brain, guard = self._brain, self._brain._guard
        self._seen += 1
        # Inside a batch that is learned from, its transaction is the one that counts.
        alone = not guard.open
        if alone:
            guard.transaction.begin()
            guard.held.open()
        self.open = True
        error = None
        try:
            loss = evaluate(batch)
            good = not isinstance(loss, torch.Tensor) or torch.isfinite(loss).all()
            if alone and good:
                guard.held.commit()
        except NotImplementedError:
            raise
        except Exception as raised:
            if not self._finite and not self.left_out:
                raise  # the first batch: more likely a bug of the code
            loss, error, good = torch.tensor(math.nan), raised, False
        finally:
            self.open = False
            if alone:
                guard.held.discard()
        if good:
            return loss
        if alone:
            step = brain.step
            guard.transaction.rollback()
            brain.step = step
        self._leave_out(batch, stage, error)
        return loss

    def _leave_out(self, batch: Any, stage: Stage, error: Exception | None) -> None:
        self._brain.health.left_out += 1
        utterances = utterance_ids(batch)
        inputs = bad_inputs(batch)
        reason = "the loss is not finite"
        if error is not None:
            reason = f"{type(error).__name__}: {error}"
        elif inputs:
            reason = inputs[0]
        self.left_out.append(
            {"utt_ids": utterances, "reason": reason, "stage": stage.name.lower()}
        )
        if len(self.left_out) > _TOLD:
            return
        lines = [
            f"{stage.name.lower()}: left out and counted: "
            f"{', '.join(utterances[:8]) or f'batch {self._brain.step}'}: {reason}"
        ]
        for name, item in batch_items(batch).items():
            tensor = item_tensor(item)
            if tensor is not None and tensor.is_floating_point() and tensor.ndim > 1:
                facts = tensor_statistics(tensor)
                told = ", ".join(
                    f"{key} {facts[key]:.4g}"
                    for key in ("nan", "inf", "min", "max", "mean", "std")
                    if key in facts
                )
                lines.append(f"  {name} {facts['shape']}: {told}")
        logger.warning("\n".join(lines))

    def tell_empty(self, stage: Stage, epoch: int | None, error: Exception) -> None:
        """Go on without a stage of which nothing is left to summarise.

        The weights of the epoch are saved all the same, without a metric.

        Raises
        ------
        WorkError
            In the test stage, whose summary was the purpose.
        """
        why = self.left_out[0]["reason"] if self.left_out else "there was no batch"
        told = (
            f"every {stage.name.lower()} batch was left out: on_stage_end had nothing "
            f"to summarise ({type(error).__name__}: {error})\n  first reason: {why}"
        )
        if stage.name == "TEST":
            raise WorkError(f"{told}\n  Next: mend or remove these files") from error
        logger.error("%s\n  Next: mend or remove these files; training goes on", told)
        if self._brain.checkpointer is not None:
            self._brain.checkpointer.save_checkpoint(meta={"epoch": epoch})

    def update_average(self, loss: torch.Tensor, average: float) -> float:
        """Return the mean over the finite losses so far; NaN before the first one."""
        if not torch.isfinite(loss):
            return average if self._finite else math.nan
        self._finite += 1
        if self._finite == 1:
            average = 0.0
        # The same operations, in the same order, as stock: equal bits where all are
        # finite.
        average -= average / self._finite
        average += float(loss) / self._finite
        return average
