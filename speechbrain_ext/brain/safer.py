"""Safer settings for a while: a smaller learning rate, no mixed precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from speechbrain_ext.brain.nan_safe import NaNSafeBrain


class SaferSettings:
    """Emergency settings, switched on by the run itself.

    The learning rate is multiplied around ``optimizer.step()`` alone, so that
    schedulers, logs and checkpoints never see another value than their own. Mixed
    precision is switched off inside the context that the Brain opens around forward.

    Arguments
    ---------
    factor : float
        On the learning rate of each group, in (0, 1].
    steps : int
        Steps for which the settings hold once they are switched on.
    """

    def __init__(self, factor: float, steps: int):
        self.factor, self.steps = factor, steps
        self.left = 0
        self._rates: list[tuple[dict, object]] = []

    @property
    def on(self) -> bool:
        """Whether the settings hold now."""
        return self.left > 0

    def switch_on(self) -> None:
        """Hold for ``steps`` more steps."""
        self.left = self.steps

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Lower the rates; `after_step` puts them back."""
        if self.on:
            for group in optimizer.param_groups:
                self._rates.append((group, group["lr"]))
                group["lr"] = group["lr"] * self.factor

    def after_step(self) -> None:
        """Give every group its own rate back."""
        for group, rate in self._rates:
            group["lr"] = rate
        self._rates.clear()

    def count_step(self) -> bool:
        """Count a committed step; return True when the settings end with it."""
        if not self.on:
            return False
        self.left -= 1
        return not self.on

    @contextlib.contextmanager
    def full_precision(self, brain: NaNSafeBrain) -> Iterator[None]:
        """While the settings hold, let ``brain.training_ctx`` open no autocast.

        Recipes open this context in a ``fit_batch`` of their own too; one that opens
        ``torch.autocast`` itself keeps its precision.
        """
        if not self.on:
            yield
            return
        stock = brain.training_ctx
        brain.training_ctx = torch.autocast(brain.device_type, enabled=False)
        try:
            yield
        finally:
            brain.training_ctx = stock
