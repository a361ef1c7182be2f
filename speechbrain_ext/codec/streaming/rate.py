"""A step for each packet, so that a stream keeps a rate."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from speechbrain_ext.codec.bands import NUM_STEPS
from speechbrain_ext.codec.rate_control import find_crossing

#: Part of the window over which what is left of its bits is spread.
_AHEAD = 0.25
#: Most that a step moves from packet to packet by itself, and to what it is rounded.
_MOST_MOVE, _GRID = 12, 4


class RateControl:
    """Chooses steps so that no stretch of time takes more bits than it may.

    In any ``window_seconds`` the packets have at most ``kbps`` on average, unless the
    coarsest step takes more. Steps follow how much the last packets have taken, so that
    they move slowly; only where a packet would break the limit is its step searched.

    Arguments
    ---------
    kbps : float
    packet_seconds : float
    window_seconds : float
        At least two packets long.
    size_line : tuple of float
        log2 of bits per packet at step 0, and its slope per step, of usual speech.

    Example
    -------
    >>> control = RateControl(8, 0.1, window_seconds=2, size_line=(18.0, -1 / 90))
    >>> steps = [control.choose(lambda s: 2 ** (17.0 - s / 90)) for _ in range(200)]
    >>> 0.9 < sum(2 ** (17.0 - s / 90) for s in steps[-20:]) / 16_000 <= 1
    True
    """

    def __init__(
        self,
        kbps: float,
        packet_seconds: float,
        *,
        window_seconds: float,
        size_line: tuple[float, float],
    ):
        packets = int(window_seconds / packet_seconds + 1e-9)
        if not kbps > 0 or packets < 2:
            raise ValueError(
                "RateControl: kbps must be positive and window_seconds hold two packets"
                f" of {packet_seconds:g} s, got {kbps} and {window_seconds}"
            )
        self._budget = 1000 * kbps * packets * packet_seconds
        self._recent: deque[float] = deque(maxlen=packets - 1)
        self._ahead = max(round(_AHEAD * packets), 1)
        start, self._slope = size_line
        self._size = 2.0**start  # of a usual packet, at step 0
        self._weight = 2 / packets
        self._step: int | None = None

    def choose(self, bits_of: Callable[[int], float]) -> int:
        """Return the step of the next packet, whose bits with a step are given."""
        step = self._steady()
        bits = bits_of(step)
        allowed = self._budget - sum(self._recent)
        if bits > allowed:
            step = min(find_crossing(bits_of, allowed, step), NUM_STEPS - 1)
            bits = bits_of(step)
        self._recent.append(bits)
        usual = bits * 2.0 ** (-self._slope * step)
        self._size += self._weight * (usual - self._size)
        self._step = step
        return step

    def _steady(self) -> int:
        """Step with which usual packets would take what is left."""
        packets = self._recent.maxlen + 1
        past = list(self._recent)[-(packets - self._ahead) :]
        # Before the stream, time passed at the rate.
        missing = packets - self._ahead - len(past)
        spent = sum(past) + missing * self._budget / packets
        each = max((self._budget - spent) / self._ahead, self._budget / packets / 8)
        wanted = math.log2(each / max(self._size, 1e-9)) / self._slope
        if self._step is not None:
            low, high = self._step - _MOST_MOVE, self._step + _MOST_MOVE
            wanted = min(max(wanted, low), high)
        return min(max(_GRID * round(wanted / _GRID), 0), NUM_STEPS - 1)
