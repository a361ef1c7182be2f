"""Fair timing of several things on a machine that others use too.

Absolute times of one process are worth little on a shared machine; the ratio of two
calls that ran within a second of each other is worth more, and the median of many such
ratios more still. What is counted is the process's CPU time: with one thread that is
the wall time of an idle machine, without the moments when others had the core.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from speechbrain_ext.errors import UserError

MIB = 2**20


def import_peer(module: str, package: str) -> ModuleType:
    """Import a package to compare with.

    Arguments
    ---------
    module : str
        What to import.
    package : str
        Its name on PyPI.

    Raises
    ------
    UserError
        If it is not installed; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"bench: the package {package} to compare with can't be imported ({error});"
            f" install it with: python -m pip install {package}"
        ) from error


def time_interleaved(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    *,
    warm_up: int = 2,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Time several callables in turn, round after round.

    Every round calls each once, in an order that rotates by one from round to round,
    so that a slow second hits all alike and nobody always follows the same neighbour.

    Arguments
    ---------
    calls : dict[str, Callable]
        What to time, by name.
    repeats : int
        Number of rounds that count (>= 1).
    warm_up : int
        Rounds before them that don't.
    clock : Callable
        Returns seconds; the default is for work on one thread of the CPU.

    Returns
    -------
    dict[str, list[float]]
        Seconds per name, one number per round: element i of all lists is of the same
        round.

    Example
    -------
    >>> times = time_interleaved({"a": lambda: 1, "b": lambda: 2}, repeats=3)
    >>> [len(times[name]) for name in "ab"]
    [3, 3]
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_index in range(warm_up + repeats):
        shift = round_index % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            calls[name]()
            elapsed = clock() - start
            if round_index >= warm_up:
                times[name].append(elapsed)
    return times


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Median and quartiles, as written to the results.

    Example
    -------
    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'lower_quartile': 1.5, 'upper_quartile': 2.5}
    """
    if len(values) == 1:
        values = values * 2
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": round(median, digits),
        "lower_quartile": round(lower, digits),
        "upper_quartile": round(upper, digits),
    }


def compare(
    times: dict[str, list[float]], ours: str, peer: str, goal: float | None = None
) -> dict:
    """How many times as fast as the peer: the ratios of each round.

    Arguments
    ---------
    times : dict[str, list[float]]
        From `time_interleaved`.
    ours, peer : str
        Names in ``times``.
    goal : float or None
        What was promised.

    Returns
    -------
    dict
        ``ours``, ``peer``, ``goal`` and the `spread` of peer's time over ours.

    Example
    -------
    >>> compare({"a": [1.0, 2.0], "b": [3.0, 6.0]}, "a", "b")["median"]
    3.0
    """
    ratios = [b / a for a, b in zip(times[ours], times[peer], strict=True)]
    return {"ours": ours, "peer": peer, "goal": goal, **spread(ratios)}


def peak_step_mib(call: Callable[[], object]) -> float:
    """Most CPU memory that one call holds at a time beyond what it found, in MiB.

    Counted by torch's own allocator through its profiler, so other tensors, caches of
    the allocator and the rest of the process don't enter.

    Example
    -------
    >>> call = lambda: torch.empty(2**20).sum()
    >>> round(peak_step_mib(call))
    4
    """
    call()  # lazily made state is not the step's
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    ]
    held = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        peak = max(peak, held)
    return peak / MIB


def state_mib(module: torch.nn.Module) -> float:
    """Memory of a module's parameters and buffers, in MiB."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def peer_versions(packages: list[str]) -> dict[str, str]:
    """Versions of installed packages, by their names on PyPI."""
    return {package: importlib.metadata.version(package) for package in packages}
