"""Finite but absurd: a loss or gradient norm far outside what was usual."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable

from speechbrain_ext.brain.policy import NonFinitePolicy

#: Standard deviations of a normal distribution per median absolute deviation.
_SIGMAS_PER_MAD = 1.4826


class RunningMedian:
    """Median and spread of the last ``window`` values.

    Arguments
    ---------
    window : int
        How many values are kept (>= 1).

    Example
    -------
    >>> running = RunningMedian(3)
    >>> for value in (1.0, 9.0, 2.0, 3.0):
    ...     running.add(value)
    >>> running.median(), running.deviation()
    (3.0, 1.4826)
    """

    def __init__(self, window: int):
        self.window = window
        self.values: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take in one finite value; the oldest one leaves a full window."""
        if len(self.values) == self.window:
            oldest = self.values.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        self.values.append(value)
        bisect.insort(self._sorted, value)

    def fill(self, values: Iterable[float]) -> None:
        """Replace everything by these values, oldest first."""
        self.values = deque(list(values)[-self.window :])
        self._sorted = sorted(self.values)

    def median(self) -> float:
        """Return the median (the upper one of two), or NaN without values."""
        return self._sorted[len(self._sorted) // 2] if self._sorted else math.nan

    def deviation(self) -> float:
        """Return 1.4826 x the median absolute deviation from the median."""
        if not self._sorted:
            return math.nan
        # At the speed of C: value + (-median) has the bits of value - median.
        shift = (-self.median()).__add__
        distances = sorted(map(abs, map(shift, self._sorted)))
        return _SIGMAS_PER_MAD * distances[len(distances) // 2]


class SpikeGuard:
    """Limits above which a batch is a spike, learned from the committed ones.

    A value is a spike if it is above the running median by more than
    ``deviations`` robust standard deviations and by more than ``factor - 1`` times the
    size of the median (which is "above ``factor`` times the median" where the median
    is positive, and means something for losses such as a negative SNR too).

    Arguments
    ---------
    warmup : int
        Committed steps before the first limit; training moves fast at its start.
    window : int
        Steps that the running medians look back on.
    deviations, factor : float
        See above.

    The limits are refreshed every tenth commit: a median moves slowly, and sorting
    the window each time would cost more than the check.

    Example
    -------
    >>> guard = SpikeGuard(warmup=10, window=50)
    >>> for step in range(20):
    ...     guard.commit(loss=1.0 + step % 3, norm=1.0)
    >>> loss_limit, norm_limit = guard.limits
    >>> 10 < loss_limit < 20, norm_limit
    (True, 5.0)
    """

    _REFRESH = 10

    def __init__(
        self,
        *,
        warmup: int = 100,
        window: int = 200,
        deviations: float = 10.0,
        factor: float = 5.0,
    ):
        self.warmup, self.deviations, self.factor = warmup, deviations, factor
        self.loss = RunningMedian(window)
        self.norm = RunningMedian(window)
        self.committed = 0
        #: loss and gradient norm above which a batch is a spike; inf: no limit yet
        self.limits = (math.inf, math.inf)

    def commit(self, loss: float | None, norm: float | None) -> None:
        """Learn from a committed batch (None or non-finite: there was no such value).

        Arguments
        ---------
        loss, norm : float or None
            Loss and total gradient norm as the verdict saw them.
        """
        for history, value in ((self.loss, loss), (self.norm, norm)):
            if value is not None and math.isfinite(value):
                history.add(value)
        self.committed += 1
        past = self.committed - self.warmup
        if past >= 0 and past % self._REFRESH == 0:
            self._refresh()

    def _refresh(self) -> None:
        self.limits = (self._limit(self.loss), self._limit(self.norm))

    def _limit(self, history: RunningMedian) -> float:
        if not history.values:
            return math.inf
        above = max(
            self.deviations * history.deviation(),
            (self.factor - 1) * abs(history.median()),
        )
        # All values equal to zero say nothing about what would be too much.
        return history.median() + above if above > 0 else math.inf

    def state_dict(self) -> dict:
        """Return the history as plain lists and numbers."""
        return {
            "committed": self.committed,
            "loss": list(self.loss.values),
            "norm": list(self.norm.values),
            "limits": [None if math.isinf(edge) else edge for edge in self.limits],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from a history that `state_dict` returned."""
        self.committed = state["committed"]
        self.loss.fill(state["loss"])
        self.norm.fill(state["norm"])
        self.limits = (math.inf, math.inf)
        if "limits" in state:  # as refreshed last, or a replay would judge otherwise
            first, second = (math.inf if e is None else e for e in state["limits"])
            self.limits = (first, second)
        elif self.committed >= self.warmup:
            self._refresh()


class SpikeHistory:
    """One `SpikeGuard` for each set of optimizers that step together.

    A discriminator's gradient norms say nothing about its generator's.
    """

    def __init__(self, policy: NonFinitePolicy):
        self._policy = policy
        self._guards: dict[str, SpikeGuard] = {}

    def of(self, optimizers: dict) -> SpikeGuard | None:
        """Return the guard for these optimizers; None if spikes are not watched."""
        policy = self._policy
        if policy.spike == "off":
            return None
        key = "+".join(optimizers)
        if key not in self._guards:
            self._guards[key] = SpikeGuard(
                warmup=policy.spike_warmup,
                window=policy.spike_window,
                deviations=policy.spike_deviations,
                factor=policy.spike_factor,
            )
        return self._guards[key]

    def state_dict(self) -> dict:
        """Return all histories as plain data."""
        return {key: guard.state_dict() for key, guard in self._guards.items()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from histories that `state_dict` returned."""
        self._guards.clear()
        for key, history in state.items():
            guard = self.of({key: None})
            if guard is not None:  # spikes may not be watched any more
                guard.load_state_dict(history)
