"""The YAML block at the head of a model card, as the Hugging Face Hub reads it.

Specification: https://github.com/huggingface/hub-docs/blob/main/modelcard.md. The Hub
reads YAML 1.1, in which ``no`` is false and ``1:30`` a number; every text is written so
that readers of 1.1 and 1.2 see the same.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, SequenceNode

from speechbrain_ext.config.flatten import scalar
from speechbrain_ext.config.tree import CORE
from speechbrain_ext.errors import UserError
from speechbrain_ext.report.facts import data_of, licence_is_known, licences_of

LIBRARY = "speechbrain"

#: task -> (pipeline tag of the Hub, name of the task, tags)
TASKS = {
    "codec": (
        "audio-to-audio",
        "Speech coding",
        ["speech-codec", "audio-codec", "speech"],
    ),
    "speaker": (
        "audio-classification",
        "Speaker verification",
        ["speaker-verification", "speaker-embeddings", "speech"],
    ),
}

#: What an identifier of a licence looks like there.
LICENCE_ID = r"[a-z0-9][a-z0-9.+-]{1,59}"

#: SPDX identifiers, as corpora name their licences -> names of the Hub.
HUB_LICENCES = {
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-SA-3.0": "cc-by-sa-3.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-3.0": "cc-by-3.0",
    "CC0-1.0": "cc0-1.0",
    "Apache-2.0": "apache-2.0",
    "GPL-2": "gpl-2.0",
    "GPL-2+": "gpl-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "MIT": "mit",
}


def front_matter(
    results: Mapping[str, Any],
    name: str,
    metrics: Sequence[Mapping[str, Any]],
    *,
    licence: str | None = None,
) -> str:
    """Write the block, with its two lines of dashes.

    Arguments
    ---------
    results : Mapping
        As `speechbrain_ext.report.results.read_results` returns them.
    name : str
        Of the model.
    metrics : sequence of Mapping
        ``type``, ``name`` and ``value`` of each figure that was measured.
    licence : str or None
        Of the weights, from `hub_licence`; None: that of the data stands for it.

    Returns
    -------
    str
        What is not recorded is left out; the licence is that of the data, or else
        ``unknown`` or ``other``.
    """
    data = data_of(results)
    pipeline, title, tags = TASKS[results["task"]]
    corpus = str(data.get("corpus") or "")
    block: dict[str, Any] = {}
    if data.get("language"):
        block["language"] = [str(code) for code in data["language"]]
    block |= {"license": licence} if licence else _licence(data)
    block["library_name"] = LIBRARY
    block["pipeline_tag"] = pipeline
    block["tags"] = ["speechbrain", "speechbrain-ext", *tags]
    if data.get("corpus"):
        block["datasets"] = [corpus]
    if metrics:
        block["metrics"] = list(dict.fromkeys(metric["type"] for metric in metrics))
    split = results["conditions"].get("split_hash")
    dataset: dict[str, Any] = {
        "type": corpus,
        "name": str(data.get("title") or corpus),
        "split": "test",
    }
    if split:
        dataset["revision"] = str(split)
    result = {
        "task": {"type": pipeline, "name": title},
        "dataset": dataset,
        "metrics": [dict(metric) for metric in metrics],
    }
    if metrics and corpus:  # the Hub wants a value for each, and its data
        block["model-index"] = [{"name": name, "results": [result]}]
    return f"---\n{to_yaml(block)}---\n"


def hub_licence(text: str) -> str:
    """Name a licence as the Hub does.

    Arguments
    ---------
    text : str
        An identifier of SPDX or of the Hub, or another word in its form.

    Raises
    ------
    UserError
        If it can't be an identifier.

    Example
    -------
    >>> hub_licence("CC-BY-4.0"), hub_licence("GPL-2"), hub_licence("openrail")
    ('cc-by-4.0', 'gpl-2.0', 'openrail')
    """
    known = {spdx.lower(): name for spdx, name in HUB_LICENCES.items()}
    name = known.get(text.lower(), text.lower())
    if not re.fullmatch(LICENCE_ID, name):
        raise UserError(
            f"export: --license {text!r} is no identifier of a licence, such as "
            "cc-by-4.0 or apache-2.0; known to the Hub: "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )
    return name


def _licence(data: Mapping[str, Any]) -> dict[str, str]:
    """Name the licence of the data as the Hub does."""
    if not licence_is_known(data):
        return {"license": "unknown"}
    names = {HUB_LICENCES.get(licence) for licence in licences_of(data).values()}
    if len(names) == 1 and (name := names.pop()):
        return {"license": name}
    return {"license": "other", "license_name": "see-the-data", "license_link": "#data"}


def to_yaml(value: Mapping[str, Any]) -> str:
    """Write texts, numbers, lists and mappings as YAML in block style."""
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.width, yaml.allow_unicode = 10**6, True
    stream = io.StringIO()
    yaml.serialize(_node(value), stream)
    return stream.getvalue()


def _node(value: Any):
    if isinstance(value, Mapping):
        pairs = [(scalar(str(key)), _node(item)) for key, item in value.items()]
        return MappingNode(tag=CORE + "map", value=pairs, flow_style=not pairs)
    if isinstance(value, (list, tuple)):
        items = [_node(item) for item in value]
        return SequenceNode(tag=CORE + "seq", value=items, flow_style=not items)
    return scalar(value)
