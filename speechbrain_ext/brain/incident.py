"""One rejected batch, told as a tired person can read it at night."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechbrain_ext.brain.verdict import Verdict


def describe(
    verdict: Verdict,
    findings: dict[str, Any],
    *,
    utt_ids: list[str],
    place: str,
    steps_kept: int,
    dump: Path | None,
) -> str:
    """Write the report of a rejected batch, a line for each thing that is known.

    Arguments
    ---------
    verdict : Verdict
        Why it was rejected.
    findings : dict
        ``inputs``, ``gradients`` and ``buffers`` (lists of text, empty if all were
        finite) and ``first_bad_module`` (text or None).
    utt_ids : list of str
        Utterances of the batch, if it names them.
    place : str
        Such as ``"batch 7 of epoch 3"``.
    steps_kept : int
        Optimizer steps of this batch that were taken before the rejected one.
    dump : Path or None
        Where the batch was written.

    Returns
    -------
    str
        Several lines; the first one alone says what happened.
    """
    lines = [
        f"rejected {place}: {verdict.cause} (loss {verdict.loss:.4g}, gradient norm "
        f"{verdict.grad_norm:.4g}); nothing was learned from it"
    ]
    lines += [f"  input: {line}" for line in findings["inputs"][:5]]
    if not findings["inputs"]:
        ids = ", ".join(utt_ids[:12])
        lines.append(f"  inputs are finite; utterances: {ids or 'not named'}")
    if findings["first_bad_module"]:
        lines.append(f"  first bad layer: {findings['first_bad_module']}")
    if findings["gradients"]:
        lines.append(
            f"  non-finite gradient in {len(findings['gradients'])} parameters, "
            f"first {findings['gradients'][0]}"
        )
    if steps_kept:
        some = (
            "1 optimizer step" if steps_kept == 1 else f"{steps_kept} optimizer steps"
        )
        lines.append(f"  the batch stepped more than once; {some} before it stays")
    if findings["buffers"]:
        lines.append(f"  buffers it would have poisoned: {len(findings['buffers'])}")
    if dump:
        lines.append(f"  dump: {dump}")
    return "\n".join(lines)
