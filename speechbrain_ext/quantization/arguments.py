"""Faults in constructor arguments, all told at once."""

from __future__ import annotations

import math
from collections.abc import Iterable


def check_arguments(owner: str, rules: Iterable[tuple[bool, str, object, str]]) -> None:
    """Raise one ValueError that lists every argument breaking its rule.

    Arguments
    ---------
    owner : str
        Who complains.
    rules : Iterable[tuple[bool, str, object, str]]
        (whether the rule holds, the argument's name, its value, the rule).

    Raises
    ------
    ValueError
        If a rule does not hold.

    Example
    -------
    >>> check_arguments("Cup", [(False, "volume", -1, "> 0"), (True, "ears", 1, "")])
    Traceback (most recent call last):
    ValueError: Cup: volume must be > 0, got -1
    """
    faults = [
        f"{name} must be {rule}, got {value!r}"
        for holds, name, value, rule in rules
        if not holds
    ]
    if faults:
        raise ValueError(f"{owner}: " + "; ".join(faults))


def one_of(name: str, value: object, names: tuple) -> tuple[bool, str, object, str]:
    """Rule for `check_arguments`: the value is one of these names."""
    return value in names, name, value, " or ".join(map(repr, names))


def within(
    name: str, value: float, least: float, most: float
) -> tuple[bool, str, object, str]:
    """Rule for `check_arguments`: least <= value <= most; most may be infinite."""
    rule = f">= {least}" if most == math.inf else f"between {least} and {most}"
    return least <= value <= most, name, value, rule
