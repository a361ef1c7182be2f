"""Finding the step with which a signal takes so many bits, or has such an SNR."""

from __future__ import annotations

import math
from collections.abc import Callable

from speechbrain_ext.codec.bands import NUM_STEPS, STEPS_PER_OCTAVE

#: Guesses that are made before what is left is halved.
_TRIALS = 6


def find_crossing(
    function: Callable[[int], float],
    target: float,
    first: int = NUM_STEPS // 2,
    *,
    slope: float | None = None,
    near: float = 0.0,
    least: int = 0,
) -> int:
    """Return the first step whose value is no more than a target.

    Coding a signal to know its size takes time, so steps are guessed from the values
    found so far, and halved only where guesses don't help.

    Arguments
    ---------
    function : Callable[[int], float]
        Falls as steps grow, nearly on a line; logarithms of bits, or dB.
    target : float
    first : int
        Where to begin: the nearer, the fewer calls.
    slope : float or None
        About how much a step changes the value, below 0; None: not known.
    near : float
        A value so little below the target will do, though an earlier step might do too.
    least : int
        First step that there is.

    Returns
    -------
    int
        In [``least``, `NUM_STEPS`]; the last if no step is coarse enough. It was asked
        for, if it is below.

    Example
    -------
    >>> calls = []
    >>> find_crossing(lambda step: calls.append(step) or 900 - step, 123.5, first=700)
    777
    >>> len(calls) < 8
    True
    >>> find_crossing(lambda step: 900 - step, 123.5, first=780, near=4)
    780
    """
    values: dict[int, float] = {}
    low, high = least - 1, NUM_STEPS  # above the target; at most the target
    guess, stride = min(max(first, least), NUM_STEPS - 1), STEPS_PER_OCTAVE // 4
    while high - low > 1:
        value = values[guess] = function(guess)
        if value > target:
            low = guess
        elif value >= target - near:
            return guess
        else:
            high = guess
        if high - low <= 1:
            break
        if low in values and high in values:
            share = (values[low] - target) / (values[low] - values[high])
            guess = low + math.ceil(share * (high - low))
            if len(values) > _TRIALS:
                guess = (low + high) // 2
        elif slope is not None and len(values) == 1:
            # Beyond the target rather than just before it.
            guess += math.ceil((target - near / 2 - value) / slope)
        elif low in values:
            guess, stride = low + stride, 2 * stride
        else:
            guess, stride = high - stride, 2 * stride
        guess = min(max(guess, low + 1), high - 1)
    return high


def find_costly_crossing(
    function: Callable[[int], float],
    target: float,
    rough: Callable[[int], float],
    *,
    near: float = 0.0,
    trusted: float = 0.0,
    least: int = 0,
) -> int:
    """Return the first step whose value is no more than a target, with few calls.

    Steps are those where another function that costs nothing, moved to go through what
    was found last and tilted to go through what was found before that, crosses the
    target. If that does not lead there soon, the rest is halved as in `find_crossing`.

    Arguments
    ---------
    function, target, near, least
        As `find_crossing` takes them.
    rough : Callable[[int], float]
        Falls about as ``function`` does.
    trusted : float
        A value so little below the target will do if the step before it is expected to
        be above. With 0 the step before was always asked for, unless ``near`` was met.

    Returns
    -------
    int
        In [``least``, `NUM_STEPS`]; it was asked for, if it is below.

    Example
    -------
    >>> calls = []
    >>> find_costly_crossing(
    ...     lambda step: calls.append(step) or 900 - step,
    ...     *(123.5, lambda step: 950 - step),
    ...     trusted=2,
    ... )
    777
    >>> len(calls)
    2
    """
    low, high = least - 1, NUM_STEPS
    at, moved, tilt, calls = NUM_STEPS // 2, 0.0, 0.0, 0

    def expected(step: int) -> float:
        return rough(step) + moved + tilt * (step - at)

    while high - low > 1:
        soon = calls < _TRIALS
        guess = (low + high) // 2
        if soon:
            guess = find_crossing(expected, target, at, least=least)
            guess = min(max(guess, low + 1), high - 1)
        value = function(guess)
        found = value - rough(guess)
        if calls:
            tilt = (found - moved) / (guess - at)
        at, moved, calls = guess, found, calls + 1
        if value > target:
            low = guess
            continue
        high = guess
        if value >= target - near:
            break
        believed = soon and guess - 1 > low and value >= target - trusted
        if believed and expected(guess - 1) > target:
            break
    return high
