"""Utterances in quarantine are named in the results and in all that is made of them."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from speechbrain_ext.brain.policy import NonFinitePolicy
from speechbrain_ext.brain.quarantine import Quarantine
from speechbrain_ext.brain.quarantine_file import QuarantineError, quarantine_table
from speechbrain_ext.report.html import render_html
from speechbrain_ext.report.page import print_results, render_markdown
from speechbrain_ext.report.results import ResultsError, read_results, write_results
from speechbrain_ext.scoring.signal import mean_scores
from speechbrain_ext.tasks.conditions import utterances_left_out


@pytest.fixture
def results():
    files = [{"utt_id": "t1", "snr_db": 3.0, "pesq_wb": 2.0, "not_measured": {}}]
    known = ("split_hash", "seed", "config_hash", "versions", "train_seconds")
    return {
        "task": "codec",
        "created": "2026-01-31T12:00:00+00:00",
        "command": "./run.sh",
        "conditions": dict.fromkeys((*known, "parameters", "device", "threads")),
        "systems": [
            {
                "name": "ours",
                "kbps": 8.0,
                "rate_kind": "nominal",
                "mean": mean_scores(files),
                "files": files,
            }
        ],
        "health": {},
    }


@pytest.fixture
def left_out(tmp_path):
    quarantine = Quarantine(tmp_path / "quarantine.json")
    quarantine.add(
        ["spk1 <b>|x"],
        reason="wav: 3 samples are NaN",
        cause="input non-finite",
        epoch=2,
        batch=7,
        dump=tmp_path / "debug_nan" / "nan_batch_7_epoch_2.pt",
    )
    return quarantine_table(quarantine.path)


def test_results_without_quarantine_are_as_before(tmp_path, results):
    write_results(tmp_path / "results.json", results)
    assert "eft out" not in render_markdown(results) + render_html(results, ".", [])


def test_they_stand_in_the_file_the_page_the_report_and_the_terminal(
    tmp_path, results, left_out
):
    results["left_out"] = left_out
    path = tmp_path / "results.json"
    write_results(path, results)
    assert read_results(path)["left_out"] == left_out
    text = render_markdown(results)
    assert "## Left out of training: 1\n\n| utterance | reason | cause |" in text
    assert (
        "| spk1 <b>\\|x | wav: 3 samples are NaN | input non-finite | 2 | 7 "
        "| debug_nan/nan_batch_7_epoch_2.pt |"
    ) in text
    page = render_html(results, tmp_path, [])
    assert "<h2>Left out of training: 1</h2>" in page
    assert "<td>spk1 &lt;b&gt;|x</td><td>wav: 3 samples are NaN</td>" in page
    assert "<b>|x" not in page
    stream = io.StringIO()
    print_results(results, Console(file=stream, width=80))
    assert re.search(r"Left out of training: 1 \(spk1 <b>\|x\)", stream.getvalue())


@pytest.mark.parametrize("broken", ["a", ["a"], [{"utt_id": "a"}]])
def test_a_list_of_another_shape_is_refused(tmp_path, results, broken):
    results["left_out"] = broken
    with pytest.raises(ResultsError, match="left_out"):
        write_results(tmp_path / "results.json", results)


def test_the_evaluation_reads_the_list_of_its_experiment(tmp_path, left_out):
    assert utterances_left_out(SimpleNamespace(hparams={}), tmp_path) == left_out
    policy = NonFinitePolicy(dump_folder=str(tmp_path / "debug_nan"))
    recipe = SimpleNamespace(hparams={"nan_guard": policy})
    assert utterances_left_out(recipe, tmp_path / "elsewhere") == left_out
    empty = NonFinitePolicy(quarantine_file=str(tmp_path / "none.json"))
    recipe = SimpleNamespace(hparams={"nan_guard": empty})
    assert utterances_left_out(recipe, tmp_path) == []
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(QuarantineError):
        utterances_left_out(recipe, tmp_path)
