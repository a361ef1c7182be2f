"""What caused an incident: which sample, layer, operation and line, and what to do.

Runs on an event only. `diagnose` runs the batch again from the state before it, whole
and with rows left out, at most ``2 log2(batch) + 2`` times for the rows and a handful
of times for the rest. It changes nothing that ``Incident.restore`` does not put back.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from speechbrain_ext.brain import batches, suspects
from speechbrain_ext.brain.causes import Recommendation, recommend
from speechbrain_ext.brain.places import module_of, source_of
from speechbrain_ext.brain.rerun import Outcome, Rerun
from speechbrain_ext.brain.suspects import Suspects
from speechbrain_ext.brain.trace import Trace, state_tensors
from speechbrain_ext.brain.verdict import Verdict

logger = logging.getLogger(__name__)

#: A part of a spiking batch is calm if loss or norm falls below this share of it.
_CALM = 0.4
_WORDS_OF_MOMENTS = ("exp_avg", "momentum", "optimizer", "moment", "square_avg", "step")


@dataclass
class Incident:
    """All that `diagnose` needs to know of a rejected batch.

    Attributes
    ----------
    batch : Any
        As delivered.
    verdict : Verdict
        What the fast check saw.
    modules : torch.nn.Module
        All trained modules.
    forward : Callable[..., torch.Tensor]
        Forward and objectives, autocast included; returns the loss. Called without
        arguments for ``batch``, with a part of it if it takes an argument:
        ``lambda batch=batch: ...``. Without that, rows can't be found by leaving out.
    restore : Callable[[], None]
        Puts back state and random streams as before the batch.
    exception : BaseException, optional
        What the batch raised, with its traceback.
    gradients, buffers : list of str
        What was non-finite at the event.
    state : list of str
        What was non-finite before the batch came.
    precision : str
        ``"fp32"``, ``"fp16"``, ``"bf16"``.
    scale : float, optional
        Of the GradScaler.
    label_ranges : dict
        Batch item -> number of classes.
    faithful : bool
        Whether ``forward`` is all that ``fit_batch`` does with a batch. If not (a GAN
        with its own ``fit_batch``), a clean repeat proves nothing.
    tried : list of str
        Presets that this run has already.
    """

    batch: Any
    verdict: Verdict
    modules: torch.nn.Module
    forward: Callable[..., torch.Tensor]
    restore: Callable[[], None]
    exception: BaseException | None = None
    gradients: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    precision: str = "fp32"
    scale: float | None = None
    label_ranges: dict[str, int] | None = None
    faithful: bool = True
    tried: list[str] = field(default_factory=list)


@dataclass
class Diagnosis:
    """The cause of an incident.

    Attributes
    ----------
    cause : str
        A key of `CAUSES`.
    detail : str
        One sentence.
    utt_ids, rows, paths : list
        The culprits in the batch, none if it is not one utterance's doing.
    proven : bool
        Whether the batch without these rows was run, and was fine.
    module, operation, phase, source : str
        Where the first bad number was made: ``"net.2 (Linear)"``, ``"aten.log"``,
        ``"forward"``, ``"model.py:87: x.log()"``; empty where not known. Phases are
        ``"input"``, ``"forward"``, ``"objective"``, ``"backward"``, ``"state"``.
    names : list of str
        State tensors or parameters concerned, the first one first.
    loss_terms : dict
        Name -> value, where the loss says so.
    runs : int
        How often the batch, or a part of it, was run again.
    recommendation : Recommendation
        What to do.
    """

    cause: str
    detail: str
    utt_ids: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    proven: bool = False
    module: str = ""
    operation: str = ""
    phase: str = ""
    source: str = ""
    names: list[str] = field(default_factory=list)
    loss_terms: dict[str, float] = field(default_factory=dict)
    runs: int = 0
    recommendation: Recommendation | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON and dumps (non-finite terms stay floats)."""
        return dataclasses.asdict(self)


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
        # Without a trace where the exception has one already, and costs less.
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
        whole_is_silent = self.spike or math.isinf(self.whole.norm)
        for cause, found, presumed in (
            ("input non-finite", suspects.nonfinite_rows(self.batch), True),
            ("input extreme", suspects.extreme_rows(self.batch), True),
            ("input silent", suspects.silent_rows(self.batch), whole_is_silent),
        ):
            if found is None:
                continue
            guilty = self.guilty(found)
            if guilty or (guilty is None and presumed):
                return self.told(cause, found.detail, found.rows, bool(guilty), "input")
        return None

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
        if first and kind != "moment":
            found.module = self.owner(first[0])
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
        """Leave out half of the suspects at a time, and keep the others in.

        Parts stay as large as can be: layers such as BatchNorm can't run on one row.
        """
        everyone = list(range(count))
        limit = self.rerun.count + 2 * math.ceil(math.log2(max(count, 2))) + 2
        guilty: list[int] = []
        while self.rerun.count < limit and len(guilty) < count - 1:
            within = [row for row in everyone if row not in guilty]
            while len(within) > 1:
                if self.rerun.count >= limit:
                    return (), False
                half = within[: len(within) // 2]
                kept = [r for r in everyone if r not in half and r not in guilty]
                clean = self.clean(kept)
                if clean is None:
                    return (), False
                within = half if clean else within[len(half) :]
            guilty.append(within[0])
            rest = [row for row in everyone if row not in guilty]
            if self.clean(rest):
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
        select = getattr(batches, "select_rows", None)
        if not self.rerun.takes_batch or select is None or not rows:
            return None
        part = select(self.batch, rows)
        if part is None:
            return None
        outcome = self.rerun(part)
        if outcome.error is not None and self.whole.error is None:
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
        if any(word in name.lower() for word in _WORDS_OF_MOMENTS):
            return "moment"
        return "statistics"
