"""What a corpus is, in the words that a model card needs: title, licence, language.

A corpus may have a third window, ``facts(raw, data_folder)``; see `facts_of`. They are
kept with the prepared data, and go from there into each result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechbrain_ext.data.corpora import CORPORA, Corpus

#: Of recordings that only their owner can say anything about.
YOURS = "unknown: yours"

_REMARK = re.compile(r"^#\s*licen[cs]e:\s*(\S.*)$", re.I | re.M)


@dataclass(frozen=True)
class Facts:
    """What is known of a corpus.

    Arguments
    ---------
    title : str
        How people call it.
    licence : str
        SPDX identifier of the recordings' licence; empty if each part has its own.
    language : tuple of str
        Codes of ISO 639, as far as they are known.
    synthetic : bool or None
        Whether no human was recorded; None where nobody knows.
    url : str
        Where it is published.
    licences : Mapping
        Part of the corpus -> its licence, where they differ.
    note : str
        What a reader of the results should know; a sentence.
    """

    title: str
    licence: str = ""
    language: tuple[str, ...] = ()
    synthetic: bool | None = None
    url: str = ""
    licences: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def facts_of(corpus: Corpus, raw: Path, data_folder: Path | None) -> dict[str, Any]:
    """Tell what is known of a corpus, as ``prepare.json`` keeps it.

    Arguments
    ---------
    corpus : Corpus
        Its method ``facts(raw, data_folder)`` is asked, where it has one.
    raw, data_folder : Path
        As for ``items``.

    Returns
    -------
    dict
        ``corpus``, its name in `CORPORA`, and what `Facts` has; empty ones left out.
    """
    kind = type(corpus).__name__
    names = (name for name, (place, _) in CORPORA.items() if place.endswith(f":{kind}"))
    ask = getattr(corpus, "facts", None)
    facts = ask(raw, data_folder) if ask else Facts(kind)
    known = {
        key: value
        for key, value in asdict(facts).items()
        if value not in (None, "", (), {})
    }
    if not facts.licence and not facts.licences:
        known["licence"] = YOURS
    return {"corpus": next(names, kind), **known}


def licence_of_sentences(path: Path) -> str:
    """Read the remark ``# Licence: ...`` of a sentences file."""
    found = _REMARK.search(path.read_text(encoding="utf-8"))
    return found[1].strip() if found else YOURS


def iso_language(code: str) -> str:
    """Return a locale's language: ``pt`` of ``pt_BR``.

    Example
    -------
    >>> iso_language("en_GB"), iso_language("nds")
    ('en', 'nds')
    """
    return re.split(r"[_\-+@]", code)[0].lower()
