"""One incident, told as a tired person can read it at night."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from speechbrain_ext.brain.batches import batch_items, item_tensor, utterance_ids
from speechbrain_ext.brain.forensics.diagnose import Diagnosis
from speechbrain_ext.brain.forensics.statistics import tensor_statistics
from speechbrain_ext.brain.verdict import Verdict

_WIDTH = 96
#: Tensors of a batch, utterances and lines of advice that a report shows.
_MAX_TENSORS, _MAX_NAMES, _MAX_ADVICE = 5, 4, 5


def describe(
    verdict: Verdict,
    diagnosis: Diagnosis,
    *,
    place: str,
    actions: Sequence[str] = (),
    dump: Path | None = None,
    batch: Any = None,
    gradients: Sequence[str] = (),
) -> str:
    """Write the report of an incident, a line for each thing that is known.

    Arguments
    ---------
    verdict : Verdict
        What the fast check saw.
    diagnosis : Diagnosis
        What it came from.
    place : str
        Such as ``"batch 7 of epoch 3"``.
    actions : sequence of str
        What was done: ``"put back"``, ``"quarantined 'a'"``.
    dump : Path or None
        Where the batch was written.
    batch : Any, optional
        For the numbers of data and labels, and its utterances if none is guilty.
    gradients : sequence of str
        Parameters whose gradient was not finite at the event.

    Returns
    -------
    str
        At most 25 lines; the first one alone says what happened.

    Example
    -------
    >>> from speechbrain_ext.brain.forensics.causes import recommend
    >>> found = Diagnosis("norm overflow", "the largest gradient is that of net.bias",
    ...                   recommendation=recommend("norm overflow"))
    >>> report = describe(Verdict("norm overflow", 13.1, float("inf")), found,
    ...                   place="batch 7 of epoch 3", actions=["put back"])
    >>> print(report.splitlines()[0])
    rejected batch 7 of epoch 3: norm overflow: the largest gradient is that of net.bias
    >>> print(report.splitlines()[-1])
      command: ./run.sh --stage train --preset tight_clip
    """
    what = "noticed at" if verdict.accepted else "rejected"
    if verdict.cause == "state":
        what = "state fault at"
    lines = [f"{what} {place}: {diagnosis.cause}: {diagnosis.detail}"]
    if verdict.cause in ("label", "exception", "state"):
        lines.append(f"  seen as: {verdict.cause}; no loss was computed")
    else:
        lines.append(
            f"  seen as: {verdict.cause}; loss {verdict.loss:.4g}, gradient norm "
            f"{verdict.grad_norm:.4g}"
        )
    if diagnosis.utt_ids or diagnosis.rows:
        who = diagnosis.utt_ids or [f"row {row}" for row in diagnosis.rows]
        tested = " (without: fine)" if diagnosis.proven else ""
        lines.append(f"  utterance: {_listed(who)}{tested}")
    elif ids := utterance_ids(batch):
        lines.append(f"  utterances of the batch: {_listed(ids, 12)}")
    if diagnosis.paths:
        lines.append(f"  file: {_listed(diagnosis.paths)}")
    where = (diagnosis.phase, diagnosis.module, diagnosis.operation)
    if any(where[1:]):
        lines.append(f"  where: {', '.join(filter(None, where))}")
    if diagnosis.source:
        lines.append(f"  line: {diagnosis.source}")
    if diagnosis.loss_terms:
        terms = [f"{name} {value:.4g}" for name, value in diagnosis.loss_terms.items()]
        lines.append(f"  loss terms: {_listed(terms, 8)}")
    lines += _numbers(batch)
    names = list(gradients)
    if names:
        lines.append(f"  non-finite gradients: {len(names)}, {_listed(names, 2)}")
    if actions:
        lines.append(f"  done: {'; '.join(actions)}")
    if dump is not None:
        lines.append(f"  dump: {dump}")
    advice = diagnosis.recommendation
    if advice is not None:
        lines += textwrap.wrap(
            advice.text,
            _WIDTH,
            initial_indent="  advice: ",
            subsequent_indent="    ",
            max_lines=_MAX_ADVICE,
            placeholder=" ...",
        )
        lines.append(f"  command: {advice.command_for(dump)}")
    return "\n".join(" ".join(line.splitlines()) for line in lines)


def _listed(names: Sequence[str], most: int = _MAX_NAMES) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _numbers(batch: Any) -> list[str]:
    """One line for each of the largest tensors of a batch."""
    tensors = [
        (name, tensor)
        for name, tensor in (
            (name, item_tensor(item)) for name, item in batch_items(batch).items()
        )
        if isinstance(tensor, torch.Tensor) and tensor.numel()
    ]
    tensors.sort(key=lambda pair: -pair[1].numel())
    lines = []
    for name, tensor in tensors[:_MAX_TENSORS]:
        facts = tensor_statistics(tensor)
        line = f"  {name}: {facts['dtype']} {facts['shape']}"
        if "min" in facts:
            line += f", {facts['min']:.4g} to {facts['max']:.4g}"
        if "unique" in facts:
            line += f", {facts['unique']} different"
        elif "mean" in facts:
            line += f", mean {facts['mean']:.3g}"
        if facts.get("nan") or facts.get("inf"):
            line += f", {facts['nan']} NaN, {facts['inf']} Inf"
        lines.append(line)
    return lines
