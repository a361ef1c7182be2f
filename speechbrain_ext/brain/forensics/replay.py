"""``speechbrain-ext replay``: a rejected batch once more, in a fresh process.

Builds the Brain without its data, loads weights and random streams from before the
batch, runs it forward and backward layer by layer, and compares with what was recorded.
Nothing is trained, and nothing is written into the experiment.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import speechbrain
import torch

from speechbrain_ext.brain.forensics.diagnose import Diagnosis, Incident, diagnose
from speechbrain_ext.brain.forensics.dump import (
    Dump,
    finite_or_text,
    read_dump,
    rebuild_batch,
)
from speechbrain_ext.brain.forensics.rerun import Outcome, Rerun
from speechbrain_ext.brain.forensics.statistics import tensor_statistics
from speechbrain_ext.brain.forensics.suspects import mislabelled_rows
from speechbrain_ext.brain.forensics.trace import Layer, Trace, is_bad, state_tensors
from speechbrain_ext.brain.forensics.untrained import our_brain, script_brain
from speechbrain_ext.brain.memory.state import load_named_state
from speechbrain_ext.brain.memory.streams import RandomStreams
from speechbrain_ext.brain.memory.transaction import Transaction
from speechbrain_ext.brain.verdict import Verdict
from speechbrain_ext.errors import UserError

#: Relative difference up to which a finite loss of a spike counts as the same.
_SAME_SPIKE = 1e-3
#: ... and up to which gradient norms are the same but for the order of sums.
_SAME_NORM = 1e-5
#: Diagnoses that lie in the data.
_DATA = ("input non-finite", "input extreme", "input silent", "label out of range")


@dataclass
class Replay:
    """What a replay showed.

    Attributes
    ----------
    verdict : Verdict
        Of this run; ``recorded`` is that of the dump.
    layers, gradients : list of dict
        ``name``, ``type`` and statistics in the order of the run; a ``bad`` one holds
        NaN or Inf, ``first`` is the first of all.
    diagnosis : Diagnosis
        Of this run.
    same_bits : bool
        Whether the loss is that recorded, to the bit, and the gradient norm up to
        the order of its sum.
    """

    recorded: Verdict
    verdict: Verdict
    layers: list[dict[str, Any]] = field(default_factory=list)
    gradients: list[dict[str, Any]] = field(default_factory=list)
    diagnosis: Diagnosis | None = None
    same_bits: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether this run would have been rejected for the recorded reason."""
        if self.recorded.cause != self.verdict.cause == "accepted":
            return self.recorded.cause == "spike" and _same(
                self.recorded.loss, self.verdict.loss, _SAME_SPIKE
            )
        return self.recorded.cause == self.verdict.cause

    @property
    def conclusion(self) -> str:
        """``"data"``, ``"model"`` or ``"not reproducible"``."""
        if not self.reproduced or self.diagnosis is None:
            return "not reproducible"
        found = self.diagnosis
        return "data" if found.cause in _DATA or found.proven else "model"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "recorded": vars(self.recorded),
            "verdict": vars(self.verdict),
            "reproduced": self.reproduced,
            "same_bits": self.same_bits,
            "conclusion": self.conclusion,
            "diagnosis": self.diagnosis.as_dict() if self.diagnosis else None,
            "layers": self.layers,
            "gradients": self.gradients,
            "notes": self.notes,
        }


def _same(one: float, other: float, tolerance: float) -> bool:
    both = math.isnan(one) and math.isnan(other)
    return both or math.isclose(one, other, rel_tol=tolerance)


def replay_dump(dump: Dump, brain: speechbrain.Brain) -> Replay:
    """Run the batch of a dump on a Brain that was built as for training.

    Arguments
    ---------
    dump : Dump
        With the weights before the batch.
    brain : speechbrain.Brain
        Its weights, statistics and the global random streams are overwritten.

    Returns
    -------
    Replay
        What happened, layer by layer.

    Raises
    ------
    UserError
        If the dump lacks its weights or a part of its batch, or the weights do not
        belong to this Brain.
    """
    batch = rebuild_batch(dump)
    weights = dump.load_weights()
    recorded = Verdict(dump.cause, dump.loss, dump.grad_norm)
    notes = [*dump.notes, *dump.left_out]
    brain.modules.train()
    try:  # recipes make their metrics there
        brain.on_stage_start(speechbrain.Stage.TRAIN, dump.epoch)
    except Exception as error:
        notes.append(f"on_stage_start: {type(error).__name__}: {error}")
    try:
        load_named_state(brain.modules, weights)
    except ValueError as error:
        raise UserError(
            f"replay: {dump.path} does not belong to this model: {error}"
        ) from error
    streams = RandomStreams()
    streams.load_state_dict(dump.random)
    streams.restore()
    transaction = Transaction(brain.modules, lambda: [brain])
    transaction.begin()

    def forward(batch: Any = batch) -> torch.Tensor:
        with brain.training_ctx:
            outputs = brain.compute_forward(batch, speechbrain.Stage.TRAIN)
            return brain.compute_objectives(outputs, batch, speechbrain.Stage.TRAIN)

    ranges = dump.context.get("label_ranges") or {}
    result = Replay(recorded, Verdict("accepted", math.nan, 0.0), notes=notes)
    incident = Incident(
        batch,
        recorded,
        brain.modules,
        forward,
        transaction.rollback,
        precision=dump.precision or "fp32",
        scale=dump.context.get("scale"),
        label_ranges=ranges,
    )
    spoiled = [
        name
        for name, kind, tensor in state_tensors(brain.modules)
        if is_bad(tensor, masks=kind != "parameter")
    ]
    if recorded.cause == "state" and spoiled:
        incident.state = spoiled
        result.verdict = Verdict("state", recorded.loss, recorded.grad_norm)
    elif recorded.cause == "label" and mislabelled_rows(batch, ranges):
        result.verdict = Verdict("label", recorded.loss, recorded.grad_norm)
    else:
        outcome = _run(incident, result)
        incident.exception = outcome.error
        result.verdict = _judged(outcome)
        # The norm may have been summed up in another order: by groups.
        result.same_bits = _same(recorded.loss, outcome.loss, 0.0) and _same(
            recorded.grad_norm, outcome.norm, _SAME_NORM
        )
    if result.reproduced:
        result.diagnosis = diagnose(incident)
    transaction.rollback()
    return result


def _run(incident: Incident, result: Replay) -> Outcome:
    """Run once, and write down every layer and every gradient."""
    rerun = Rerun(incident.modules, incident.forward, incident.restore, incident.scale)

    def on_layer(layer: Layer) -> None:
        for output in layer.outputs:
            entry = {"name": layer.name, "type": layer.kind}
            entry |= tensor_statistics(output)
            _mark(entry, result.layers)

    def look() -> None:
        for name, parameter in reversed([*incident.modules.named_parameters()]):
            if parameter.grad is not None:
                grad = parameter.grad
                dense = grad.to_dense() if grad.is_sparse else grad
                _mark({"name": name, **tensor_statistics(dense)}, result.gradients)

    incident.restore()
    trace = Trace(incident.modules, incident.batch, on_layer)
    return rerun(trace=trace, look=look, always_backward=True)


def _mark(entry: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    entry["bad"] = bool(entry.get("nan") or entry.get("inf"))
    entry["first"] = entry["bad"] and not any(other["bad"] for other in entries)
    entries.append(entry)


def _judged(outcome: Outcome) -> Verdict:
    """Take the verdict of the guard on a run."""
    if outcome.error is not None:
        cause = "exception"
    elif not math.isfinite(outcome.loss):
        cause = "loss"
    elif outcome.bad_state:
        cause = "buffer"
    elif outcome.bad_gradients:
        cause = "gradient"
    else:
        cause = "accepted" if math.isfinite(outcome.norm) else "norm overflow"
    return Verdict(cause, outcome.loss, outcome.norm)


# -- the command -----------------------------------------------------------------------


class _ScriptCommand(click.Command):
    """Everything behind ``--script`` belongs to the script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, word in enumerate(args):
            if word == "--script" or word.startswith("--script="):
                given = [word[9:]] if "=" in word else []
                ctx.meta["script"] = [*given, *args[index + 1 :]]
                if not ctx.meta["script"]:
                    raise click.UsageError("--script needs the script's name", ctx)
                args = args[:index]
                break
        return super().parse_args(ctx, args)


@click.command(cls=_ScriptCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--device", help="Where to run; default: as the training, if it is there."
)
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.option(
    "--script",
    metavar="TRAIN.PY ARGS...",
    help="Build the Brain with this training script, run up to fit(); last option.",
)
@click.pass_context
def replay(
    ctx: click.Context, file: Path, device: str | None, as_json: bool, script: None
) -> int:
    """Run a dumped batch again, layer by layer, and tell data from model.

    FILE is a nan_batch_*.pt with its state_*.pt beside it. For a recipe of this
    project the Brain is built from the experiment's hyperparams.yaml; for any other
    one give the command that trained, behind --script. No corpus is needed.

    Exit code 0: the recorded verdict came again; 1: it did not; 2: it can't be run.
    """
    del script
    dump = read_dump(file)
    words = ctx.meta.get("script")
    built: Callable = contextlib.nullcontext
    context = built(script_brain(words)) if words else our_brain(dump, device)
    with context as brain:
        result = replay_dump(dump, brain)
    if as_json:
        click.echo(json.dumps(finite_or_text(result.as_dict()), indent=1))
    else:
        click.echo(render(dump, result))
    return 0 if result.reproduced else 1


def render(dump: Dump, result: Replay) -> str:
    """Write a replay as text: layers, gradients, verdict, conclusion."""
    recorded, verdict = result.recorded, result.verdict
    lines = [f"{dump.path}: batch {dump.batch} of epoch {dump.epoch}"]
    lines += [f"  note: {note}" for note in result.notes]
    for title, entries in (("layers", result.layers), ("gradients", result.gradients)):
        if entries:
            lines += ["", f"{title}, in the order of the run:"]
            lines += _table(entries)
    lines += [
        "",
        f"recorded: {recorded.cause}; loss {recorded.loss:.6g}, gradient norm "
        f"{recorded.grad_norm:.6g}",
        f"now:      {verdict.cause}; loss {verdict.loss:.6g}, gradient norm "
        f"{verdict.grad_norm:.6g}" + (" (same bits)" if result.same_bits else ""),
        "reproduced" if result.reproduced else "not reproduced",
    ]
    found = result.diagnosis
    lines.append(f"conclusion: {result.conclusion}{_because(result)}")
    if found is not None and found.recommendation is not None:
        lines.append(f"  advice: {found.recommendation.text}")
        lines.append(f"  command: {found.recommendation.command_for(dump.path)}")
    return "\n".join(lines)


def _because(result: Replay) -> str:
    found = result.diagnosis
    if found is None:
        return (
            "; the same batch, weights and random numbers gave another verdict: "
            "another machine or kernel, hardware, or a fault outside of the batch"
        )
    lines = f": {found.cause}: {found.detail}"
    if found.proven and found.cause not in _DATA:
        lines += (
            f"\n  without {', '.join(found.utt_ids or map(str, found.rows))} the batch "
            "is fine, though all its numbers are finite"
        )
    where = ", ".join(filter(None, (found.phase, found.module, found.operation)))
    lines += f"\n  where: {where}" if where else ""
    return lines + (f"\n  line: {found.source}" if found.source else "")


def _table(entries: list[dict[str, Any]]) -> list[str]:
    """One line for each entry, in columns."""
    rows = [["name", "shape", "min", "max", "mean", "NaN", "Inf", ""]]
    for entry in entries:
        kind = f" ({entry['type']})" if "type" in entry else ""
        mark = "<- first bad" if entry["first"] else "bad" if entry["bad"] else ""
        numbers = [
            f"{entry[key]:.3g}" if key in entry else "-"
            for key in ("min", "max", "mean")
        ]
        counts = [str(entry.get(key, 0)) for key in ("nan", "inf")]
        rows.append(
            [entry["name"] + kind, str(entry["shape"]), *numbers, *counts, mark]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
