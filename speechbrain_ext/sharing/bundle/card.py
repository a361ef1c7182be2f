"""The card of a bundle: a function of its results, files and manifest alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from speechbrain_ext.task_folders import PLACES, Place

_USAGE = """\
```
bundle=$PWD/{name}.zip                  # in the checkout, where the file lies
speechbrain-ext verify "$bundle"        # recomputes the tables from the scores
speechbrain-ext inspect "$bundle"       # what loading the recipe would do
cd {folder}
./run.sh --recipe "$bundle" --tag again     # trains it {speech}
speechbrain-ext unpack "$bundle" exp/{name}
./run.sh --tag {name} --stop_stage prepare  # its test speech
./run.sh --tag {name} --stage {stage}       # the trained model, on it
```"""
#: A task that is at home nowhere.
_ANYWHERE = Place("egs/FOLDER", "train")


def render(
    results: Mapping[str, Any],
    name: str,
    files: Iterable[str],
    weights_sha256: str,
    *,
    data: Mapping[str, str] | None = None,
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
    data : Mapping or None
        What the manifest says of its speech.
    """
    place = PLACES.get(results["task"], _ANYWHERE)
    corpus = (data or {}).get("corpus")
    usage = _USAGE.format(
        name=name,
        folder=place.folder,
        stage=place.after_training,
        speech=f"on the corpus {corpus}, as here" if corpus else "on your speech",
    )
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
