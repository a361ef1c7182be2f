"""What looks wrong in a dump, what to do about it, and what several dumps share."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechbrain_ext.brain.forensics.causes import CAUSES, recommend
from speechbrain_ext.brain.forensics.dump import Dump
from speechbrain_ext.next_command import next_command

#: Values beyond this are extreme in any item; audio is meant to lie within 1.
_EXTREME = 1e4
_EXTREME_AUDIO = 10.0
#: ... and so is an utterance this many times louder than the median of its batch.
_EXTREME_RATIO = 100.0
_MANY_CLIPPED = 0.01
_LARGE_DC = 0.05
_SHORT_SECONDS = 0.1
#: What the fast check of the guard saw -> the cause to look up where nobody diagnosed.
_BY_VERDICT = {
    "loss": "loss term",
    "gradient": "gradient of module",
    "norm overflow": "norm overflow",
    "buffer": "buffer corrupted",
    "spike": "loss spike",
    "label": "label out of range",
    "exception": "exception",
    "state": "parameter corrupted",
    "other rank": "other rank",
}


def find_issues(dump: Dump, items: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """List what is wrong, the likely reason first.

    Arguments
    ---------
    dump : Dump
        The dump.
    items : dict
        What `examine_items` found in it.

    Returns
    -------
    list of dict
        ``text``; ``cause``: a key of `CAUSES`, or None for a mere remark; ``utt_ids``:
        the utterances it is about.
    """
    issues: list[dict[str, Any]] = []
    for name, facts in items.items():
        issues += _nonfinite(name, facts)
        issues += _out_of_range(name, facts)
        issues += _levels(name, facts)
        issues += _extreme(name, facts)
    from_data = [issue for issue in issues if issue["cause"]]
    remarks = [issue for issue in issues if not issue["cause"]]
    if not from_data and not dump.diagnosis.get("cause"):
        from_data = [_not_the_data(dump)]
    return from_data + remarks


def _issue(cause: str | None, text: str, utt_ids: Sequence[str | None] = ()) -> dict:
    return {"cause": cause, "text": text, "utt_ids": [u for u in utt_ids if u]}


def who(entry: dict[str, Any]) -> str:
    """Name the utterance of an entry, or its row."""
    if entry["utt_id"]:
        return f"utterance {entry['utt_id']!r}"
    return f"row {entry['row']}"


def _all(entries: Sequence[dict[str, Any]]) -> str:
    """Name the utterances of some entries: the first, and how many more."""
    more = len(entries) - 3
    names = ", ".join(map(who, entries[:3]))
    return names + (f" and {more} more" if more > 0 else "")


def _ids(entries: Sequence[dict[str, Any]]) -> list[str | None]:
    return [entry["utt_id"] for entry in entries]


def _nonfinite(name, facts) -> list[dict]:
    if not (facts.get("nan") or facts.get("inf")):
        return []
    text = f"{name} contains {facts['nan']} NaN and {facts['inf']} Inf values"
    bad = facts.get("bad", [])  # its values may have been left out
    if bad:
        text += f" in {_all(bad)}"
        if all(part["padding"] for entry in bad for part in entry["ranges"]):
            text += ", in the padding only"
    return [_issue("input non-finite", text, _ids(bad))]


def _out_of_range(name, facts) -> list[dict]:
    wrong = facts.get("out_of_range")
    if not wrong:
        return []
    values = sorted({entry["value"] for entry in wrong})
    classes = facts["num_classes"]
    rule = f"classes are 0 .. {classes - 1}" if classes else "labels are not negative"
    return [
        _issue(
            "label out of range",
            f"{name}: {facts['num_out_of_range']} out of range: "
            f"{', '.join(map(str, values[:10]))} ({rule})",
            [entry["utt_id"] for entry in wrong],
        )
    ]


def _levels(name, facts) -> list[dict]:
    levels = [e for e in facts.get("levels", []) if e["peak"] is not None]
    silent = [e for e in levels if e["silent"]]
    usual = [e for e in levels if e["peak"] <= _EXTREME_AUDIO]
    clipped = [e for e in usual if e["clipped"] > _MANY_CLIPPED]
    shifted = [e for e in usual if abs(e["dc"]) > _LARGE_DC]
    short = [e for e in levels if e.get("seconds", 1.0) < _SHORT_SECONDS]
    issues = []
    if silent:
        text = f"{name}: silent: {_all(silent)}"
        if len(silent) == len(facts["levels"]):
            text = f"{name}: the whole batch is silent"
        issues.append(_issue("input silent", text, _ids(silent)))
    if clipped:
        worst = max(e["clipped"] for e in clipped)
        text = f"{name}: clipped (up to {worst:.1%} of the samples): {_all(clipped)}"
        issues.append(_issue(None, text, _ids(clipped)))
    if shifted:
        worst = max((e["dc"] for e in shifted), key=abs)
        text = f"{name}: DC offset (up to {worst:.3g}): {_all(shifted)}"
        issues.append(_issue(None, text, _ids(shifted)))
    if short:
        least = min(e["seconds"] for e in short)
        text = f"{name}: very short (down to {least * 1000:.0f} ms): {_all(short)}"
        issues.append(_issue(None, text, _ids(short)))
    return issues


def _extreme(name, facts) -> list[dict]:
    if "levels" in facts:
        levels = [e for e in facts["levels"] if e["peak"] is not None]
        usual = statistics.median(e["peak"] for e in levels) if levels else 0.0
        limit = max(1.0, _EXTREME_RATIO * usual) if usual else _EXTREME_AUDIO
        loud = [e for e in levels if e["peak"] > min(limit, _EXTREME_AUDIO)]
        if not loud:
            return []
        worst = max(e["peak"] for e in loud)
        text = (
            f"{name}: very large values (max {worst:.3g}, median of the batch "
            f"{usual:.3g}): {_all(loud)}"
        )
        return [_issue("input extreme", text, _ids(loud))]
    if facts["kind"] == "labels" or "min" not in facts:
        return []
    if max(abs(facts["min"]), abs(facts["max"])) <= _EXTREME:
        return []
    text = f"{name}: very large values (min {facts['min']:.3g}, max {facts['max']:.3g})"
    return [_issue("input extreme", text)]


def _not_the_data(dump: Dump) -> dict:
    """Say what the guard saw, where the data look normal and nobody diagnosed."""
    cause = _BY_VERDICT.get(dump.cause, "loss term")
    module = dump.report.get("first_bad_module")
    if cause == "loss term" and module and "output of module" in CAUSES:
        cause = "output of module"
    text = "the data look normal, so it is the model, the loss or the state: "
    text += {
        "loss": "the loss is not finite",
        "gradient": "a gradient is not finite",
        "norm overflow": "the gradients are finite, their norm is not",
        "buffer": "forward left a buffer that is not finite",
    }.get(dump.cause, dump.cause)
    if module:
        text += f"; first bad layer: {module}"
    return _issue(cause, text)


def recommendations(dump: Dump, issues: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Advice for a dump, that of its diagnosis first.

    Arguments
    ---------
    dump : Dump
        The dump.
    issues : list of dict
        As `find_issues` returned them.

    Returns
    -------
    list of dict
        ``cause``, ``text``, ``command`` (None if there is nothing more to type than
        this analysis), one for each cause.
    """
    advice: dict[str, dict[str, Any]] = {}
    known = dump.diagnosis
    told = known.get("recommendation") or {}
    if known.get("cause") and told.get("text"):
        advice[known["cause"]] = _advise(
            dump, known["cause"], told["text"], told.get("command")
        )
    causes = [known["cause"]] if known.get("cause") in CAUSES else []
    for cause in causes + [issue["cause"] for issue in issues if issue["cause"]]:
        if cause in advice:
            continue
        utt_ids = [u for i in issues if i["cause"] == cause for u in i["utt_ids"]]
        facts = {
            "module": dump.report.get("first_bad_module"),
            **known,
            "precision": dump.precision,
            "utt_ids": utt_ids or known.get("utt_ids") or [],
            "paths": _paths_of(dump, utt_ids),
        }
        found = recommend(cause, facts)
        advice[cause] = _advise(dump, cause, found.text, found.command)
    return list(advice.values())


def _paths_of(dump: Dump, utt_ids: list[str]) -> list[str]:
    """Files of some utterances, where the batch named them."""
    if not dump.paths or len(dump.paths) != len(dump.utt_ids):
        return []
    named = dict(zip(dump.utt_ids, dump.paths, strict=True))
    return [named[utt_id] for utt_id in utt_ids if utt_id in named]


def _advise(dump: Dump, cause: str, text: str, command: str | None) -> dict:
    command = command or None
    if command and command.startswith("speechbrain-ext analyze-nan"):
        command = None  # this is it
    if command == "speechbrain-ext replay":
        command = f"{command} {dump.path}"
    if command:  # <experiment>/debug_nan/<dump>
        command = next_command(command, Path(dump.path).parent.parent)
    return {"cause": cause, "text": text, "command": command}


def culprits(dump: Dump, issues: list[dict[str, Any]]) -> list[str]:
    """Utterances that the diagnosis or the data blame, in the order of the batch."""
    blamed = set(dump.diagnosis.get("utt_ids") or [])
    blamed |= {u for issue in issues if issue["cause"] for u in issue["utt_ids"]}
    return [u for u in dict.fromkeys(dump.utt_ids) if u in blamed] or sorted(blamed)


#: What dumps may share, in the order in which it is told.
_SHARED = (
    "blamed utterance",
    "layer",
    "source",
    "cause",
    "utterance",
    "file",
    "epoch",
    "batch position",
    "incident",
)


def find_patterns(analyses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Find what two or more dumps share.

    Arguments
    ---------
    analyses : sequence of dict
        As `analyze_dump` returns them.

    Returns
    -------
    list of dict
        ``what`` (one of `_SHARED`), ``value``, ``dumps`` (files), ``of`` (number of
        dumps); in the order of `_SHARED`, those in most dumps first. An utterance is
        listed beside being blamed only if it is in more dumps than it is blamed for,
        a file only where the batch names no utterances.
    """
    seen: dict[str, dict[Any, list[str]]] = {what: {} for what in _SHARED}
    one_run = len({Path(analysis["file"]).parent for analysis in analyses}) == 1
    for analysis in analyses:
        diagnosis = analysis["diagnosis"]
        values = {
            "blamed utterance": analysis["culprits"],
            "layer": [analysis["module"]],
            "source": [diagnosis.get("source")],
            "cause": [analysis["likely_cause"]],
            "utterance": analysis["utt_ids"],
            "file": [] if analysis["utt_ids"] else analysis["paths"] or [],
            "epoch": [analysis["epoch"]],
            "batch position": [analysis["batch"]],
            "incident": [analysis["incident"]] if one_run else [],
        }
        for what, found in values.items():
            for value in {v for v in found if v not in (None, "")}:
                seen[what].setdefault(value, []).append(analysis["file"])
    blamed = seen["blamed utterance"]
    patterns = [
        {"what": what, "value": value, "dumps": names, "of": len(analyses)}
        for what, values in seen.items()
        for value, names in values.items()
        if len(names) > 1
        and not (what == "utterance" and len(blamed.get(value, ())) == len(names))
    ]
    return sorted(
        patterns,
        key=lambda p: (_SHARED.index(p["what"]), -len(p["dumps"]), str(p["value"])),
    )
