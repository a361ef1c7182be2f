"""The card of a bundle: a function of its results and its file names alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

_USAGE = """\
```
speechbrain-ext verify {name}.zip               # recomputes the tables from the scores
speechbrain-ext inspect {name}.zip              # what loading the recipe would do
./run.sh --recipe {name}.zip                    # in egs/: trains it on your data
speechbrain-ext unpack {name}.zip exp/{name}    # in egs/: the trained model, then
./run.sh --tag {name} --stage {stage}
```"""
#: task -> the first stage of run.sh that uses a trained model
_STAGES = {"codec": "evaluate", "speaker": "embed"}


def render(
    results: Mapping[str, Any], name: str, files: Iterable[str], weights_sha256: str
) -> str:
    """Write README.md of a bundle.

    Arguments
    ---------
    results : Mapping
        Its ``results.json``.
    name : str
        What the bundle is called.
    files : Iterable of str
        Names of its other members, but the manifest.
    weights_sha256 : str
        Of its ``model.safetensors``.
    """
    usage = _USAGE.format(name=name, stage=_STAGES.get(results["task"], "train"))
    try:
        card = importlib.import_module("speechbrain_ext.sharing.card")
    except ModuleNotFoundError:
        from speechbrain_ext.report.page import render_markdown

        return f"{render_markdown(dict(results))}\n## Use\n\n{usage}\n"
    return card.render_card(
        results,
        name=name,
        files=sorted(files),
        usage=usage,
        weights_sha256=weights_sha256,
    )
