"""What is known of a result beside its figures, in groups: RESULTS.md and the card.

The groups follow the questions of a reader: which model, learned from what, at what
cost, how healthy, in which environment. A condition that no group names stands in the
last one, so nothing is lost; what older results lack is "not recorded".
"""

from __future__ import annotations

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
    "Cost": (
        "train_seconds", "device", "threads", "evaluate_seconds", "score_seconds",
    ),
    "Health": (),
    "Environment": ("versions", "processor", "git"),
    "Conditions": (),
}  # fmt: skip
#: Conditions that hold several facts, told by `_data_rows` and its neighbours, and one
#: that stands above the tables.
_TOLD_ELSEWHERE = ("data", "cost", "resumed", "caveat")
#: Conditions that are names, not quantities.
_NAMES = ("seed", "split_seed")

_MAY_BE_ABSENT = ("inner_split",)

#: Labels that are not the condition's name.
_LABELS = {
    "device": "scored on",
    "threads": "threads when scored",
    "valid_snr_db": "valid SNR, dB",
    "num_train_speakers": "train speakers",
    "num_test_speakers": "test speakers",
    "git": "code",
}

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
    groups["Data"] = _data_rows(conditions.get("data")) + groups["Data"]
    groups["Cost"] += _cost_rows(conditions.get("cost"))
    groups["Health"] = _health_rows(results)
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
    """Return what is recorded of the data; empty of older results."""
    data = results["conditions"].get("data")
    return data if isinstance(data, dict) else {}


def _data_rows(data: Any) -> Rows:
    """Corpus, licence, language, and how much of it."""
    if not isinstance(data, dict) or not data:
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


def licence_text(data: dict[str, Any]) -> str:
    """Say under which licence the data stands, part by part where they differ."""
    parts = data.get("licences")
    if parts:
        by_licence: dict[str, list[str]] = {}
        for part, licence in parts.items():
            by_licence.setdefault(str(licence), []).append(str(part))
        return "; ".join(
            f"{licence}: {', '.join(names)}" for licence, names in by_licence.items()
        )
    return str(data.get("licence") or NOT_RECORDED)


def _cost_rows(cost: Any) -> Rows:
    """Where training ran; the seconds stand above."""
    if not isinstance(cost, dict):
        return []
    return [(f"training {_label(key)}", plain(value)) for key, value in cost.items()]


def _health_rows(results: dict[str, Any]) -> Rows:
    """Count what was rejected, left out, without a score, or changed on the way."""
    rows = _rows(results["health"], results["health"])
    rows.append(("utterances left out", str(len(results.get("left_out", [])))))
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
