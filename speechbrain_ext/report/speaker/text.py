"""How figures of speaker verification are written, and what is said about them."""

from __future__ import annotations

from typing import Any

#: Utterances named in a sentence.
_NAMED = 5

CONFUSION_NOTE = (
    "Accepted and missed are at the threshold of the equal error rate, on all trials "
    "of the list. A pair that is nearly always accepted may be one person under two "
    "names; a speaker whose targets are missed may be two people under one."
)


def percent(value: float | None) -> str:
    """Write a rate in per cent with two digits after the point, without the sign."""
    return "--" if value is None else f"{100 * value:.2f}"


def interval(pair: list[float] | None) -> str:
    """Write an interval of rates in per cent, such as ``[3.3, 8.1]``."""
    if pair is None:
        return "[--]"
    return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]"


def small(value: float | None) -> str:
    """Write a cost with three digits after the point."""
    return "--" if value is None else f"{value:.3f}"


def missing_note(figures: dict[str, Any], policy: str) -> str:
    """Say what became of the trials without score; empty if there are none."""
    missing = figures["nan_trials"]
    if not missing:
        return ""
    total = figures["num_targets"] + figures["num_nontargets"]
    if policy == "filter":
        return (
            f"filtered: {missing:,} of {total + missing:,} trials left out, as many "
            "toolkits do: the figures are better than the system"
        )
    return f"{missing:,} of {total:,} trials have no score and count as errors"


def trials_note(system: dict[str, Any]) -> str:
    """Count the trials of each list."""
    counts = [
        f"{name} {figures['num_targets']:,} targets and "
        f"{figures['num_nontargets']:,} non-targets"
        for name, figures in system["lists"].items()
    ]
    return f"Trials: {'; '.join(counts)}."


def cohort_note(results: dict[str, Any]) -> str:
    """Name the training utterances that no backend could learn from."""
    left_out = results["nan_trials"]["cohort"]
    if not left_out:
        return ""
    return (
        f"Left out of what the backends learned, since their embedding is not finite: "
        f"{len(left_out)} cohort utterances ({', '.join(left_out[:_NAMED])}"
        f"{', ...' if len(left_out) > _NAMED else ''})."
    )
