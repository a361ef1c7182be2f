"""The committed results page is what its results say, and nothing else."""

from pathlib import Path

import pytest

from speechbrain_ext.report.collection import render_collection
from speechbrain_ext.report.results import ResultsError

EGS = Path(__file__).resolve().parents[2] / "egs"
PAGES = sorted(EGS.glob("*/RESULTS.md"))


def test_there_is_a_page():
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.parent.name)
def test_the_committed_page_can_be_made_again(page):
    assert page.read_text(encoding="utf-8") == render_collection(
        page.parent / "results"
    )


def test_an_edited_figure_is_found(tmp_path):
    source = next(iter((PAGES[0].parent / "results").glob("*.json")))
    text = source.read_text(encoding="utf-8")
    start = text.index('"snr_db": ') + len('"snr_db": ')
    (tmp_path / "x.json").write_text(text[:start] + "9" + text[start:], "utf-8")
    with pytest.raises(ResultsError, match="snr_db"):
        render_collection(tmp_path)


def test_no_results_is_a_message(tmp_path):
    with pytest.raises(ResultsError, match="no results"):
        render_collection(tmp_path)
