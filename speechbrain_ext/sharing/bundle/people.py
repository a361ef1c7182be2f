"""Whom a bundle names: speakers, and utterances, whose ids often tell of people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from speechbrain_ext.sharing.bundle.errors import BundleError
from speechbrain_ext.sharing.bundle.manifest import strict_json
from speechbrain_ext.sharing.bundle.names import RESULTS

TRAINED, TESTED = "speakers.json", "scores/utterances.json"
#: Members that names are in.
SOURCES = (TRAINED, TESTED, RESULTS)


@dataclass(frozen=True)
class People:
    """Names that stand in a bundle; each list sorted, without doubles.

    Attributes
    ----------
    kinds : dict
        What they are, for one and for more of them -> the names.
    members : list of str
        Where they stand.
    """

    kinds: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return bool(self.kinds)

    def __str__(self) -> str:
        """Count them, and say where they stand."""
        counts = (
            f"{len(names):,} {kind[len(names) != 1]}"
            for kind, names in self.kinds.items()
        )
        return f"{', '.join(counts)} ({', '.join(self.members)})"


def people_in(members: Mapping[str, bytes]) -> People:
    """Find out whom a bundle names.

    Arguments
    ---------
    members : Mapping
        Name -> bytes, of `SOURCES` those that are there; what is of another shape than
        ours is passed over.
    """
    read = {name: _json(members[name]) for name in SOURCES if name in members}
    trained, tested, results = (read.get(name, {}) for name in SOURCES)
    known = _dict(tested.get("speakers"))
    in_results = set(_utterances(results))
    kinds = {
        ("training speaker name", "training speaker names"): trained.get("speakers"),
        ("test speaker name", "test speaker names"): known.values(),
        ("utterance id", "utterance ids"): {*known, *in_results},
    }
    found = {kind: _texts(names) for kind, names in kinds.items()}
    holds = (_texts(trained.get("speakers")), known, in_results)
    return People(
        {kind: names for kind, names in found.items() if names},
        [name for name, held in zip(SOURCES, holds, strict=True) if held],
    )


def _json(data: bytes) -> dict[str, Any]:
    try:
        return _dict(strict_json(data, "a member"))
    except BundleError:
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(values: Any) -> list[str]:
    named = values if hasattr(values, "__iter__") and type(values) is not str else ()
    return sorted({value for value in named if isinstance(value, str)})


def _utterances(value: Any) -> Iterator[str]:
    """Yield what stands as an utterance's id, at any depth."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if isinstance(value.get("utt_id"), str):
                yield value["utt_id"]
            todo += value.values()
        elif isinstance(value, list):
            todo += value
