"""A step for each packet, so that a stream keeps a rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from speechbrain_ext.codec.bands import NUM_STEPS
from speechbrain_ext.codec.rate_control import find_crossing

#: Most that a step moves from packet to packet by itself, and to what it is rounded.
_MOST_MOVE, _GRID = 12, 4
#: A packet may leave so much of the bucket (as a logarithm to base 2).
_NEAR_BITS = 0.1
#: How full the bucket is at first, and is kept.
_LEVEL = 0.5
#: Seconds over which sizes are averaged.
_MEMORY_SECONDS = 3.0


class RateControl:
    """Chooses steps so that a channel of a constant rate is never far behind.

    A token bucket: any stretch of t seconds has at most ``kbps * (t + window_seconds)``
    kilobits, unless the coarsest step takes more. Steps follow what the last packets
    took, so that they move slowly; only where a packet would break the limit is its
    step searched.

    Arguments
    ---------
    kbps : float
    packet_seconds : float
    window_seconds : float
        At least two packets long: how much louder and softer parts may even out.
    size_line : tuple of float
        log2 of bits per packet at step 0, and its slope per step, of usual speech.

    Example
    -------
    >>> control = RateControl(8, 0.1, window_seconds=1, size_line=(18.0, -1 / 90))
    >>> bits = [2 ** (17 - control.choose(lambda s: 2 ** (17 - s / 90)) / 90)
    ...         for _ in range(300)]
    >>> 0.97 < sum(bits) / 240_000 < 1.02
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
        if not kbps > 0 or window_seconds < 2 * packet_seconds:
            raise ValueError(
                "RateControl: kbps must be positive and window_seconds at least two "
                f"packets of {packet_seconds:g} s, got {kbps} and {window_seconds}"
            )
        self._each = 1000 * kbps * packet_seconds
        self._depth = 1000 * kbps * window_seconds
        self._level = _LEVEL * self._depth
        start, self._slope = size_line
        self._usual = 2.0**start
        self._weight = min(packet_seconds / _MEMORY_SECONDS, 0.5)
        self._step: int | None = None

    def choose(self, bits_of: Callable[[int], float]) -> int:
        """Return the step of the next packet, whose bits with a step are given."""
        self._level = min(self._level + self._each, self._depth)
        step = self._steady()
        bits = bits_of(step)
        if bits > self._level:
            step = find_crossing(
                lambda at: math.log2(bits_of(at)),
                math.log2(max(self._level, 1)),
                step,
                slope=self._slope,
                near=_NEAR_BITS,
            )
            step = min(step, NUM_STEPS - 1)
            bits = bits_of(step)
        self._level -= bits
        usual = bits * 2.0 ** (-self._slope * step)
        self._usual += self._weight * (usual - self._usual)
        self._step = step
        return step

    def _steady(self) -> int:
        """Step with which usual packets would bring the bucket to its level."""
        beyond = (self._level - self._each) / self._depth - _LEVEL
        # Four times the rate from a full one, a quarter of it from an empty one.
        wanted = math.log2(self._each / max(self._usual, 1e-9)) + 4 * beyond
        wanted /= self._slope
        if self._step is not None:
            low, high = self._step - _MOST_MOVE, self._step + _MOST_MOVE
            wanted = min(max(wanted, low), high)
        return min(max(_GRID * round(wanted / _GRID), 0), NUM_STEPS - 1)
