"""What caused an incident: which sample, layer, operation and line, and what to do.

Runs on an event only. `diagnose` runs the batch again from the state before it, whole
and with rows left out, at most ``2 log2(batch) + 4`` times for the rows and a handful
of times for the rest. It changes nothing that ``Incident.restore`` does not put back.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Iterable

import torch

from speechbrain_ext.brain.batches import select_rows
from speechbrain_ext.brain.forensics import suspects
from speechbrain_ext.brain.forensics.causes import recommend
from speechbrain_ext.brain.forensics.findings import Diagnosis, Incident
from speechbrain_ext.brain.forensics.places import module_of, source_of
from speechbrain_ext.brain.forensics.rerun import Outcome, Rerun
from speechbrain_ext.brain.forensics.suspects import Suspects
from speechbrain_ext.brain.forensics.trace import Trace, state_tensors
from speechbrain_ext.brain.verdict import Verdict

__all__ = ["Diagnosis", "Incident", "diagnose", "diagnose_state"]

logger = logging.getLogger(__name__)

#: A part of a spiking batch is calm if loss or norm falls below this share of it.
_CALM = 0.4
#: Names of moments: ``"optimizer: exp_avg of net.weight"`` (`StateSnapshot.verify`).
_MOMENT = re.compile(r".+: .+ of .+|.*(exp_avg|momentum|optimizer|square_avg)")


def diagnose(incident: Incident) -> Diagnosis:
    """Find the cause of an incident.

    Arguments
    ---------
    incident : Incident
        The batch, what was seen of it, and how to run it again.

    Returns
    -------
    Diagnosis
        Always; if the search itself fails, the verdict's own words.

    Only `BaseException` (Ctrl-C) passes; no hook is left behind then either.
    """
    search = _Search(incident)
    try:
        found = search.run()
    except Exception as error:
        logger.debug("the diagnosis failed", exc_info=True)
        found = search.by_verdict(f"no more is known: {type(error).__name__}: {error}")
    finally:
        try:
            incident.restore()
        except Exception:
            logger.warning("the state could not be put back", exc_info=True)
    found.runs = search.rerun.count
    facts = dataclasses.asdict(found) | {"precision": incident.precision}
    found.recommendation = recommend(found.cause, facts, tried=incident.tried)
    return found


def diagnose_state(names: list[str], modules: torch.nn.Module) -> Diagnosis:
    """Name the cause where the state was corrupted, and no batch is to blame.

    Arguments
    ---------
    names : list[str]
        Tensors that are not finite.
    modules : torch.nn.Module
        All trained modules.
    """
    nothing = Incident(None, Verdict("state"), modules, lambda: None, lambda: None)
    found = _Search(nothing).corrupted(names)
    found.recommendation = recommend(found.cause)
    return found


class _Search:
    """One incident's search; each method answers one question."""

    def __init__(self, incident: Incident):
        self.incident = incident
        self.batch = incident.batch
        self.rerun = Rerun(
            incident.modules, incident.forward, incident.restore, incident.scale
        )
        self.trace: Trace | None = None
        self.whole = Outcome()
        self.spike = incident.verdict.cause == "spike"

    # -- the order of questions ------------------------------------------------------

    def run(self) -> Diagnosis:
        """Ask from the cheapest and surest evidence to the dearest."""
        incident, seen = self.incident, self.incident.verdict.cause
        if seen == "other rank":
            return Diagnosis("other rank", "the batch of another rank was bad")
        if incident.state or seen == "state":
            return self.corrupted(incident.state)
        labels = None
        if seen in ("label", "exception") or incident.exception is not None:
            labels = suspects.mislabelled_rows(
                self.batch, incident.label_ranges or {}, incident.exception
            )
        if labels is not None or seen == "label":
            return self.mislabelled(labels)
        if not incident.can_rerun:
            return self.without_runs()
        incident.restore()  # the trace looks which state is bad before the run
        self.trace = Trace(incident.modules, self.batch)
        self.whole = self.rerun(trace=self.trace)
        expected = incident.exception is not None or seen == "exception"
        if self.whole.error is not None and not expected:
            error = self.whole.error
            return self.by_verdict(
                f"it could not be run again: {type(error).__name__}: {error}"
            )
        if not self.whole.bad and not self.spike:
            return self.not_reproducible()
        origin = self.whole.origin
        if origin is not None and origin.kind == "state":
            return self.corrupted([origin.operand])
        return self.from_inputs() or self.from_precision() or self.from_run()

    def from_inputs(self) -> Diagnosis | None:
        """Broken, too loud and silent rows, if the batch is fine without them."""
        silent = suspects.silent_rows(self.batch)
        # A silent row among others is common and mostly harmless.
        all_silent = silent and len(silent.rows) == suspects.num_rows(self.batch)
        for cause, found, presumed in (
            ("input non-finite", suspects.nonfinite_rows(self.batch), True),
            ("input extreme", suspects.extreme_rows(self.batch), True),
            ("input silent", silent, all_silent),
        ):
            if found is None:
                continue
            guilty = self.guilty(found)
            if guilty or (guilty is None and presumed):
                return self.told(cause, found.detail, found.rows, bool(guilty), "input")
        return None

    def without_runs(self) -> Diagnosis:
        """Tell by the batch alone."""
        error = self.incident.exception
        self.whole.norm = self.incident.verdict.grad_norm
        found = self.from_inputs()
        if found is None and error is not None:
            return self.raised(error, (), False)
        return found or self.by_verdict("the batch could not be run again here")

    def from_precision(self) -> Diagnosis | None:
        """Half precision, if float32 is fine."""
        if self.incident.precision == "fp32" or self.spike:
            return None
        if self.rerun(full_precision=True).bad:
            return None
        detail = f"{self.incident.precision} overflows, float32 does not"
        return self.told("mixed precision overflow", detail)

    def from_run(self) -> Diagnosis:
        """Tell by what the run itself showed."""
        whole = self.whole
        rows, proven = self.culprits()
        if whole.error is not None:
            return self.raised(whole.error, rows, proven)
        if self.spike:
            detail = f"loss {whole.loss:.4g}, gradient norm {whole.norm:.4g}"
            return self.told("loss spike", detail, rows, proven)
        if not math.isfinite(whole.loss):
            return self.bad_loss(rows, proven)
        if whole.bad_state:
            kind, name = whole.bad_state[0]
            detail = f"forward wrote NaN or Inf into {name}"
            found = self.told(f"{kind} corrupted", detail, rows, proven)
            found.names = [name for _, name in whole.bad_state]
            return found
        if whole.bad_gradients:
            first = whole.bad_gradients[0]
            detail = f"the first bad gradient is that of {first}"
            found = self.told("gradient of module", detail, rows, proven, "backward")
            found.module = found.module or self.owner(first)
            found.names = whole.bad_gradients
            return found
        detail = f"the largest gradient is that of {whole.largest}"
        found = self.told("norm overflow", detail, rows, proven, "backward")
        found.module = self.owner(whole.largest)
        found.names = [whole.largest]
        return found

    # -- answers -----------------------------------------------------------------------

    def told(
        self,
        cause: str,
        detail: str,
        rows: Iterable[int] = (),
        proven: bool = False,
        phase: str = "",
    ) -> Diagnosis:
        """Make a diagnosis of a cause and of the place that the trace saw."""
        origin = self.whole.origin
        found = Diagnosis(cause, detail, rows=list(rows), proven=proven, phase=phase)
        found.utt_ids = suspects.named(self.batch, found.rows)
        found.paths = suspects.file_paths(self.batch, found.rows)
        if origin is not None:
            found.module, found.operation = origin.module, origin.operation
            found.source = origin.source
            found.phase = phase or origin.phase
        if self.trace is not None:
            found.loss_terms = dict(self.trace.loss_terms)
        return found

    def bad_loss(self, rows, proven) -> Diagnosis:
        """Tell a loss that is bad by itself from a layer that fed it."""
        origin = self.whole.origin
        terms = self.trace.loss_terms
        bad_terms = [name for name, x in terms.items() if not math.isfinite(x)]
        if origin is None:
            what, inside = "the loss is not finite", False
        else:
            place = origin.module or "the loss function"
            inside = origin.phase == "forward" and bool(origin.module)
            what = f"{origin.operation} in {place} made the first bad number"
            if origin.kind in ("constant", "mask"):
                what = f"{origin.operation} in {place} brought a non-finite constant"
        if bad_terms:
            what = f"loss term {', '.join(bad_terms)} is not finite: {what}"
        return self.told(
            "output of module" if inside else "loss term", what, rows, proven
        )

    def raised(self, error: BaseException, rows, proven) -> Diagnosis:
        """Tell where an exception came from."""
        error = self.incident.exception or error
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        found = self.told("exception", detail, rows, proven)
        found.module, found.phase = module_of(error, self.incident.modules)
        found.source = source_of(error)
        failed = self.trace.failed if self.trace is not None else None
        if failed is not None:
            found.operation = failed.operation
            found.module = found.module or failed.module
            found.source = found.source or failed.source
        return found

    def mislabelled(self, labels: Suspects | None) -> Diagnosis:
        """Name the utterance with the impossible label."""
        detail = labels.detail if labels else "a label is outside of its range"
        rows, proven = (labels.rows if labels else ()), bool(labels and labels.rows)
        error = self.incident.exception
        if not rows and error is not None and "CUDA" not in str(error):
            rows, proven = self.culprits()
        found = self.told("label out of range", detail, rows, proven, "input")
        if error is not None:
            found.module, _ = module_of(error, self.incident.modules)
            found.source = source_of(error)
        return found

    def corrupted(self, names: list[str]) -> Diagnosis:
        """Name the state that was bad before the batch."""
        kinds = {name: self.kind_of(name) for name in names}
        # A bad moment makes a bad parameter in one step, never the other way round.
        for kind in ("moment", "parameter", "buffer", "statistics"):
            first = [name for name in names if kinds[name] == kind]
            if first:
                break
        else:
            first, kind = [], "parameter"
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        what = f"{first[0]}{more} was" if first else "the state was"
        found = self.told(
            f"{kind} corrupted", f"{what} not finite before the batch", phase="state"
        )
        found.names = [*first, *(name for name in names if name not in first)]
        if first:
            found.module = self.owner(first[0].rpartition(" of ")[2])
        return found

    def not_reproducible(self) -> Diagnosis:
        """Repeat twice more without a trace; only clean repeats acquit the batch."""
        repeats = [self.rerun(digest=True) for _ in range(2)]
        if any(repeat.bad for repeat in repeats):
            self.whole = next(repeat for repeat in repeats if repeat.bad)
            return self.from_inputs() or self.from_precision() or self.from_run()
        if not self.incident.faithful:
            return self.by_verdict("this Brain's own fit_batch was not run again")
        if repeats[0].digest == repeats[1].digest:
            why = "repeats are clean and agree bit for bit: suspect hardware"
        else:
            why = "repeats are clean but differ: suspect non-deterministic kernels"
        return Diagnosis("not reproducible", why)

    def by_verdict(self, why: str) -> Diagnosis:
        """Fall back on what the fast check saw, with a reason why it is no more."""
        incident, seen = self.incident, self.incident.verdict.cause
        cause = {
            "loss": "loss term",
            "gradient": "gradient of module",
            "norm overflow": "norm overflow",
            "spike": "loss spike",
            "label": "label out of range",
            "state": "parameter corrupted",
            "other rank": "other rank",
        }.get(seen, "exception")
        names = incident.gradients
        if seen == "buffer":
            names = incident.buffers
            cause = f"{self.kind_of(names[0]) if names else 'buffer'} corrupted"
        found = Diagnosis(cause, why, names=list(names))
        broken = suspects.nonfinite_rows(self.batch)
        if broken is not None and seen in ("loss", "gradient", "buffer"):
            found = Diagnosis("input non-finite", f"{broken.detail}; {why}")
            found.rows, found.phase = list(broken.rows), "input"
            found.utt_ids = suspects.named(self.batch, found.rows)
        elif names:
            found.module = self.owner(names[0])
        return found

    # -- rows --------------------------------------------------------------------------

    def culprits(self) -> tuple[tuple[int, ...], bool]:
        """Rows without which the batch is fine, and whether that was tried."""
        origin = self.whole.origin
        count = suspects.num_rows(self.batch)
        if origin is not None and origin.kind == "constant":
            return (), False
        if origin is not None and origin.num_rows == count > len(origin.rows) > 0:
            guilty = self.guilty(Suspects(origin.rows, ""))
            if guilty is not False:
                return origin.rows, bool(guilty)
        return self.bisect(count)

    def bisect(self, count: int) -> tuple[tuple[int, ...], bool]:
        """Find the shortest bad head of the batch: its last row is guilty; go on.

        Enough runs for two guilty rows; more of them is no matter of single rows.
        """
        limit = self.rerun.count + 2 * math.ceil(math.log2(max(count, 2))) + 4
        rows, guilty, good = list(range(count)), [], 0
        while len(rows) > 1:
            low, high = good, len(rows)  # rows[:low] are fine, rows[:high] are not
            while high - low > 1:
                middle = (low + high) // 2
                clean = self.clean(rows[:middle]) if self.rerun.count < limit else None
                if clean is None and middle == 1:
                    # BatchNorm can't run on one row: run the others.
                    clean = not self.clean(rows[1:])
                if clean is None:
                    return (), False
                low, high = (middle, high) if clean else (low, middle)
            guilty.append(rows.pop(high - 1))
            good = high - 1
            if self.rerun.count >= limit:
                break
            if self.clean(rows):
                return tuple(sorted(guilty)), True
        return (), False

    def guilty(self, found: Suspects) -> bool | None:
        """Whether the batch is fine without these rows; None if that can't be tried."""
        count = suspects.num_rows(self.batch)
        kept = [row for row in range(count) if row not in found.rows]
        if not found.rows or not kept:
            return None
        return self.clean(kept)

    def clean(self, rows: list[int]) -> bool | None:
        """Whether a run of these rows alone is fine; None if they can't be run."""
        if not (self.incident.can_rerun and self.rerun.takes_batch and rows):
            return None
        try:
            part = select_rows(self.batch, rows)
        except ValueError:  # it counts the utterances in another way
            part = None
        if part is None:
            return None
        outcome = self.rerun(part)
        if outcome.error is not None and not _alike(outcome.error, self.whole.error):
            return None  # such a part can't be run at all: it tells nothing
        if self.spike and not outcome.bad:
            return (
                outcome.loss < _CALM * self.whole.loss
                or outcome.norm < _CALM * self.whole.norm
            )
        return not outcome.bad

    # -- names -------------------------------------------------------------------------

    def owner(self, name: str) -> str:
        """Name the module that keeps a parameter or buffer."""
        path = name.rpartition(".")[0]
        try:
            module = self.incident.modules.get_submodule(path)
        except AttributeError:
            return ""
        return f"{path} ({type(module).__name__})" if path else ""

    def kind_of(self, name: str) -> str:
        """Tell what a state tensor is by its name."""
        for known, kind, tensor in state_tensors(self.incident.modules):
            if known == name:
                frozen = kind == "parameter" and not tensor.requires_grad
                return "buffer" if frozen else kind
        return "moment" if _MOMENT.match(name) else "statistics"


def _alike(error: BaseException, other: BaseException | None) -> bool:
    """Whether two exceptions are the same but for the numbers in their words."""
    return type(error) is type(other) and (
        re.sub(r"\d+", "", str(error)) == re.sub(r"\d+", "", str(other))
    )
