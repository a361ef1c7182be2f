"""Run each fault under each guard, and compare what is left with its reference.

Bit by bit. The reference of a batch fault is the run to which that batch was never
delivered; that of a state fault is the clean run. Stock makes the references where a
clean run of ours ends with stock's bits; else ours does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from speechbrain_ext.brain import NonFinitePolicy
from speechbrain_ext.chaos.comparison import differences, nonfinite, state_of
from speechbrain_ext.chaos.faults import Fault
from speechbrain_ext.chaos.injection import Deliveries, Injection, Place
from speechbrain_ext.errors import UserError

#: The guard that is tried out; the others are what it is compared with.
OURS = "transaction"
#: Names of differing state that a result keeps.
_MAX_NAMES = 3


class Subject(Protocol):
    """Something that can be trained again and again from the same first state."""

    name: str
    guards: tuple[str, ...]

    def epochs(self) -> list[list[Any]]:
        """Return the batches of each epoch."""

    def brain(
        self, guard: str, policy: NonFinitePolicy, folder: Path, accumulation: int
    ) -> Any:
        """Build the Brain anew and set all random streams."""

    def fit(self, brain: Any, deliveries: Deliveries) -> None:
        """Train it."""


@dataclass(frozen=True)
class Position:
    """Where in a run the fault strikes.

    Attributes
    ----------
    name, title : str
        Key in `POSITIONS`, and heading of tables.
    places : Callable
        ``lengths of the epochs -> ((epoch, batch), ...)``, counted from 0.
    accumulation : int
        Batches in an optimizer step.
    """

    name: str
    title: str
    places: Callable[[list[int]], tuple[Place, ...]]
    accumulation: int = 1


def _middle(lengths: list[int]) -> int:
    """Two thirds into the first epoch: batch 20 of an epoch of 30."""
    return max(0, lengths[0] * 2 // 3 - 1)


POSITIONS: dict[str, Position] = {
    position.name: position
    for position in (
        Position("middle", "middle", lambda n: ((0, _middle(n)),)),
        Position("first", "first batch", lambda n: ((0, 0),)),
        Position("last", "last batch of an epoch", lambda n: ((0, n[0] - 1),)),
        Position(
            "twice", "twice in a row", lambda n: ((0, _middle(n)), (0, _middle(n) + 1))
        ),
        # 1-based batch 4k + 2: neither first nor last of its window.
        Position(
            "window",
            "in a window of 4",
            lambda n: ((0, _middle(n) // 4 * 4 + 1),),
            accumulation=4,
        ),
    )
}


@dataclass
class Run:
    """What one run left.

    Attributes
    ----------
    died : str
        Type and first line of the exception that ended it; empty: it went on to the
        end.
    state : dict
        `state_of` the Brain.
    fired : bool
        Whether there was anything that the fault could spoil.
    rejected, replayed : int
        Batches, as the guard counts them; 0 under stock.
    causes : list of str
        Diagnoses of the incidents, in order.
    seconds : float
        Of fit.
    """

    died: str
    state: dict[str, Any]
    fired: bool
    rejected: int
    replayed: int
    causes: list[str]
    seconds: float


@dataclass
class Outcome:
    """One fault under one guard, beside its reference.

    Attributes
    ----------
    guard, died, rejected, replayed, causes, seconds
        Of the run; see `Run`.
    finite : bool
        Parameters, buffers, statistics and moments are all finite.
    identical : bool
        All state has the bits of the reference.
    different : list of str
        Some names that do not.
    flagged : bool
        The guard saw something.
    cause_right : bool or None
        Every incident has a right cause; None where nothing was flagged.
    as_stock : bool or None
        Nothing was flagged, and the state has the bits of stock after the same
        batches; None where something was flagged or stock was not run.
    """

    guard: str
    died: str
    finite: bool
    identical: bool
    flagged: bool
    different: list[str] = field(default_factory=list)
    rejected: int = 0
    replayed: int = 0
    causes: list[str] = field(default_factory=list)
    cause_right: bool | None = None
    as_stock: bool | None = None
    seconds: float = 0.0

    @property
    def survived(self) -> bool:
        """Went on, finite, and without a trace of whatever was flagged."""
        return not self.died and self.finite and (self.identical or not self.flagged)


@dataclass
class Row:
    """One fault at one position, under every guard.

    ``applies`` is False where the subject has nothing that this fault could spoil: no
    labels, no buffers, no moments before the first step.
    """

    subject: str
    setting: str
    fault: str
    expected: str
    applies: bool
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def survived(self) -> bool:
        """Whether ours survived, if the fault applies at all."""
        return not self.applies or self.outcomes[OURS].survived

    @property
    def as_expected(self) -> bool:
        """Whether ours did with the fault what it should."""
        if not self.applies:
            return True
        ours = self.outcomes[OURS]
        if self.expected != "none" and not (ours.flagged and ours.identical):
            return False
        return ours.survived and ours.as_stock is not False


@dataclass
class Checks:
    """What has to hold before any comparison means something.

    Attributes
    ----------
    repeatable : bool
        Two clean runs end with the same bits, but for the names ``left_out``.
    clean_as_stock : bool or None
        A clean run under ours ends with the bits of stock; None: stock can't run it.
    rejected_clean : int
        Batches that ours rejected in a clean run.
    reference : str
        The guard that made the references.
    """

    subject: str
    setting: str
    repeatable: bool
    clean_as_stock: bool | None
    rejected_clean: int
    reference: str
    left_out: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether outcomes can be trusted at all."""
        return self.repeatable and not self.rejected_clean


class Survey:
    """All runs of one subject at one position.

    Arguments
    ---------
    subject : Subject
        What is trained.
    position : Position
        Where faults strike.
    setting : str
        Name of subject's variant and position, for tables.
    policy : NonFinitePolicy
        Of every run, but for its mode. See `chaos_policy`.

    Raises
    ------
    UserError
        If the epochs are too short for the position.
    """

    def __init__(
        self,
        subject: Subject,
        position: Position,
        policy: NonFinitePolicy,
        setting: str = "",
    ):
        self.subject, self.position, self.policy = subject, position, policy
        self.setting = setting or position.name
        self.epochs = subject.epochs()
        lengths = [len(epoch) for epoch in self.epochs]
        self.places = position.places(lengths)
        if not all(0 <= batch < lengths[epoch] for epoch, batch in self.places):
            raise UserError(
                f"chaos: epochs of {lengths} batches are too short for position "
                f"{position.name!r}; give more --batches"
            )
        self._references: dict[tuple, Run] = {}
        self.checks = self._check()
        self._left_out = frozenset(self.checks.left_out)

    def run(
        self, guard: str, fault: Fault | None = None, removed: tuple[Place, ...] = ()
    ) -> Run:
        """Train once, from the beginning, and keep all state."""
        policy = self.policy
        if guard in ("off", "skip", OURS):
            policy = dataclasses.replace(policy, mode=guard)
        with tempfile.TemporaryDirectory() as folder, _quiet():
            brain = self.subject.brain(
                guard, policy, Path(folder), self.position.accumulation
            )
            injection = Injection(brain, fault)
            places = self.places if fault else ()
            deliveries = Deliveries(
                self.epochs, injection, places=places, removed=removed
            )
            died, started = "", time.monotonic()
            try:
                self.subject.fit(brain, deliveries)
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                died = f"{type(error).__name__}: {lines[0]}".strip(": ")[:200]
            seconds = time.monotonic() - started
            state = state_of(brain, injection.stage_losses)
        health = getattr(brain, "health", None)
        incidents = getattr(brain, "incidents", None) or []
        return Run(
            died,
            state,
            injection.fired,
            getattr(health, "rejected", 0),
            getattr(health, "replayed", 0),
            [str(incident["cause"]) for incident in incidents],
            round(seconds, 2),
        )

    def _check(self) -> Checks:
        """Run cleanly: twice under ours, once under stock or what stands for it."""
        ours = self._clean = self.run(OURS)
        again = self.run(OURS)
        # Clocks and paths: whatever two clean runs do not repeat can't be compared.
        left_out = {
            name
            for name in differences(ours.state, again.state)
            if not name.startswith(("parameter.", "buffer.", "moment.", "random."))
        }
        # What stands in one tuple with a clock was made at a time the clock chose.
        for name in sorted(left_out):
            whole, _, last = name.rpartition(".")
            if last.isdigit():
                left_out |= {n for n in ours.state if n.startswith(f"{whole}.")}
                left_out |= {n for n in again.state if n.startswith(f"{whole}.")}
        repeatable = not differences(ours.state, again.state, frozenset(left_out))
        stock = next((g for g in ("stock", "off") if g in self.subject.guards), None)
        different, as_stock = [], None
        if stock is not None:
            plain = self.run(stock)
            # The guard's own records have no counterpart under stock.
            left_out |= ours.state.keys() - plain.state.keys()
            different = differences(plain.state, ours.state, frozenset(left_out))
            as_stock = not plain.died and not different
        reference = stock if as_stock else OURS
        self._references[reference, ()] = plain if as_stock else ours
        return Checks(
            self.subject.name,
            self.setting,
            repeatable and not ours.died,
            as_stock,
            ours.rejected,
            reference,
            sorted(left_out),
            different[:_MAX_NAMES],
        )

    def _reference(self, fault: Fault) -> Run:
        removed = self.places if fault.kind == "batch" else ()
        key = (self.checks.reference, removed)
        if key not in self._references:
            self._references[key] = self.run(self.checks.reference, removed=removed)
        return self._references[key]

    def row(self, fault: Fault, guards: Iterable[str] = (OURS,)) -> Row:
        """Try one fault under some guards, ours always among them.

        Arguments
        ---------
        fault : Fault
            Of `FAULTS`.
        guards : iterable of str
            Of ``subject.guards``.

        Returns
        -------
        Row
            With an outcome for each guard, or none if the fault does not apply.
        """
        row = Row(
            self.subject.name, self.setting, fault.name, fault.expected, applies=True
        )
        runs = {OURS: self.run(OURS, fault)}
        if not runs[OURS].fired:
            row.applies = False
            return row
        runs |= {guard: self.run(guard, fault) for guard in guards if guard != OURS}
        order = [guard for guard in self.subject.guards if guard in runs]
        row.outcomes = {g: self._outcome(g, runs[g], fault) for g in order}
        self._compare_with_stock(row, runs, fault)
        return row

    def _outcome(self, guard: str, run: Run, fault: Fault) -> Outcome:
        reference = self._reference(fault)
        different = differences(reference.state, run.state, self._left_out)
        allowed = set(nonfinite(self._clean.state))
        flagged = bool(run.rejected or run.replayed or run.causes)
        right = None
        if flagged:
            right = bool(run.causes) and all(c in fault.causes for c in run.causes)
        return Outcome(
            guard=guard,
            died=run.died,
            finite=not set(nonfinite(run.state)) - allowed,
            identical=not run.died and not different,
            flagged=flagged,
            different=different[:_MAX_NAMES],
            rejected=run.rejected,
            replayed=run.replayed,
            causes=run.causes,
            cause_right=right,
            seconds=run.seconds,
        )

    def _compare_with_stock(self, row: Row, runs: dict[str, Run], fault: Fault) -> None:
        """Hold what a guard let pass against what stock made of it."""
        stock = self.checks.reference
        if stock == OURS:
            return
        for guard, outcome in row.outcomes.items():
            if outcome.flagged or guard == stock or guard == "skip":
                continue
            if stock not in runs:
                runs[stock] = self.run(stock, fault)
            theirs = runs[stock]
            outcome.as_stock = outcome.died == theirs.died and not differences(
                theirs.state, runs[guard].state, self._left_out
            )


def chaos_policy(policy: NonFinitePolicy | None = None) -> NonFinitePolicy:
    """Return a recipe's policy as these short runs need it.

    Without quarantine, which would change the batches that come later; with snapshots
    that are frequent for so few batches; without dumps.
    """
    return dataclasses.replace(
        policy or NonFinitePolicy(),
        quarantine=False,
        snapshot_every=10,
        dump_folder=None,
        max_dumps=0,
    )


@contextlib.contextmanager
def _quiet():
    """Keep reports of faults that are meant to happen off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere:
        try:
            with (
                contextlib.redirect_stderr(nowhere),
                contextlib.redirect_stdout(nowhere),
            ):
                yield
        finally:
            logging.disable(before)
