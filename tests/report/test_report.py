"""results.json and what is generated from it: nothing lost, nothing invented."""

import copy
import io
import json
import re

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from rich.console import Console

from speechbrain_ext.errors import exits_cleanly
from speechbrain_ext.report.codec.plots import (
    plot_rate_distortion,
    plot_spectrograms,
    plot_training,
)
from speechbrain_ext.report.codec.results import margins_over_opus, system_folder
from speechbrain_ext.report.command import make_report, report
from speechbrain_ext.report.html import render_html
from speechbrain_ext.report.page import print_results, render_markdown
from speechbrain_ext.report.results import ResultsError, read_results, write_results
from speechbrain_ext.report.train_log import read_train_log
from speechbrain_ext.scoring.signal import mean_scores

RATE = 16000


def system(name, kbps, snr, pesq, reasons=None):
    reasons = reasons or {}
    files = [
        {
            "utt_id": f"utt <{index}>",
            "snr_db": snr + index,
            "pesq_wb": pesq,
            "not_measured": reasons,
            "non_finite_samples": 0,
        }
        for index in range(2)
    ]
    kind = "nominal" if name == "ours" else "measured payload"
    return {
        "name": name,
        "kbps": kbps,
        "rate_kind": kind,
        "mean": mean_scores(files),
        "files": files,
    }


@pytest.fixture
def results():
    return {
        "task": "codec",
        "created": "2026-01-31T12:00:00+00:00",
        "command": "./run.sh --corpus a|b",
        "conditions": {
            "split_hash": "ab12",
            "seed": 1234,
            "config_hash": "cd34",
            "versions": {"torch": "2.11.0"},
            "train_seconds": 401.25,
            "parameters": 2212345,
            "device": "cpu",
            "threads": 2,
            "git": None,
        },
        "systems": [
            system("ours", 4.0, 10.0, 1.8),
            system("ours", 8.0, 13.25, 2.25),
            system("opus", 5.71, 5.0, 2.5),
            system("opus", 11.5, 12.0, 4.0),
            system("opus", 3.0, 2.0, 1.5),
        ],
        "health": {"rejected_files": 0, "rejected_batches": 3},
    }


def test_results_come_back_as_they_were_written(tmp_path, results):
    path = tmp_path / "results.json"
    assert write_results(path, results) == results
    assert read_results(path) == results


def test_all_faults_are_told_at_once_and_nothing_is_written(tmp_path, results):
    del results["conditions"]["seed"]
    results["systems"][0]["kbps"] = -1
    results["systems"][1]["mean"]["snr_db"] = 30.0
    del results["systems"][2]["mean"]["pesq_wb"]
    del results["systems"][3]["files"]
    with pytest.raises(ResultsError) as caught:
        write_results(tmp_path / "results.json", results)
    message = str(caught.value)
    for text in (
        "conditions.seed: missing",
        "systems[0].kbps: is -1",
        "systems[1].mean.snr_db: is 30.0, the files give 13.75",
        "opus has snr_db but no pesq_wb",
        "systems[3]: KeyError 'files'",
        "--stage evaluate --force",
    ):
        assert text in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such file"),
        ("{", "JSON"),
        ("[]", "must be an object"),
        ("{}", "systems: missing"),
        ('{"task": 1, "created": "", "command": "", "conditions": 1,'
         ' "systems": [], "health": {}}', "conditions: must be an object"),
    ],
)  # fmt: skip
def test_missing_and_broken_files_are_named(tmp_path, text, reason):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ResultsError, match=reason):
        read_results(path)


def test_margins_take_our_best_rate_that_is_not_above_opus(results):
    rows = margins_over_opus(results)
    pairs = [(row["opus_kbps"], row["our_kbps"]) for row in rows]
    assert pairs == [(5.71, 4.0), (11.5, 8.0)]
    assert rows[0]["snr_db"] == pytest.approx(5.0)
    assert rows[1]["pesq_wb"] == pytest.approx(-1.75)


def test_markdown_holds_every_figure_and_pesq_beside_every_snr(results):
    text = render_markdown(results)
    assert "| codec | kbps | rate | SNR dB | PESQ-WB |" in text
    assert "| **ours** | **8.0** | **nominal** | **13.75** | **2.25** |" in text
    assert "| Opus | 5.7 | measured | 5.50 | 2.50 |" in text
    assert "| 11.5 | 8.0 | +1.25 | -1.75 |" in text
    assert "```\n./run.sh --corpus a|b\n```" in text
    for row in (
        "| seed | 1234 |",
        "| parameters | 2,212,345 |",
        "| versions | torch 2.11.0 |",
        "| code | not known |",
        "| rejected batches | 3 |",
    ):
        assert row in text
    assert render_markdown(json.loads(json.dumps(results))) == text


def test_unmeasured_metrics_have_a_footnote_with_the_reason(results):
    reason = {"pesq_wb": "needs gcc and Python headers"}
    results["systems"] = [
        system("ours", 4.0, 10.0, None, reason),
        system("opus", 5.7, 5.0, None, reason),
    ]
    partly = results["systems"][1]
    partly["files"][0] |= {"pesq_wb": 2.0, "not_measured": {}}
    partly["mean"] = mean_scores(partly["files"])
    text = render_markdown(results)
    assert "**not measured [1]**" in text
    assert "| 2.00 [2] |" in text
    assert "[1] PESQ-WB not measured: needs gcc and Python headers." in text
    assert "[2] PESQ-WB over 1 of 2 files; not measured: needs gcc" in text
    assert "| 5.7 | 4.0 | +5.00 | not measured |" in text


def test_terminal_shows_the_same_figures_in_80_columns(results):
    stream = io.StringIO()
    print_results(results, Console(file=stream, width=80))
    shown = stream.getvalue()
    assert re.search(r"ours +8\.0 +nominal +13\.75 +2\.25", shown)
    assert re.search(r"11\.5 +8\.0 +\+1\.25 +-1\.75", shown)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_html_is_self_contained_and_escaped(tmp_path, results):
    folder = tmp_path / "reconstructions" / system_folder(results["systems"][0])
    folder.mkdir(parents=True)
    (folder / "utt <0>.wav").write_bytes(b"")
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    text = render_html(results, tmp_path, [picture])
    assert 'src="reconstructions/ours_4.0k/utt%20%3C0%3E.wav"' in text
    assert text.count("<audio") == 1
    assert "utt <0>" not in text
    assert "data:image/png;base64,cG5n" in text
    assert not re.search(r"https?://|<script|<link", text)
    assert "SNR 10.00 dB, PESQ-WB 1.80" in text


LOG = """\
epoch: 1, lr: 9.9e-04 - train loss: 5.53, train vq: 4.65e-01 - valid snr_8k: -2.10e-01
epoch: 2, lr: 9.8e-04 - train loss: nan, train vq: 4.34e-01
epoch: 2, lr: 9.8e-04 - train loss: 5.12, train vq: 4.30e-01, train note: none
epoch: 3, lr: 9.7e-04 - train lo"""


def test_train_log_is_read_as_speechbrain_writes_it(tmp_path):
    from speechbrain.utils.train_logger import FileTrainLogger

    path = tmp_path / "log.txt"
    FileTrainLogger(str(path)).log_stats(
        {"epoch": 7, "lr": 1e-3}, {"loss": 2.5, "n": 0}, {"snr": -0.25}, verbose=False
    )
    assert read_train_log(path) == [
        {"epoch": 7, "lr": 1e-3, "train loss": 2.5, "train n": 0, "valid snr": -0.25}
    ]


def test_repeated_epochs_count_once_and_cut_lines_do_no_harm(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(LOG)
    rows = read_train_log(path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0]["valid snr_8k"] == -0.21
    assert rows[1]["train loss"] == 5.12
    assert "train note" not in rows[1]


def read_png(path):
    from matplotlib.image import imread

    return imread(path)


def test_pictures_are_drawn_even_where_figures_are_missing(tmp_path, results):
    plot_rate_distortion(results, tmp_path / "a.png")
    bare = copy.deepcopy(results)
    for one in bare["systems"]:
        one["mean"]["pesq_wb"] = None
    plot_rate_distortion(bare, tmp_path / "b.png")
    plot_training([], tmp_path / "c.png")
    plot_training([{"epoch": 1, "train loss": np.nan}], tmp_path / "d.png")
    silence, noise = np.zeros(100), np.full(100, np.nan)
    plot_spectrograms({"a": silence, "b": noise}, RATE, tmp_path / "e.png")
    for name in "abcde":
        assert read_png(tmp_path / f"{name}.png").std() > 0


def test_pictures_show_what_nothing_was_searched_by_and_what_a_run_chose_by(
    tmp_path, results
):
    for one in results["systems"]:
        one["mean"].pop("visqol", None)
    plot_rate_distortion(results, tmp_path / "two.png")
    results["systems"][0]["mean"]["visqol"] = 3.0
    plot_rate_distortion(results, tmp_path / "three.png")
    row = {"epoch": 1, "train loss": 1.0, "valid snr": 2.0}
    plot_training([row], tmp_path / "snr.png")
    plot_training([{**row, "valid loss": 0.5}], tmp_path / "loss.png")
    widths = {p.stem: read_png(p).shape[1] for p in tmp_path.glob("*.png")}
    assert 2 * widths["three"] == 3 * widths["two"]
    assert 2 * widths["loss"] == 3 * widths["snr"]


def test_same_figures_give_the_same_file(tmp_path, results):
    for name in "ab":
        plot_rate_distortion(results, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_spectrogram_of_a_louder_copy_is_brighter(tmp_path):
    wav = np.sin(np.arange(RATE) / 5)
    plot_spectrograms({"a": wav, "b": 0.01 * wav}, RATE, tmp_path / "a.png")
    pixels = read_png(tmp_path / "a.png")[..., :3].mean(-1)
    left = pixels[:, 100:700]
    half = len(left) // 2
    # White margins are alike; what is dark belongs to the panels.
    assert left[:half][left[:half] < 0.9].mean() > left[half:][left[half:] < 0.9].mean()


def test_report_writes_everything_from_the_experiment_alone(tmp_path, results):
    for one in results["systems"]:
        for file in one["files"]:
            file["utt_id"] = file["utt_id"].replace(" <", "_").replace(">", "")
    write_results(tmp_path / "results.json", results)
    (tmp_path / "train_log.txt").write_text(LOG)
    for name in ("reference", "ours_8.0k", "opus_5.7k"):
        folder = tmp_path / "reconstructions" / name
        folder.mkdir(parents=True)
        wav = np.random.default_rng(0).standard_normal(RATE) * 0.1
        soundfile.write(folder / "utt_0.wav", wav, RATE)
    done = CliRunner().invoke(report, [str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "RESULTS.md").read_text() == render_markdown(results)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "rate_distortion.png",
        "spectrograms.png",
        "training.png",
    }
    assert (tmp_path / "report.html").read_text().count("<audio") == 3


def test_tokens_stand_in_the_report_where_there_are_some(tmp_path, results):
    write_results(tmp_path / "results.json", results)
    stream = {"per_second": 70.35, "nominal_bps": 797.0, "entropy_bps": 680.2}
    stream |= {"coded_bps": 731.2, "used": 0.465}
    split = {"utterances": 2, "seconds": 3.0, "codes": stream, "tokens": stream}
    facts = {"num_codebooks": 2, "codebook_size": 256, "vocab_size": 2564}
    record = {
        "model": {"kbps": 0.8},
        "tokenizer": facts | {"pattern": "flat"},
        "splits": {"test": split},
    }
    path = tmp_path / "tokens" / "tokens.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    make_report(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "## Tokens of 2 codebooks at 0.8 kbps, flat" in text
    row = "**test** | **tokens** | **2,564** | **70.3** | **797** | **680** | **731**"
    assert f"| {row} | **46 %** |" in text
    assert "<h2>Tokens</h2>" in (tmp_path / "report.html").read_text()
    # Of a codec without codes, or broken: the report goes without.
    for other in ({"skipped": "no codes"}, {**record, "splits": [1]}, []):
        path.write_text(json.dumps(other))
        make_report(tmp_path)
        assert (tmp_path / "RESULTS.md").read_text() == render_markdown(results)


def test_report_goes_without_log_and_waveforms(tmp_path, results):
    write_results(tmp_path / "results.json", results)
    make_report(tmp_path)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == [
        "rate_distortion.png"
    ]


def test_report_of_no_experiment_is_exit_code_2(tmp_path, capsys):
    run = exits_cleanly(lambda: report([str(tmp_path / "none")], standalone_mode=False))
    assert run() == 2
    assert "there is no folder" in capsys.readouterr().err
