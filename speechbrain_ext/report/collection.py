"""RESULTS.md of a whole recipe, from the results of several experiments.

``egs/<corpus>/results/<experiment>.json`` are copies of ``results.json``; the page is
generated from them and holds nothing else, so it can be made again and compared.
"""

from __future__ import annotations

from pathlib import Path

from speechbrain_ext.report.page import render_markdown
from speechbrain_ext.report.results import ResultsError, read_results
from speechbrain_ext.report.speaker.collection import render_speaker_collection


def render_collection(folder: str | Path) -> str:
    """Render all results in a folder as one Markdown page.

    Arguments
    ---------
    folder : str or Path
        Holds ``<experiment>.json`` files in the shape of `report.results`.

    Returns
    -------
    str
        The runs of speaker verification side by side; one chapter for each other
        experiment, in the order of their names.

    Raises
    ------
    ResultsError
        If a file is broken or edited, or there is none.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ResultsError(f"{folder}: no results; make them: make acceptance")
    found = {path.stem: read_results(path) for path in paths}
    runs = [item for item in found.items() if item[1]["task"] == "speaker"]
    chapters = [render_speaker_collection(runs)] if runs else []
    chapters += [
        render_markdown(results).replace("# Results", f"# {name}", 1)
        for name, results in found.items()
        if results["task"] != "speaker"
    ]
    return "\n".join(chapters)
