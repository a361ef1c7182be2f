"""What differs between two sides, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from speechbrain_ext.report.diff.sides import Side
from speechbrain_ext.report.facts import data_of, licence_text, resumed_text
from speechbrain_ext.report.headline import Figure, figures_of
from speechbrain_ext.report.tables import plain
from speechbrain_ext.resume.changes import differing

_INTERVALS = "apart, overlap: the 95 % intervals; what overlaps is not established"

#: Or "task" alone, where the tasks differ.
SECTIONS = ("configuration", "metrics", "data", "environment", "code", "history")


@dataclass(frozen=True)
class Row:
    """One thing that differs.

    Arguments
    ---------
    key : str
        What it is.
    a, b : str
        As texts.
    note : str
        What the difference means.
    """

    key: str
    a: str
    b: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One part of the comparison.

    Arguments
    ---------
    name : str
        One of `SECTIONS`.
    rows : list of Row
        What differs.
    compared : int
        How many things were held side by side; 0: a side lacks them.
    note : str
        What a reader must know.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    compared: int = 0
    note: str = ""


def compare(a: Side, b: Side) -> list[Section]:
    """Compare two sides in all that both have; of two tasks nothing else."""
    tasks = _task(a), _task(b)
    if all(tasks) and tasks[0] != tasks[1]:
        note = "different tasks have nothing in common that could be compared"
        return [Section("task", [Row("task", *tasks)], 1, note)]
    return [
        _configuration(a, b),
        _metrics(a, b),
        _of_mappings("data", _data(a), _data(b)),
        _of_mappings("environment", _environment(a), _environment(b)),
        _of_mappings("code", _code(a), _code(b)),
        _history(a, b),
    ]


def _task(side: Side) -> str:
    """Name a side's task as results do; empty if it is not known."""
    if side.results is not None:
        return str(side.results["task"])
    return str((side.settings or {}).get("task", "")).rpartition(".")[2]


def _lacking(name: str, a: Side, b: Side, has_a: bool, has_b: bool) -> Section:
    lacking = [
        f"{letter} ({side.kind})"
        for letter, side, has in (("A", a, has_a), ("B", b, has_b))
        if not has
    ]
    verb = "have" if len(lacking) > 1 else "has"
    return Section(name, note=f"not compared: {' and '.join(lacking)} {verb} none")


def _configuration(a: Side, b: Side) -> Section:
    if a.settings is None or b.settings is None:
        has = a.settings is not None, b.settings is not None
        return _lacking("configuration", a, b, *has)
    open_keys = {
        key
        for settings in (a.settings, b.settings)
        for key, value in settings.items()
        if value == "(open)"  # a recipe waits for it; an experiment has been given it
    }
    rows = [
        Row(*entry)
        for entry in differing(a.settings, b.settings)
        if entry[0] not in open_keys
    ]
    count = len(a.settings.keys() | b.settings.keys())
    return Section("configuration", rows, count, "where things are put is left out")


def _metrics(a: Side, b: Side) -> Section:
    if a.results is None or b.results is None:
        has = a.results is not None, b.results is not None
        return _lacking("metrics", a, b, *has)
    ours, theirs = figures_of(a.results), figures_of(b.results)
    absent = Figure(None, "(absent)")
    rows = []
    keys = list({**ours, **theirs})
    for key in keys:
        pair = ours.get(key, absent), theirs.get(key, absent)
        if pair[0] != pair[1]:
            rows.append(Row(key, pair[0].text, pair[1].text, _verdict(*pair)))
    hashes = [side.results["conditions"].get("split_hash") for side in (a, b)]
    note = _INTERVALS if any("," in row.note for row in rows) else ""
    if hashes[0] != hashes[1]:
        note = "not of the same split of the same data" + (f"; {note}" if note else "")
    return Section("metrics", rows, len(keys), note)


def _verdict(a: Figure, b: Figure) -> str:
    """Say by how much, and whether that is more than chance."""
    if a.value is None or b.value is None:
        return ""
    change = b.value - a.value
    if a.interval is None or b.interval is None:
        return f"{change:+.3f}"
    overlap = a.interval[0] <= b.interval[1] and b.interval[0] <= a.interval[1]
    return f"{100 * change:+.2f}, {'overlap' if overlap else 'apart'}"


def _of_mappings(name: str, a: Mapping[str, str], b: Mapping[str, str]) -> Section:
    both = [key for key in a if key in b]
    rows = [Row(key, a[key], b[key]) for key in both if a[key] != b[key]]
    note = "" if both else "not compared: not recorded on both sides"
    return Section(name, rows, len(both), note)


def _data(side: Side) -> dict[str, str]:
    """Corpus, licence, sizes and hashes, as far as they are known."""
    found: dict[str, str] = {}
    conditions = (side.results or {}).get("conditions", {})
    for key in ("split_hash", "split_seed", "inner_split"):
        if key in conditions:
            found[key.replace("_", " ")] = str(conditions[key])
    data = data_of(side.results) if side.results else {}
    if data:
        found["corpus"] = str(data.get("corpus", "not recorded"))
        found["licence"] = licence_text(data)
        found["language"] = ", ".join(data.get("language") or ()) or "not recorded"
        counts = data.get("counts") or {}
        found |= {f"{role} utterances": f"{n:,}" for role, n in counts.items()}
    for key, known in side.data.items():
        if isinstance(known, dict):
            found[f"{key}, content"] = str(known.get("hash"))
            found[f"{key}, utterances"] = plain(known.get("utterances"))
    return found


def _environment(side: Side) -> dict[str, str]:
    """Versions, processor, threads: of training, or else of scoring."""
    source = side.env or (side.results or {}).get("conditions") or {}
    versions = source.get("versions") or {}
    found = {str(name): str(version) for name, version in versions.items()}
    found.pop("speechbrain-ext", None)  # the code's own; see `_code`
    for key in ("platform", "processor", "threads", "gpu", "ranks"):
        if key in source:
            found[key] = plain(source[key]) if source[key] is not None else "none"
    return found


def _code(side: Side) -> dict[str, str]:
    source = side.env or (side.results or {}).get("conditions") or {}
    found = dict(side.packed)
    git = source.get("git")
    if isinstance(git, dict):
        found["commit"] = str(git.get("commit"))
        found["changes not committed"] = "yes" if git.get("dirty") else "no"
    version = (source.get("versions") or {}).get("speechbrain-ext")
    if version:
        found["speechbrain-ext"] = str(version)
    return found


def _history(a: Side, b: Side) -> Section:
    """Compare what was changed on the way, entry by entry; times do not count."""
    texts = [
        [resumed_text({**entry, "time": None}) for entry in side.history]
        for side in (a, b)
    ]
    count = max(map(len, texts))
    padded = [[*known, *["(nothing)"] * (count - len(known))] for known in texts]
    rows = [
        Row(f"settings changed, {number}", *pair)
        for number, pair in enumerate(zip(*padded, strict=True), 1)
        if pair[0] != pair[1]
    ]
    return Section("history", rows, count)
