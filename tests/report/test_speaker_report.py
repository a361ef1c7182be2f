"""Pictures, several runs side by side, ablations, and scores of other toolkits."""

from contextlib import contextmanager

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from matplotlib.image import imread

from speechbrain_ext.cli import run
from speechbrain_ext.report.speaker import plots
from speechbrain_ext.report.speaker.collection import (
    ablation_row,
    render_ablation,
    render_speaker_collection,
)
from speechbrain_ext.report.speaker.plots import plot_det, plot_histograms
from speechbrain_ext.report.speaker.score_file import score
from speechbrain_ext.scoring.figures import name_errors, source_figures, trial_figures
from speechbrain_ext.scoring.score_files import read_any_scores
from speechbrain_ext.scoring.trials import Trials, write_scores


def results(eer, split_seed, seed):
    """Make what the pages over several runs read of results."""

    def system(name, rate):
        figures = {"eer": rate, "eer_interval": [rate / 2, 2 * rate]}
        return {
            "name": name,
            "label": {"wccn": "WCCN"}.get(name, name),
            "chosen": name == "wccn",
            "lists": {"main": figures, "hard": figures | {"eer": rate + 0.03}},
        }

    return {
        "command": "./run.sh",
        "conditions": {"split_seed": split_seed, "seed": seed, "train_seconds": 300.4},
        "nan_trials": {"policy": "count"},
        "systems": [
            system("channel", 0.12), system("cosine", eer + 0.01), system("wccn", eer),
        ],
    }  # fmt: skip


def many(eers):
    return [results(eer, n // 2, n % 2) for n, eer in enumerate(eers)]


def test_mean_and_spread_are_those_of_the_runs():
    eers = [0.04, 0.05, 0.06, 0.05]
    runs = [(f"run {n}", found) for n, found in enumerate(many(eers))]
    text = render_speaker_collection(runs)
    assert "Runs: 4; splits of the speakers: 2." in text
    # Standard deviation of [4, 5, 6, 5] with three degrees of freedom: sqrt(2 / 3).
    assert "| **chosen backend** | **5.00 ± 0.82** | **4.00, 6.00** |" in text
    assert "| raw cosine | 6.00 ± 0.82 |" in text
    assert "| channel only | 12.00 ± 0.00 |" in text
    assert "| run 2 | 1 | 0 | WCCN | 6.00 [3.0, 12.0] | 9.00 [3.0, 12.0] |" in text
    assert "| 12.00 | 50% |" in text


def test_runs_that_left_trials_out_are_marked():
    found = results(0.04, 1, 1)
    found["nan_trials"]["policy"] = "filter"
    assert "run [1]" in render_speaker_collection([("run", found)])
    with pytest.raises(ValueError, match="no run"):
        render_speaker_collection([])


def test_a_verdict_needs_three_pairs_and_more_than_chance():
    base = [0.05, 0.06, 0.05, 0.06]
    lower = [eer - 0.01 - 0.001 * (n % 2) for n, eer in enumerate(base)]
    rows = [
        ablation_row("as it is", many(base)),
        ablation_row("better", many(lower)),
        ablation_row("chance", many([0.06, 0.05, 0.05, 0.06]), "a | note"),
        ablation_row("one run", many([0.01])),
        ablation_row("other seeds", [results(0.01, 9, 9)]),
    ]  # fmt: skip
    text = render_ablation(rows)
    lines = {line.split("|")[1].strip(" *"): line for line in text.splitlines()[:10]
             if line.count("|") > 5}  # fmt: skip
    assert "| -1.05 ± 0.03 | lower |" in lines["better"]
    assert "| no difference established | a \\| note |" in lines["chance"]
    assert "1 pairs: not established" in lines["one run"]
    assert "no pair of runs" in lines["other seeds"]
    with pytest.raises(ValueError, match="needs rows"):
        render_ablation([])


def test_backends_of_one_split_count_once():
    runs = [results(0.05, split, seed) for split in range(2) for seed in range(9)]
    assert "2 pairs: not established" in render_ablation([ablation_row("all", runs)])
    runs += [results(0.05, 2, 0)]
    text = render_ablation([ablation_row("all", runs)])
    assert "| WCCN | 5.00 ± 0.00 | 8.00 ± 0.00 | -1.00 ± 0.00 | lower |" in text
    assert "| **cosine** | **6.00 ± 0.00** |" in text


def scored(size=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < 0.3
    return rng.standard_normal(size) + 2 * labels, labels


def test_pictures_are_drawn_of_good_and_of_broken_scores(tmp_path):
    scores, labels = scored()
    broken = scores.copy()
    broken[:5] = np.nan, np.inf, -np.inf, np.nan, 0
    perfect = np.where(labels, 1.0, 0.0)
    alone = np.ones(1), np.ones(1, bool)
    curves = {"a": (scores, labels), "b": (broken, labels), "c": (perfect, labels)}
    plot_det({"main": curves, "empty": {"a": alone}}, tmp_path / "a.png", chosen="b")
    panels = {
        "x": (broken, labels, [("at EER", 0.5)]),
        "y": (np.full(9, np.nan), labels[:9], []),
    }
    plot_histograms(panels, tmp_path / "b.png")
    for name in "ab":
        assert imread(tmp_path / f"{name}.png").std() > 0


def axes_drawn(monkeypatch, tmp_path, draw):
    """Run ``draw`` and return the axes of its figure."""
    kept = []

    @contextmanager
    def open_figure(path, width, height):
        kept.append(Figure((width, height)))
        yield kept[-1]

    monkeypatch.setattr(plots, "open_figure", open_figure)
    draw(tmp_path / "x.png")
    return kept[0].axes


def test_without_an_error_the_dot_is_in_the_corner(monkeypatch, tmp_path):
    labels = np.array([1, 1, 1, 0, 0, 0], bool)
    curves = {"all": {"a": (labels + 0.0, labels)}}
    (axes,) = axes_drawn(monkeypatch, tmp_path, lambda p: plot_det(curves, p))
    dot = next(line for line in axes.lines if line.get_marker() == "o")
    assert dot.get_xdata()[0] == axes.get_xlim()[0]
    assert dot.get_ydata()[0] == axes.get_ylim()[0]


def test_constant_scores_have_an_axis_that_can_be_read(monkeypatch, tmp_path):
    labels = np.array([1, 0, 0, 0], bool)
    panels = {"x": (np.full(4, 0.3), labels, [])}
    (axes,) = axes_drawn(monkeypatch, tmp_path, lambda p: plot_histograms(panels, p))
    low, high = axes.get_xlim()
    assert high - low > 0.9
    assert "share" in axes.get_ylabel()
    assert max(bar.get_height() for bar in axes.patches) == 1


def test_an_error_rate_that_is_never_finite_has_no_panel(monkeypatch, tmp_path):
    rows = [{"epoch": 1, "train loss": 1.0, "valid eer": np.nan}]
    monkeypatch.setattr(
        plots, "draw_curves", lambda panels, *_: titles.extend(p.title for p in panels)
    )
    titles = []
    plots.plot_training(rows, tmp_path / "x.png")
    assert titles == ["loss"]


def test_one_speaker_of_a_source_and_one_kind_of_trial_are_no_figures():
    trials = Trials(
        np.array([1, 0, 0], bool), np.array([0, 0, 1]), np.array([1, 2, 2]), list("abc")
    )
    scores = np.array([0.9, 0.1, 0.2], np.float32)
    found = source_figures(trials, scores, {"a": "x", "b": "x", "c": None})
    assert found["x"]["eer"] == 0
    assert found["x"]["eer_same_source"] is None
    assert found[""]["num_targets"] == 0
    only = trial_figures(scores[:1], trials.labels[:1])
    assert only["eer"] is None
    assert "no non-target" in only["not_measured"]["eer"]
    assert trial_figures(scores[:0], trials.labels[:0])["num_targets"] == 0


def test_errors_are_counted_by_pair_and_speaker_and_nan_is_one():
    trials = Trials(
        np.array([1, 1, 0, 0], bool),
        np.array([0, 2, 0, 1]),
        np.array([1, 3, 2, 3]),
        ["ann1", "ann2", "bob1", "bob2"],
    )
    speakers = {name: name[:3] for name in trials.ids}
    found = name_errors(trials, np.array([0.9, np.nan, 0.8, np.nan]), speakers, 0.5)
    assert found["pairs"] == [
        {
            "speakers": ["ann", "bob"],
            "num_trials": 2,
            "accepted": 1.0,
            "mean_score": 0.8,
        }
    ]
    rows = {row["speaker"]: row for row in found["speakers"]}
    assert (rows["ann"]["missed"], rows["bob"]["missed"]) == (0, 1)
    assert found["worst_targets"][0]["enroll"] == "bob1"
    assert found["worst_nontargets"][0] == {
        "enroll": "ann2", "test": "bob2", "speakers": ["ann", "bob"], "score": None,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["npz", "txt", "bare"])
def test_a_score_file_of_any_toolkit_gives_the_same_figures(tmp_path, kind):
    scores, labels = scored()
    path = tmp_path / f"scores.{'npz' if kind == 'npz' else 'txt'}"
    names = [f"u.{n}" for n in range(len(scores))]
    index = np.arange(len(scores), dtype=np.int32)
    if kind == "bare":
        rows = zip(scores, labels, strict=True)
        path.write_text("".join(f"{s!s} {int(k)}\n" for s, k in rows))
    else:
        write_scores(path, Trials(labels, index, index[::-1].copy(), names), scores)
    found, kinds, *_ = read_any_scores(path)
    np.testing.assert_array_equal(found, scores)
    np.testing.assert_array_equal(kinds, labels)
    plots = tmp_path / "plots"
    asked = [str(path), *(["--plots", str(plots)] if kind == "bare" else [])]
    done = CliRunner().invoke(score, asked)
    assert done.exit_code == 0, done.output
    assert f"{100 * trial_figures(scores, labels)['eer']:.2f}" in done.output
    assert plots.exists() == (kind == "bare")


def test_a_score_file_with_nan_ends_with_1_and_names_it(tmp_path, capsys):
    path = tmp_path / "scores.txt"
    path.write_text("1 a b 0.9\n1 a c nan\n0 a d 0.1\n0 a e 0.2\n")
    assert run(score, [str(path)], "score") == 1
    shown = capsys.readouterr()
    assert "1 trials have no score" in shown.err
    assert "a c" in shown.err
    assert "50.00" in shown.out  # the target without score is missed
    assert run(score, [str(path), "--nan_trials=raise"], "score") == 1
    assert run(score, [str(path), "--max_nan_trials=1"], "score") == 0
    capsys.readouterr()
    assert (
        run(score, [str(path), "--nan_trials=filter", "--max_nan_trials=1"], "s") == 0
    )
    shown = capsys.readouterr().out
    assert shown.count("filtered: 1 of 4 trials left out, as many toolkits do") == 1
    assert "[1] filtered" in shown
    assert run(score, [str(path), "--nan_trials=filter"], "score") == 1
    assert "--nan_trials=filter --max_nan_trials=1" in capsys.readouterr().err


def test_footnotes_are_referenced_and_the_heading_is_one_line(tmp_path, capsys):
    path = tmp_path / "a_long_name_of_a_file_of_scores.txt"
    path.write_text("0.5 1\n0.1 0\n")
    assert run(score, [str(path)], "score") == 0
    shown = capsys.readouterr().out
    assert f"{path.name}: 1 targets, 1 others\n" in shown
    notes = [line for line in shown.splitlines() if line.startswith("[")]
    assert [note[:4] for note in notes] == ["[1] "]
    assert any("[1]" in line and "Cllr" in line for line in shown.splitlines())


def test_scores_with_the_wrong_sign_and_infinite_ones_are_told(tmp_path, capsys):
    path = tmp_path / "scores.txt"
    path.write_text("0.1 1\n-inf 1\n0.8 0\ninf 0\n0.9 0\n")
    assert run(score, [str(path)], "score") == 0
    shown = capsys.readouterr()
    assert "Are these distances? --negate" in shown.err
    assert "1 scores are +Inf and 1 -Inf" in shown.err
    assert run(score, [str(path), "--negate"], "score") == 0
    shown = capsys.readouterr()
    assert "distances" not in shown.err
    assert "0.00" in shown.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no line with a score"),
        ("0.5 1\n0.2 2\nx 0\n", "line 2: 0.2 2"),
        ("1 a b\n", "--trials KEYFILE"),
        ("0.5 1\n", "no non-target"),
    ],
)
def test_a_score_file_of_another_form_is_a_message(tmp_path, capsys, text, message):
    path = tmp_path / "scores.txt"
    path.write_text(text)
    assert run(score, [str(path)], "score") == 2
    assert message in capsys.readouterr().err
    assert run(score, [str(tmp_path / "none.txt")], "score") == 2


def test_a_score_file_that_stops_being_text_is_a_message(tmp_path, capsys):
    path = tmp_path / "scores.txt"
    path.write_bytes(b"0.5 1\n0.1 0\n" * 20_000 + b"\xff\xfe 1\n")
    assert run(score, [str(path)], "score") == 2
    assert "can't be read as text" in capsys.readouterr().err


def test_what_cllr_needs_is_told_as_this_command_takes_it(tmp_path, capsys):
    path = tmp_path / "scores.txt"
    path.write_text("0.5 1\n0.1 0\n")
    assert run(score, [str(path)], "score") == 0
    told = capsys.readouterr().out
    assert "--ratios" in told
    assert "--calibrate" not in told
    assert run(score, [str(path), "--ratios"], "score") == 0
    assert "--ratios" not in capsys.readouterr().out


def test_a_threshold_in_a_picture_has_the_rate_that_was_asked_for(
    tmp_path, monkeypatch
):
    seen = {}
    monkeypatch.setattr(plots, "plot_histograms", lambda panels, _: seen.update(panels))
    path = tmp_path / "scores.txt"
    path.write_text("0.9 1\n0.4 1\n0.5 0\n0.1 0\n")
    options = [str(path), f"--plots={tmp_path}", "--far=0.5", "--far=0.0005"]
    assert run(score, options, "score") == 0
    (panel,) = seen.values()
    assert panel[2] == [("at EER", 0.5), ("FAR 50 %", 0.4), ("FAR 0.05 %", 0.9)]
