"""Score files of other toolkits: what fits one layout is read, and no other."""

import numpy as np
import pytest

from speechbrain_ext.errors import UserError
from speechbrain_ext.scoring.score_files import read_any_scores

ROWS = [(1, "a.x", "b", 0.9), (0, "a.x", "c", -0.25), (1, "c", "d", 0.0)]
WORD = {1: "target", 0: "nontarget"}
LAYOUTS = {
    "label enrol test score": lambda k, a, b, s: (k, a, b, s),
    "label word first": lambda k, a, b, s: (WORD[k], a, b, s),
    "kaldi": lambda k, a, b, s: (a, b, s, WORD[k]),
    "kaldi with digits": lambda k, a, b, s: (a, b, s, k),
    "speechbrain": lambda k, a, b, s: (a, b, k, s),
    "score label": lambda k, a, b, s: (s, k),
    "label score": lambda k, a, b, s: (k, s),
}


def written(path, rows, separator=" ", header=()):
    lines = [separator.join(map(str, row)) for row in ([header] if header else [])]
    lines += [separator.join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n\n")
    return path


def check(found, names=True):
    np.testing.assert_array_equal(found.scores, [row[3] for row in ROWS])
    np.testing.assert_array_equal(found.labels, [row[0] for row in ROWS])
    if names:
        trials = found.trials
        sides = [
            (trials.ids[a], trials.ids[b])
            for a, b in zip(trials.enroll, trials.test, strict=True)
        ]
        assert sides == [row[1:3] for row in ROWS]


@pytest.mark.parametrize("separator", [" ", "\t", ",", "  "])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_trials(tmp_path, layout, separator):
    rows = [LAYOUTS[layout](*row) for row in ROWS]
    path = written(tmp_path / "s.txt", rows, separator)
    check(read_any_scores(path), len(rows[0]) == 4)


@pytest.mark.parametrize(
    "header",
    [
        ("score", "label", "enrol", "test"),
        ("Score", "target", "utterance_1", "utterance_2"),
        ("#score", "key", "modelid", "segmentid"),
    ],
)
@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_a_header_names_columns_in_any_order(tmp_path, header, separator):
    rows = [(s, k, a, b) for k, a, b, s in ROWS]
    check(read_any_scores(written(tmp_path / "s.csv", rows, separator, header)))


@pytest.mark.parametrize("key_form", ["1 a b", "a b target"])
def test_scores_and_labels_of_two_files_are_matched_by_name(tmp_path, key_form):
    keys = [
        (k, a, b) if key_form == "1 a b" else (a, b, WORD[k]) for k, a, b, _ in ROWS
    ]
    scores = [(a, b, s) for _, a, b, s in ROWS[::-1]] + [("x", "y", 7.0)]
    found = read_any_scores(
        written(tmp_path / "s.txt", scores), written(tmp_path / "k.txt", keys)
    )
    check(found)
    assert found.notes == ("1 scores are of no trial in k.txt: left out",)


def test_trials_without_a_score_are_all_named(tmp_path):
    keys = written(tmp_path / "k.txt", [row[:3] for row in ROWS])
    scores = written(tmp_path / "s.txt", [("a.x", "b", 0.5)])
    with pytest.raises(UserError, match="no score of 2 of 3 trials") as caught:
        read_any_scores(scores, keys)
    assert "  a.x c\n  c d" in str(caught.value)
    scores = written(tmp_path / "s.txt", [("A.x", "B", 0.5)])
    with pytest.raises(UserError, match="names them like this: A.x B"):
        read_any_scores(scores, keys)
    twice = written(tmp_path / "s.txt", [("c", "d", 0.5), ("c", "d", 0.6)])
    with pytest.raises(UserError, match="two scores of one trial: c d"):
        read_any_scores(twice, keys)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("0", "1"), ("1", "1")], ["<score> <label> or <label> <score>", "header"]),
        ([("a", "b", "1", "0")], ["<enrol> <test> <label> <score>", "header"]),
        ([("a", "b", "0.5")], ["3 fields", "--trials KEYFILE"]),
        ([("a", "b", "c", "0.5")], ["not line 1: a b c 0.5", "<label> <enrol>"]),
        ([("0.5", "1"), ("0.2", "2")], ["<score> <label>: not line 2: 0.2 2"]),
        ([("0.5", "1"), ("0.2",)], ["must have 2 fields", "line 2: 0.2"]),
        ([("1", "a", "b", "0.5"), ("1", "a", "b")], ["line 2: 1 a b"]),
        ([("foo", "bar"), ("0.5", "1")], ["not line 1: foo bar"]),
        ([("score", "label")], ["no line with a score"]),
    ],
)
def test_what_fits_no_layout_or_several_is_refused_with_what_was_tried(
    tmp_path, rows, said
):
    with pytest.raises(UserError) as caught:
        read_any_scores(written(tmp_path / "s.txt", rows))
    for text in said:
        assert text in str(caught.value)


def test_a_header_settles_what_would_be_ambiguous(tmp_path):
    rows = [("0", "1"), ("1", "1")]
    path = written(tmp_path / "s.txt", rows, header=("label", "score"))
    assert read_any_scores(path).labels.tolist() == [False, True]
