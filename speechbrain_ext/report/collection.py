"""RESULTS.md of a whole recipe, from the results of several experiments.

``egs/<corpus>/results/<experiment>.json`` are copies of ``results.json``; the page is
generated from them and holds nothing else, so it can be made again and compared.
"""

from __future__ import annotations

from pathlib import Path

from speechbrain_ext.report.page import render_markdown
from speechbrain_ext.report.results import ResultsError, read_results


def render_collection(folder: str | Path) -> str:
    """Render all results in a folder as one Markdown page.

    Arguments
    ---------
    folder : str or Path
        Holds ``<experiment>.json`` files in the shape of `report.results`.

    Returns
    -------
    str
        One chapter for each experiment, in the order of their names.

    Raises
    ------
    ResultsError
        If a file is broken or edited, or there is none.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ResultsError(f"{folder}: no results; make them: make acceptance")
    chapters = [
        render_markdown(read_results(path)).replace("# Results", f"# {path.stem}", 1)
        for path in paths
    ]
    return "\n".join(chapters)
