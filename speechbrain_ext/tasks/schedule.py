"""What changes from step to step: learning rate, margin, a discriminator's turns."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from speechbrain_ext.data import sampler


@register_checkpoint_hooks
class StepSchedule:
    """Counts the optimizer steps that were taken; the count is kept in checkpoints.

    Attributes
    ----------
    step : int
        Steps taken so far.
    """

    def __init__(self):
        self.step = 0

    def advance(self) -> None:
        """Count one optimizer step that was taken."""
        self.step += 1

    @mark_as_saver
    def _save(self, path):
        Path(path).write_text(str(self.step), encoding="utf-8")

    @mark_as_loader
    def _load(self, path, end_of_epoch=False):
        self.step = int(Path(path).read_text(encoding="utf-8"))


class WarmupCosine(StepSchedule):
    """Sets the learning rate before each optimizer step: warm-up, then half a cosine.

    Loshchilov & Hutter, 2017, https://arxiv.org/abs/1608.03983, without restarts.

    Arguments
    ---------
    learning_rate : float
        Peak, reached after the warm-up (> 0).
    warmup_steps : int
        Optimizer steps of linear warm-up (>= 0).
    final_scale : float
        The last step's share of the peak, in [0, 1].
    total_steps : int or None
        Length of the run in optimizer steps; the task fills it in where None.

    Example
    -------
    >>> schedule = WarmupCosine(1.0, warmup_steps=2, final_scale=0.0, total_steps=6)
    >>> [round(schedule.at(step), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(
        self,
        learning_rate: float,
        warmup_steps: int = 0,
        final_scale: float = 0.05,
        total_steps: int | None = None,
    ):
        super().__init__()
        if learning_rate <= 0 or warmup_steps < 0 or not 0 <= final_scale <= 1:
            raise ValueError(
                "WarmupCosine: learning_rate must be > 0, warmup_steps >= 0 and "
                f"final_scale in [0, 1], got {learning_rate}, {warmup_steps} and "
                f"{final_scale}"
            )
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.final_scale = final_scale
        self.total_steps = total_steps

    def at(self, step: int) -> float:
        """Learning rate of the 0-based optimizer step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        length = max(1, (self.total_steps or 0) - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / length)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        scale = self.final_scale + (1 - self.final_scale) * cosine
        return self.learning_rate * scale

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of the coming step in all parameter groups."""
        for group in optimizer.param_groups:
            group["lr"] = self.at(self.step)


class MarginRamp(StepSchedule):
    """Lets a classifier's margin grow from 0 to its value in the middle of a run.

    A margin from the first step on holds back a network whose embeddings say nothing
    yet. WeSpeaker (https://arxiv.org/abs/2210.17016) raises it likewise.

    Arguments
    ---------
    margin : float
        The last value, radians (>= 0).
    start : float
        Share of the run that goes without a margin.
    end : float
        Share of the run from which the margin is whole (0 <= start <= end <= 1).
    total_steps : int or None
        Length of the run in optimizer steps; the task fills it in where None.

    Example
    -------
    >>> ramp = MarginRamp(0.2, start=0.1, end=0.5, total_steps=10)
    >>> [round(ramp.at(step), 3) for step in range(7)]
    [0.0, 0.0, 0.05, 0.1, 0.15, 0.2, 0.2]
    """

    def __init__(
        self,
        margin: float,
        start: float = 0.1,
        end: float = 0.4,
        total_steps: int | None = None,
    ):
        super().__init__()
        if not (margin >= 0 and 0 <= start <= end <= 1):
            raise ValueError(
                "MarginRamp: margin must be >= 0 and 0 <= start <= end <= 1, got "
                f"{margin}, {start} and {end}"
            )
        self.margin = margin
        self.start, self.end = start, end
        self.total_steps = total_steps

    def at(self, step: int) -> float:
        """Margin of the 0-based optimizer step, radians."""
        if self.total_steps is None:
            raise ValueError("MarginRamp: set total_steps before the first step")
        first, last = self.start * self.total_steps, self.end * self.total_steps
        if step >= last:
            return self.margin
        if step <= first:
            return 0.0
        return self.margin * (step - first) / (last - first)

    def apply(self, classifier: torch.nn.Module) -> None:
        """Set the margin of the coming step; the classifier may be wrapped by DDP."""
        getattr(classifier, "module", classifier).set_margin(self.at(self.step))


class DiscriminatorSchedule(torch.nn.Module):
    """When a discriminator is heard, when it learns, and how fast.

    A module, so that its count belongs to what is put back with a rejected batch,
    dumped with it and replayed.

    Arguments
    ---------
    start_step : int
        Steps of the generator that are taken without the discriminator (>= 0): there
        is nothing to learn from telling noise from speech.
    update_probability : float
        Share of the batches after that which the discriminator learns from, in (0, 1];
        the generator hears it in all. 2/3 at 24 kHz and 1/2 at 48 kHz in EnCodec
        (Defossez et al., 2022, sec. 3.4). Which ones is a function of ``seed`` and
        the step alone.
    learning_rate_scale : float
        Its learning rate over that of the generator at each step (> 0).
    seed : int
        The experiment's seed.

    Attributes
    ----------
    step : int
        Steps of the generator so far.

    Example
    -------
    >>> schedule = DiscriminatorSchedule(start_step=3, update_probability=0.5)
    >>> [(schedule.is_heard_at(step), schedule.learns_at(step)) for step in (2, 3, 4)]
    [(False, False), (True, False), (True, True)]
    """

    def __init__(
        self,
        start_step: int = 0,
        update_probability: float = 2 / 3,
        learning_rate_scale: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        right = start_step >= 0 and 0 < update_probability <= 1
        if not (right and learning_rate_scale > 0):
            raise ValueError(
                "DiscriminatorSchedule: start_step must be >= 0, update_probability "
                f"in (0, 1] and learning_rate_scale > 0, got {start_step}, "
                f"{update_probability} and {learning_rate_scale}"
            )
        self.start_step = start_step
        self.update_probability = update_probability
        self.learning_rate_scale = learning_rate_scale
        self.seed = seed
        self.step = 0

    def is_heard_at(self, step: int) -> bool:
        """Whether the generator hears the discriminator in its 0-based step."""
        return step >= self.start_step

    def learns_at(self, step: int) -> bool:
        """Whether the discriminator learns in the generator's 0-based step."""
        draw = sampler.generator_for(self.seed, step, "discriminator").random()
        return self.is_heard_at(step) and draw < self.update_probability

    def advance(self) -> None:
        """Count one step of the generator that was taken."""
        self.step += 1

    def get_extra_state(self) -> int:
        """Return the count, for checkpoints."""
        return self.step

    def set_extra_state(self, state: int) -> None:
        """Go on from a count."""
        self.step = int(state)
