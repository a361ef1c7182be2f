"""Scores of embeddings: what is chosen, counted, named, refused; nothing improves."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_curve

from speechbrain_ext.data.manifest import read_manifest, write_manifest
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.report.collection import render_collection
from speechbrain_ext.report.command import make_report
from speechbrain_ext.report.page import render_markdown
from speechbrain_ext.report.results import ResultsError, read_results
from speechbrain_ext.report.speaker.results import chosen_system, digest_of
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from speechbrain_ext.scoring.trials import read_scores
from speechbrain_ext.tasks.speaker.score import score
from tests.tasks.speaker_split import make_split

DRAWS = 10


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    exp, data = make_split(tmp_path_factory.mktemp("clean"))
    return exp, data, score(exp, data, draws=DRAWS)


def broken(tmp_path, row=3, value=np.nan, **kwargs):
    """Make a split with one embedding that is not finite."""
    exp, data = make_split(tmp_path, **kwargs)
    path = exp / "embeddings" / "test.npz"
    one = EmbeddingSet.load(path)
    one.vectors[row, 5] = value
    one.save(path)
    return exp, data, one.ids[row]


def eers(results, trials="main"):
    return {s["name"]: s["lists"][trials]["eer"] for s in results["systems"]}


def test_eer_is_where_the_roc_curve_of_scikit_learn_crosses(clean):
    exp, _, results = clean
    for system in results["systems"]:
        trials, scores = read_scores(exp / "scores" / f"{system['name']}_main.npz")
        far, tpr, _ = roc_curve(trials.labels, scores, drop_intermediate=False)
        share = np.linspace(0, 1, 200_001)
        crossing = share[np.argmin(abs(1 - np.interp(share, far, tpr) - share))]
        assert system["lists"]["main"]["eer"] == pytest.approx(crossing, abs=1e-5)


def test_raw_cosine_and_channel_stand_beside_the_chosen_one(clean):
    exp, _, results = clean
    names = [system["name"] for system in results["systems"]]
    assert names[:2] == ["channel", "cosine"]
    assert [s["chosen"] for s in results["systems"]].count(True) == 1
    assert read_results(exp / "results.json") == results
    figures = chosen_system(results)["lists"]["main"]
    low, high = figures["eer_interval"]
    assert 0 <= low <= high <= 1
    assert set(figures["per_source"]) == {"cells", "halls"}
    assert results["conditions"]["split_seed"] == 3
    assert results["conditions"]["num_test_speakers"] == 6
    assert results["conditions"]["num_train_speakers"] == 12
    assert "come from one source" in results["conditions"]["caveat"]


def test_the_choice_does_not_see_the_test_speakers(clean, tmp_path):
    exp, data = make_split(tmp_path)
    path = exp / "embeddings" / "test.npz"
    test = EmbeddingSet.load(path)
    noise = np.random.default_rng(1).standard_normal(test.vectors.shape)
    EmbeddingSet(test.ids, noise, test.seconds, test.checkpoint).save(path)
    found = score(exp, data, draws=1)["backend"]
    assert found == clean[2]["backend"]


def test_the_usual_backend_has_settings_of_the_folds_and_folds_choose_the_kind(
    clean, tmp_path
):
    usual = clean[2]["backend"]
    assert usual["chosen"] == "wccn+as_norm"
    rows = {row["name"]: row for row in usual["folds"] if row["error"] is None}
    (marked,) = [row for row in rows.values() if row["chosen"]]
    kin = [row["mean"] for row in rows.values() if row["kind"] == "wccn+as_norm"]
    assert marked["kind"] == "wccn+as_norm"
    assert marked["mean"] == min(kin)
    exp, data = make_split(tmp_path)
    free = score(exp, data, backend="folds", draws=1)["backend"]
    (marked,) = [row for row in free["folds"] if row["chosen"]]
    assert free["chosen"] == marked["kind"]
    assert marked["mean"] == min(row["mean"] for row in rows.values())


def test_what_a_user_asks_for_is_marked_and_said(clean, tmp_path):
    exp, data = make_split(tmp_path)
    results = score(exp, data, backend="as_norm", draws=1)
    assert chosen_system(results)["name"] == "as_norm"
    assert eers(results) == eers(clean[2])
    assert "--backend as_norm" in render_markdown(results)


def test_train_speakers_without_a_segment_are_counted_all_the_same(tmp_path):
    exp, data = make_split(tmp_path)
    known = json.loads((exp / "speakers.json").read_text())
    known["speakers"].append("train99")  # said too little for the cohort
    (exp / "speakers.json").write_text(json.dumps(known))
    conditions = score(exp, data, draws=1)["conditions"]
    assert conditions["num_train_speakers"] == 13


def with_sources(data, source_of):
    path = data / "test.json"
    utterances = read_manifest(path).values()
    write_manifest(
        path,
        [dataclasses.replace(u, source=source_of(u)) for u in utterances],
    )


@pytest.mark.parametrize(
    ("source_of", "said"),
    [
        # One of six was recorded twice: the others' channel is still given away.
        (
            lambda u: u.utt_id[-1] if u.spk_id == "test00" else "room",
            "come from one source",
        ),
        (lambda u: u.utt_id[-1], None),
        (lambda u: None, "nothing is known about the sessions"),
        (lambda u: "room" if u.spk_id == "test00" else None, "nothing is known"),
    ],
)
def test_a_shared_channel_is_warned_of_where_most_speakers_may_have_one(
    tmp_path, source_of, said
):
    exp, data = make_split(tmp_path)
    with_sources(data, source_of)
    caveat = score(exp, data, draws=1)["conditions"]["caveat"]
    assert caveat is None if said is None else said in caveat


def test_calibrated_scores_are_ratios_and_rank_as_before(clean, tmp_path):
    exp, data = make_split(tmp_path)
    results = score(exp, data, calibrate=True, draws=1)
    for name, eer in eers(clean[2]).items():
        assert eers(results)[name] == pytest.approx(eer, abs=1e-9)
    figures = chosen_system(results)["lists"]["main"]
    assert figures["min_cllr"] <= figures["cllr"] < 1
    assert chosen_system(clean[2])["lists"]["main"]["cllr"] is None


def respoken(exp, role, vectors):
    """Write other vectors for the utterances of a role."""
    path = exp / "embeddings" / f"{role}.npz"
    one = EmbeddingSet.load(path)
    EmbeddingSet(one.ids, vectors(one), one.seconds, one.checkpoint).save(path)


def test_what_can_not_be_calibrated_is_a_message(tmp_path):
    few, data = make_split(tmp_path / "few", train=3)
    with pytest.raises(UserError, match="cosine can't be calibrated: .* need four"):
        score(few, data, calibrate=True)
    # A network that says the same of everybody.
    flat, data = make_split(tmp_path / "flat")
    respoken(flat, "cohort", lambda one: np.ones_like(one.vectors))
    with pytest.raises(UserError, match="nothing to learn\n.*without --calibrate"):
        score(flat, data, calibrate=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_nan_is_an_error_named_and_ends_with_1(clean, tmp_path, value):
    exp, data, utt_id = broken(tmp_path, value=value)
    with pytest.raises(WorkError, match=rf"35 trials.*\n.*{utt_id}.*embedding: 1 of"):
        score(exp, data, draws=1)
    results = read_results(exp / "results.json")  # everything was written all the same
    assert results["nan_trials"]["named"][0]["trials"] == {"hard": 17, "main": 35}
    assert results["nan_trials"]["named"][0]["file"].endswith(f"{utt_id}.wav")
    before, after = eers(clean[2]), eers(results)
    assert after["channel"] == before["channel"]
    for name in before.keys() - {"channel"}:
        assert after[name] > before[name]
        counted = next(s for s in results["systems"] if s["name"] == name)
        assert counted["lists"]["main"]["nan_trials"] == 35
    assert "35 of 630 trials have no score and count as errors" in render_markdown(
        results
    )
    assert score(exp, data, draws=1, max_nan_trials=35)["systems"] == results["systems"]


def test_filtering_is_marked_in_every_table(tmp_path):
    exp, data, _ = broken(tmp_path)
    results = score(exp, data, draws=1, nan_trials="filter", max_nan_trials=35)
    note = "filtered: 35 of 630 trials left out, as many toolkits do"
    chapters = render_markdown(results).split("\n## ")
    marked = [chapter.splitlines()[0] for chapter in chapters if note in chapter]
    for title in ("Equal error", "Detection costs", "Thresholds", "EER by source"):
        assert any(heading.startswith(title) for heading in marked), title
    assert any("most often confused" in heading for heading in marked)


def test_a_zero_embedding_is_named_once_and_not_each_of_its_trials(tmp_path):
    exp, data = make_split(tmp_path)
    respoken(exp, "test", lambda one: one.vectors * (np.arange(len(one)) > 0)[:, None])
    with pytest.raises(WorkError, match=r"35 trials.*\n.*test00\.0 .*: all .* are 0"):
        score(exp, data, draws=1)
    (named,) = read_results(exp / "results.json")["nan_trials"]["named"]
    assert named["utt_id"] == "test00.0"
    assert named["trials"] == {"hard": 17, "main": 35}


def test_the_number_of_trials_without_score_is_that_of_all_utterances(tmp_path):
    exp, data = make_split(tmp_path)
    respoken(exp, "test", lambda one: np.full_like(one.vectors, np.nan))
    for nan_trials in ("raise", "count"):
        with pytest.raises(WorkError, match="score: 630 trials of a list have no"):
            score(exp, data, nan_trials=nan_trials, draws=1)


def test_nan_can_be_refused_with_nothing_written(tmp_path):
    exp, data, utt_id = broken(tmp_path)
    with pytest.raises(WorkError, match=utt_id):
        score(exp, data, nan_trials="raise")
    assert not (exp / "results.json").exists()
    assert not (exp / "scores").exists()


def test_a_broken_cohort_embedding_is_left_out_and_named(clean, tmp_path):
    exp, data = make_split(tmp_path)
    path = exp / "embeddings" / "cohort.npz"
    cohort = EmbeddingSet.load(path)
    cohort.vectors[0] = np.nan
    cohort.save(path)
    results = score(exp, data, draws=1)
    assert results["nan_trials"]["cohort"] == [cohort.ids[0]]
    assert f"{cohort.ids[0]}" in render_markdown(results)
    assert eers(results)["cosine"] == eers(clean[2])["cosine"]


def test_wrong_labels_show_as_confused_speakers(tmp_path):
    exp, data = make_split(tmp_path, noise=0.4)
    path = exp / "embeddings" / "test.npz"
    test = EmbeddingSet.load(path)
    # What is called test03 is spoken by test01.
    ours, theirs = ([f"test0{n}.{i}" for i in range(6)] for n in (3, 1))
    noise = 0.05 * np.random.default_rng(0).standard_normal((6, test.dim))
    test.vectors[test.row_numbers(ours)] = test.rows(theirs) + noise
    test.save(path)
    errors = score(exp, data, draws=1)["errors"]
    assert errors["pairs"][0]["speakers"] == ["test01", "test03"]
    assert errors["pairs"][0]["accepted"] > 0.9
    nearest = {row["speaker"]: row["nearest"] for row in errors["speakers"]}
    assert (nearest["test01"], nearest["test03"]) == ("test03", "test01")
    assert set(errors["worst_nontargets"][0]["speakers"]) == {"test01", "test03"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda exp, data: (exp / "hyperparams.yaml").unlink(), "no experiment"),
        (lambda exp, data: (data / "test.json").unlink(), "no such file"),
        (lambda exp, data: [p.unlink() for p in data.glob("*/*.txt")], "no trial"),
        (lambda exp, data: (exp / "embeddings/test.npz").unlink(), "--stage embed"),
        (
            lambda exp, data: (exp / "speakers.json").write_text(
                json.dumps({"speakers": ["test02"]})
            ),
            "1 test speakers were trained on: test02",
        ),
        (
            lambda exp, data: (data / "trials/main.txt").write_text(
                "1 test00.0 test01.1\n0 test00.1 test01.1\n"
            ),
            "1 labels contradict the speakers",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_or_does_not_fit_is_a_message(tmp_path, spoil, message):
    exp, data = make_split(tmp_path)
    spoil(exp, data)
    with pytest.raises(UserError, match=message):
        score(exp, data, draws=1)
    assert not (exp / "results.json").exists()


def test_few_speakers_leave_the_raw_cosine_and_the_page_says_why(tmp_path):
    exp, data = make_split(tmp_path, train=2, test=2)
    results = score(exp, data, draws=1)
    assert [s["name"] for s in results["systems"]] == ["channel", "cosine"]
    assert results["systems"][1]["chosen"]
    assert "WCCN + AS-norm, the usual one, can't be learned" in render_markdown(results)
    with pytest.raises(UserError, match="--backend=wccn can't be learned"):
        score(exp, data, backend="wccn")


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r["systems"][1]["lists"]["main"].update(eer=0.01),
        lambda r: r["systems"][2]["lists"]["hard"]["thresholds"][0].update(frr=0.0),
        lambda r: r["systems"][1]["lists"]["main"]["per_source"]["cells"].update(eer=0),
        lambda r: r["errors"]["pairs"][0].update(accepted=0.0),
        lambda r: r["systems"].pop(0),
        lambda r: r["systems"][1]["lists"]["main"].update(nan_trials=-1),
        lambda r: r["systems"][1]["lists"]["main"].update(min_cllr=None),
    ],
)
def test_an_edited_figure_is_found_from_the_scores(clean, tmp_path, edit):
    exp, _, results = clean
    edited = json.loads(json.dumps(results))
    edit(edited)
    edited["digest"] = digest_of(edited)  # whoever edits may know of it
    (tmp_path / "scores").symlink_to(exp / "scores")
    (tmp_path / "results.json").write_text(json.dumps(edited))
    with pytest.raises(ResultsError, match="--stage score --force"):
        read_results(tmp_path / "results.json")


def test_a_copy_without_scores_has_its_digest(clean, tmp_path):
    results = json.loads(json.dumps(clean[2]))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert read_results(path) == results
    results["systems"][1]["lists"]["main"]["eer_interval"][0] = 0.0
    path.write_text(json.dumps(results))
    with pytest.raises(ResultsError, match="edited"):
        read_results(path)


def test_kept_results_make_one_page_of_all_runs(clean, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(clean[2]))
    text = render_collection(tmp_path)
    assert "Runs: 2; splits of the speakers: 1." in text
    assert f"{100 * eers(clean[2])['cosine']:.2f} ± 0.00" in text


@pytest.mark.parametrize(
    ("cost", "least", "said"),
    [
        (1.3, 1.2, "mislead more than no ratio"),
        (0.4, 0.1, "0.100 would be possible"),
        (0.15, 0.1, None),
        (None, 0.1, None),
    ],
)
def test_poor_calibration_is_told(clean, cost, least, said):
    results = copy.deepcopy(clean[2])
    chosen_system(results)["lists"]["main"].update(cllr=cost, min_cllr=least)
    text = render_markdown(results)
    assert ("Calibration is poor" in text) == (said is not None)
    assert said is None or said in text


def test_with_few_test_speakers_intervals_are_not_measured_and_the_page_says_why(
    tmp_path,
):
    results = score(*make_split(tmp_path, test=3), draws=9)
    for system in results["systems"]:
        assert system["lists"]["main"]["eer_interval"] is None
    text = render_markdown(results)
    assert "[--] [1]" in text
    assert "[1] Interval not measured: 3 test speakers; 6 are needed." in text
    assert "Brackets" not in text


def test_report_shows_every_system_with_its_interval(clean):
    exp, _, results = clean
    (exp / "train_log.txt").write_text(
        "epoch: 1 - train loss: 5.5, train accuracy: 0.1 - valid eer: 2.0e-01\n"
    )
    make_report(exp)
    names = {"DET.png", "score_histograms.png", "training.png"}
    assert {path.name for path in (exp / "plots").iterdir()} == names
    text = (exp / "RESULTS.md").read_text()
    assert text == render_markdown(results)
    summary = (exp / "summary.txt").read_text().splitlines()
    assert len(summary) <= 16
    assert summary[-1] == f"All tables: {exp / 'RESULTS.md'}"
    assert summary[0].startswith("EER on the main list: ")
    page = (exp / "report.html").read_text()
    for system in results["systems"]:
        figures = system["lists"]["main"]
        low, high = (f"{100 * end:.1f}" for end in figures["eer_interval"])
        cell = f"{100 * figures['eer']:.2f} [{low}, {high}]"
        assert cell in text
        assert cell in page
    assert "Caveat: the recordings of a test speaker come from one source" in page
    assert f"<title>Speaker verification: {exp.name}</title>" in page
    assert page.count("data:image/png;base64,") == 3


def test_the_script_ends_with_1_for_a_nan(tmp_path):
    import runpy
    from pathlib import Path

    exp, data, utt_id = broken(tmp_path)
    script = Path(__file__).resolve().parents[2] / "recipes" / "speaker" / "score.py"
    command = runpy.run_path(str(script))["command"]
    done = CliRunner().invoke(command, [str(exp), f"--data={data}"])
    assert isinstance(done.exception, WorkError)
    assert done.exception.exit_code == 1
    assert utt_id in str(done.exception)
