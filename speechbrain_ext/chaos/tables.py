"""A chaos report as Markdown: what a tired person wants to know first, first."""

from __future__ import annotations

from collections.abc import Sequence

from speechbrain_ext.chaos.faults import FAULTS
from speechbrain_ext.chaos.plan import Result, totals
from speechbrain_ext.chaos.survival import OURS, Outcome, Row

_HEADS = {
    "stock": "stock",
    "off": "stock (mode off)",
    "skip": "skip (mode skip)",
    OURS: "ours",
}

LEGEND = """\
- **identical**: the whole state has the bits of the run that never had the fault: the
  batch was not delivered, or the state was not touched. Parameters, moments, buffers,
  statistics in plain attributes, counters, schedulers, logged losses, random streams.
- *finite*: went on to the end, no NaN or Inf in the state, other bits.
- *as stock*: nothing was flagged; every bit is that of stock after the same batches.
- *poisoned*: went on to the end with NaN or Inf in the state.
- *died*: an exception ended the run.
- -: the model has nothing that this fault could spoil.

Stock is ``speechbrain.Brain`` itself; mode off is our Brain told to be stock. Mode skip
leaves the step out when loss or gradients are not finite, and puts nothing back."""


def as_markdown(subject: str, results: Sequence[Result]) -> str:
    """Write the tables of one subject.

    Arguments
    ---------
    subject : str
        Its name, for the heading.
    results : Sequence[Result]
        The first has all guards; the others are compared by ours alone.

    Returns
    -------
    str
        Markdown; generated, not to be edited.
    """
    lines = [f"## {subject}", "", *_beside_stock(results[0]), ""]
    if len(results) > 1:
        lines += [*_everywhere(results), ""]
    lines += [*_totals(results), "", *_checks(results)]
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _beside_stock(result: Result) -> list[str]:
    guards = list(dict.fromkeys(guard for row in result.rows for guard in row.outcomes))
    rows = [
        [
            FAULTS[row.fault].title,
            *(_cell(row, guard) for guard in guards),
            _cause(row.outcomes.get(OURS)),
        ]
        for row in result.rows
    ]
    heads = ["fault", *(_HEADS[guard] for guard in guards), "cause named"]
    return [f"Fault at: {result.title}.", "", *_table(heads, rows)]


def _everywhere(results: Sequence[Result]) -> list[str]:
    rows = [
        [
            FAULTS[row.fault].title,
            *(_cell(result.rows[number], OURS) for result in results),
        ]
        for number, row in enumerate(results[0].rows)
    ]
    heads = ["fault, ours", *(result.title for result in results)]
    return _table(heads, rows)


def _totals(results: Sequence[Result]) -> list[str]:
    guards = list(dict.fromkeys(g for row in results[0].rows for g in row.outcomes))
    rows = []
    for title, chosen, names in (
        (results[0].title, results[:1], guards),
        ("everywhere", results, [OURS]),
    ):
        if title == "everywhere" and len(results) == 1:
            continue
        for guard in names:
            counts = totals(chosen, guard)
            seen = f"{counts.flagged_identical} of {counts.flagged}"
            causes = f"{counts.causes_right} of {counts.flagged}"
            rows.append(
                [
                    f"{_HEADS[guard]}, {title}",
                    f"{counts.finite} of {counts.cells}",
                    f"{counts.identical} of {counts.cells}",
                    seen if counts.flagged else "-",
                    causes if counts.flagged else "-",
                ]
            )
    heads = ["totals", "finite to the end", "identical", "of those flagged", "cause"]
    return _table(heads, rows)


def _checks(results: Sequence[Result]) -> list[str]:
    """Say which clean runs are not what they should be, or that all are."""
    lines = []
    for result in results:
        checks = result.checks
        if not checks.repeatable:
            lines.append(f"- {result.title}: two clean runs do not end alike.")
        if checks.rejected_clean:
            lines.append(
                f"- {result.title}: {checks.rejected_clean} batches of a clean run "
                "were rejected."
            )
        if checks.clean_as_stock is False:
            lines.append(
                f"- {result.title}: a clean run of ours does not end with the bits of "
                "stock's, so references are runs of ours."
            )
    if not lines:
        return ["Clean runs under guard end with the bits of stock, with 0 rejects."]
    return ["Clean runs:", *lines]


def _cell(row: Row, guard: str) -> str:
    if not row.applies or guard not in row.outcomes:
        return "-"
    outcome = row.outcomes[guard]
    if outcome.died:
        kind = outcome.died.split(":")[0]
        return f"died ({kind})" + ("" if outcome.finite else ", poisoned")
    if not outcome.finite:
        return "poisoned"
    if outcome.identical:
        return "**identical**"
    return "as stock" if outcome.as_stock else "finite"


def _cause(outcome: Outcome | None) -> str:
    if outcome is None or not outcome.flagged:
        return "-"
    if not outcome.causes:
        return "none"
    named = ", ".join(dict.fromkeys(outcome.causes))
    return named if outcome.cause_right else f"{named} (wrong)"
