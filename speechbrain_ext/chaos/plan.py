"""Which runs a chaos report consists of, and the report itself as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechbrain_ext.brain import NonFinitePolicy
from speechbrain_ext.chaos.faults import FAULTS
from speechbrain_ext.chaos.reference import ReferenceModel
from speechbrain_ext.chaos.survival import (
    OURS,
    POSITIONS,
    Checks,
    Row,
    Subject,
    Survey,
    chaos_policy,
)


@dataclass(frozen=True)
class Variant:
    """Something about a reference model or its policy that is tried beside the plain.

    Attributes
    ----------
    title : str
        Heading of tables.
    model, policy : dict
        Arguments of `ReferenceModel` and `NonFinitePolicy` that differ.
    """

    title: str
    model: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)


VARIANTS: dict[str, Variant] = {
    "dropout": Variant("dropout", {"dropout": 0.1}),
    "scheduler": Variant("scheduler", {"scheduler": True}),
    "dict": Variant("dict batch", {"batch_kind": "dict"}),
    "spike": Variant("spike: reject", {}, {"spike": "reject", "spike_warmup": 15}),
}


@dataclass
class Setting:
    """One survey to be made: the subject, where faults strike, under which guards."""

    subject: Subject
    position: str
    title: str
    policy: NonFinitePolicy
    guards: tuple[str, ...] = (OURS,)


@dataclass
class Result:
    """All rows of one setting."""

    title: str
    checks: Checks
    rows: list[Row]


def reference_settings(
    name: str, batches: int, positions: Sequence[str], variants: Sequence[str]
) -> list[Setting]:
    """List the settings of a reference model: `subject_settings`, then variants.

    Arguments
    ---------
    name : str
        One of ``reference.MODELS``.
    batches : int
        In all.
    positions, variants : Sequence[str]
        Keys of `POSITIONS` and `VARIANTS`; variants are tried at the first position.
    """
    model = ReferenceModel(name, batches=batches)
    settings = subject_settings(model, NonFinitePolicy(), positions)
    for key in variants:
        variant = VARIANTS[key]
        settings.append(
            Setting(
                dataclasses.replace(model, **variant.model),
                positions[0],
                variant.title,
                dataclasses.replace(chaos_policy(), **variant.policy),
            )
        )
    return settings


def subject_settings(
    subject: Subject, policy: NonFinitePolicy, positions: Sequence[str]
) -> list[Setting]:
    """List the settings of a subject: all guards at the first position, then ours."""
    return [
        Setting(
            subject,
            position,
            POSITIONS[position].title,
            chaos_policy(policy),
            (OURS,) if number else subject.guards,
        )
        for number, position in enumerate(positions)
    ]


def carry_out(
    settings: Iterable[Setting],
    faults: Sequence[str],
    tell: Callable[[str], None] = lambda what: None,
) -> list[Result]:
    """Make every run.

    Arguments
    ---------
    settings : Iterable[Setting]
        Of one subject.
    faults : Sequence[str]
        Keys of `FAULTS`.
    tell : Callable
        Called with a title before each row: ``len(faults) + 1`` times a setting.

    Returns
    -------
    list of Result
        In the order of the settings.
    """
    results = []
    for setting in settings:
        tell(f"{setting.subject.name}, {setting.title}: clean runs")
        survey = Survey(
            setting.subject, POSITIONS[setting.position], setting.policy, setting.title
        )
        rows = []
        for name in faults:
            tell(f"{setting.subject.name}, {setting.title}: {FAULTS[name].title}")
            rows.append(survey.row(FAULTS[name], setting.guards))
        results.append(Result(setting.title, survey.checks, rows))
    return results


@dataclass
class Totals:
    """Counts over rows to which the fault applies, for one guard.

    Attributes
    ----------
    cells : int
        Faults tried.
    finite : int
        Went on to the end with a finite state.
    identical : int
        ... whose state has the bits of the reference.
    flagged, flagged_identical : int
        Seen by the guard; and of these, identical.
    causes_right : int
        Of those seen, with the right cause.
    as_expected : int
        Seen where it had to be, identical; else exactly as stock.
    """

    cells: int = 0
    finite: int = 0
    identical: int = 0
    flagged: int = 0
    flagged_identical: int = 0
    causes_right: int = 0
    as_expected: int = 0


def totals(results: Iterable[Result], guard: str) -> Totals:
    """Count the outcomes of one guard."""
    counts = Totals()
    for row in (row for result in results for row in result.rows):
        outcome = row.outcomes.get(guard)
        if not row.applies or outcome is None:
            continue
        counts.cells += 1
        counts.finite += outcome.finite and not outcome.died
        counts.identical += outcome.identical
        counts.flagged += outcome.flagged
        counts.flagged_identical += outcome.flagged and outcome.identical
        counts.causes_right += bool(outcome.cause_right)
        counts.as_expected += guard == OURS and row.as_expected
    return counts


def survived(results: Iterable[Result]) -> bool:
    """Whether ours survived everything, and its clean runs are what they should be."""
    return all(
        result.checks.sound and all(row.survived for row in result.rows)
        for result in results
    )


def as_json(subject: str, results: Sequence[Result]) -> dict:
    """Return the results of one subject as plain data.

    Arguments
    ---------
    subject : str
        Its name.
    results : Sequence[Result]
        Of `carry_out`.

    Returns
    -------
    dict
        ``subject``, ``survived``, ``totals`` (guard -> counts), ``settings`` (a list
        of ``title``, ``checks`` and ``rows``, whose outcomes are by guard).
    """
    guards = list(
        dict.fromkeys(g for r in results for row in r.rows for g in row.outcomes)
    )
    return {
        "subject": subject,
        "survived": survived(results),
        "totals": {g: dataclasses.asdict(totals(results, g)) for g in guards},
        "settings": [
            {
                "title": result.title,
                "checks": dataclasses.asdict(result.checks),
                "rows": [
                    {
                        **dataclasses.asdict(row),
                        "survived": row.survived,
                        "as_expected": row.as_expected,
                    }
                    for row in result.rows
                ],
            }
            for result in results
        ],
    }
