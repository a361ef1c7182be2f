"""What is known of a result beside its figures, in groups: RESULTS.md and the card.

The groups follow the questions of a reader: which model, learned from what, at what
cost, how healthy, in which environment. A condition that no group names stands in the
last one, so nothing is lost; what older results lack is "not recorded".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from speechbrain_ext.report.tables import plain

#: Group -> conditions, in order; what stands in none of them is listed at the end.
GROUPS = {
    "Model": (
        "model", "parameters", "seed", "epoch", "valid_snr_db", "checkpoint",
        "config_hash",
    ),
    "Data": (
        "split_hash", "split_seed", "inner_split", "num_train_speakers",
        "num_test_speakers",
    ),
    "Cost": (),
    "Health": (),
    "Environment": ("versions",),
    "Conditions": (),
}  # fmt: skip
#: Conditions told by `_data_rows` and its neighbours; the caveat stands by itself.
_TOLD_ELSEWHERE = (
    "data", "cost", "processor", "train_seconds", "device", "threads",
    "evaluate_seconds", "score_seconds", "git", "resumed", "caveat", "bundle",
    "buffers",
)  # fmt: skip
#: Conditions that are names, not quantities.
_NAMES = ("seed", "split_seed")

_MAY_BE_ABSENT = ("inner_split",)

CHECKPOINT_LABEL = "weights, SHA-256 begins"
#: Labels that are not the condition's name.
_LABELS = {
    "checkpoint": CHECKPOINT_LABEL,
    "valid_snr_db": "valid SNR, dB",
    "num_train_speakers": "train speakers",
    "num_test_speakers": "test speakers",
}

#: Condition ``data`` -> the type of what it holds.
_DATA_SHAPE = {
    "corpus": str, "title": str, "url": str, "licence": str, "note": str,
    "licences": dict, "counts": dict, "seconds": dict, "language": (list, tuple),
    "synthetic": bool,
}  # fmt: skip

NOT_RECORDED = "not recorded"

Rows = list[tuple[str, str]]


def fact_groups(results: dict[str, Any]) -> dict[str, Rows]:
    """Tell all facts of results.

    Arguments
    ---------
    results : dict
        As `speechbrain_ext.report.results.read_results` returns them; of any age.

    Returns
    -------
    dict
        Group -> pairs of label and text; a group without facts is left out.
    """
    conditions = results["conditions"]
    named = {key for keys in GROUPS.values() for key in keys}
    groups = {
        group: _rows(conditions, (key for key in keys if _is_told(conditions, key)))
        for group, keys in GROUPS.items()
    }
    if bundle := bundle_of(results):
        groups["Model"].append(("weights from bundle", str(bundle.get("digest"))))
    groups["Model"] = [
        (label, text + _buffers_text(results) * (label == "parameters"))
        for label, text in groups["Model"]
    ]
    groups["Data"] = _data_rows(data_of(results)) + groups["Data"]
    groups["Cost"] = _cost_rows(conditions)
    groups["Health"] = _health_rows(results)
    groups["Environment"].append(("code", _code_text(conditions.get("git"))))
    groups["Conditions"] = [("created", results["created"])]
    groups["Conditions"] += _rows(
        conditions,
        (key for key in conditions if key not in named and key not in _TOLD_ELSEWHERE),
    )
    return {group: rows for group, rows in groups.items() if rows}


def _is_told(conditions: dict[str, Any], key: str) -> bool:
    """Whether a condition says something; None of these means that it was not used."""
    if key in _MAY_BE_ABSENT and conditions.get(key) is None:
        return False
    return key in conditions


def _rows(values: dict[str, Any], keys: Iterable[str]) -> Rows:
    return [(_label(key), _text(key, values[key])) for key in keys]


def _label(key: str) -> str:
    return _LABELS.get(key) or key.replace("_", " ")


def _text(key: str, value: Any) -> str:
    return str(value) if key in _NAMES and value is not None else plain(value)


def data_of(results: dict[str, Any]) -> dict[str, Any]:
    """Return what is recorded of the data, or else what the command says; may be empty.

    A corpus is in the command of results that are older than its record.
    """
    data = results["conditions"].get("data")
    data = data if isinstance(data, dict) else {}
    named = corpus_in(str(results.get("command") or ""))
    return data if data.get("corpus") or not named else {**data, "corpus": named}


def corpus_in(command: str) -> str | None:
    """Return the corpus that a command names.

    Example
    -------
    >>> corpus_in("./run.sh --corpus=festival --tag=x"), corpus_in("./run.sh")
    ('festival', None)
    """
    found = re.search(r"(?:^|\s)--corpus[= ]([\w.-]+)(?=\s|$)", command)
    return found[1] if found else None


def _buffers_text(results: dict[str, Any]) -> str:
    """Count the weights that no gradient moves: codebooks, running means."""
    count = results["conditions"].get("buffers")
    if not isinstance(count, int) or count < 1:
        return ""
    what = "codebooks and buffers" if results["task"] == "codec" else "buffers"
    return f" by gradient, and {count:,} in {what}"


def bundle_of(results: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of the bundle that brought the weights; empty if none did."""
    return results["conditions"].get("bundle") or {}


def _data_rows(data: dict[str, Any]) -> Rows:
    """Corpus, licence, language, and how much of it."""
    if not data:
        return [("corpus", NOT_RECORDED), ("licence of the data", NOT_RECORDED)]
    title, url = data.get("title"), data.get("url")
    corpus = str(data.get("corpus") or NOT_RECORDED)
    rows = [
        ("corpus", ", ".join(str(x) for x in (corpus, title, url) if x)),
        ("licence of the data", licence_text(data)),
        ("language", ", ".join(data.get("language") or ()) or NOT_RECORDED),
    ]
    if data.get("synthetic") is not None:
        speech = "synthetic: no human was recorded" if data["synthetic"] else "recorded"
        rows.append(("speech", speech))
    seconds = data.get("seconds") or {}
    sizes = [
        f"{role} {count:,}"
        + (f" ({seconds[role] / 60:.1f} min)" if seconds.get(role) else "")
        for role, count in (data.get("counts") or {}).items()
    ]
    if sizes:
        rows.append(("utterances", ", ".join(sizes)))
    return rows


def licences_of(data: dict[str, Any]) -> dict[str, str]:
    """Return part of the data -> its licence; one part, "", if all is under one."""
    parts = data.get("licences") or {"": data.get("licence") or NOT_RECORDED}
    return {str(part): str(licence) for part, licence in parts.items()}


def licence_is_known(data: dict[str, Any]) -> bool:
    """Whether the licence of every part of the data is known."""
    unknown = ("unknown", NOT_RECORDED)
    return not any(text.startswith(unknown) for text in licences_of(data).values())


def licence_text(data: dict[str, Any]) -> str:
    """Say under which licence the data stands, part by part where they differ."""
    by_licence: dict[str, list[str]] = {}
    for part, licence in licences_of(data).items():
        if licence.startswith("unknown"):
            licence = "unknown (own recordings)"
        by_licence.setdefault(licence, []).append(part)
    return "; ".join(
        licence + (f": {', '.join(parts)}" if parts != [""] else "")
        for licence, parts in by_licence.items()
    )


def _cost_rows(conditions: dict[str, Any]) -> Rows:
    """How long training and scoring took, and on what."""
    cost = conditions.get("cost") or {}
    seconds = conditions.get("train_seconds")
    trained = "not measured: no seconds in the training log"
    if seconds is not None:
        trained = _duration(seconds)
    if cost.get("epochs") is not None:
        trained += f", {cost['epochs']} epochs"
    rows = [("training", trained), ("trained on", _machine(cost))]
    for key in ("evaluate_seconds", "score_seconds"):
        if conditions.get(key) is not None:
            rows.append(("scoring", _duration(conditions[key])))
    rows.append(("scored on", _machine(conditions)))
    return rows


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s" + (f" ({seconds / 60:.1f} min)" if seconds > 99 else "")


def _machine(known: dict[str, Any]) -> str:
    """Device, processor, threads; no name of a machine."""
    parts = [str(known[k]) for k in ("device", "gpu", "processor") if known.get(k)]
    for key, one in (("threads", "thread"), ("ranks", "rank")):
        if known.get(key):
            parts.append(f"{known[key]} {one}{'s' * (known[key] != 1)}")
    return ", ".join(parts) or NOT_RECORDED


def _code_text(git: Any) -> str:
    if not isinstance(git, dict):
        return "not known"
    more = ", with changes that are not committed" if git.get("dirty") else ""
    return f"commit {git.get('commit')}{more}"


def _health_rows(results: dict[str, Any]) -> Rows:
    """Count what was rejected, left out, without a score, or changed on the way."""
    by = " (by the bundle's author)" if bundle_of(results) else ""
    rows = [
        (_label(key), NOT_RECORDED if value is None else plain(value) + by)
        for key, value in results["health"].items()
    ]
    rows.append(("utterances in quarantine", str(len(results.get("left_out", [])))))
    missing = results.get("nan_trials")
    if missing:
        text = f"{missing['most']:,} at most in a list; policy {missing['policy']}"
        rows.append(("trials without score", text))
    for entry in results["conditions"].get("resumed") or []:
        rows.append(("settings changed on the way", resumed_text(entry)))
    return rows


def resumed_text(entry: dict[str, Any]) -> str:
    """Tell in one line what was changed when an experiment was gone on with."""
    changes = "; ".join(
        f"{change['key']}: {change['old']} -> {change['new']}"
        for change in entry.get("changes", [])
    )
    how = "forced, " if entry.get("forced") else ""
    return f"{changes} ({how}from epoch {entry.get('epoch')}, {entry.get('time')})"


def fact_problems(conditions: dict[str, Any]) -> list[str]:
    """List what is wrong with facts that are recorded; older results have none.

    Returns
    -------
    list of str
        A line for each problem.
    """
    problems = []
    data, cost = conditions.get("data"), conditions.get("cost")
    bundle = conditions.get("bundle")
    for key, value in (("data", data), ("cost", cost), ("bundle", bundle)):
        if value is not None and not isinstance(value, dict):
            problems.append(f"conditions.{key}: must be an object")
    data = data if isinstance(data, dict) else {}
    for key, kind in _DATA_SHAPE.items():
        if data.get(key) is not None and not isinstance(data[key], kind):
            problems.append(f"conditions.data.{key}: is {data[key]!r}")
    history = conditions.get("resumed") or []
    if not isinstance(history, list) or not all(map(_is_entry, history)):
        problems.append("conditions.resumed: must be a list of changes")
    return problems


def _is_entry(entry: Any) -> bool:
    changes = entry.get("changes") if isinstance(entry, dict) else None
    return isinstance(changes, list) and all(
        isinstance(one, dict) and {"key", "old", "new"} <= one.keys() for one in changes
    )
