"""Trial lists and score files say what they hold, and name what is wrong in them."""

import numpy as np
import pytest

from speechbrain_ext.errors import UserError
from speechbrain_ext.scoring import trials
from speechbrain_ext.scoring.trials import Trials, read_scores, read_trials


def make(size=50, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.random(size) < 0.3
    labels[:2] = True, False
    enroll, test = generator.integers(0, 9, size=(2, size)).astype(np.int32)
    ids = [f"spéaker.{i // 3}/v1.{i}" for i in range(9)]
    return Trials(labels, enroll, test, ids)


def names(value):
    pairs = zip(value.enroll.tolist(), value.test.tolist(), strict=True)
    return [(value.ids[a], value.ids[b]) for a, b in pairs]


def write(folder, text, encoding="utf-8"):
    path = folder / "trials.txt"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_a_list_is_read_as_it_was_written_whatever_the_block(
    tmp_path, monkeypatch, block
):
    monkeypatch.setattr(trials, "BLOCK_BYTES", block)
    monkeypatch.setattr(trials, "BLOCK_LINES", 7)
    value = make()
    trials.write_trials(tmp_path / "a.txt", value)
    lines = (tmp_path / "a.txt").read_text("utf-8").splitlines()
    assert lines[0] == f"1 {value.ids[value.enroll[0]]} {value.ids[value.test[0]]}"
    back = read_trials(tmp_path / "a.txt", value.ids)
    assert names(back) == names(value)
    np.testing.assert_array_equal(back.labels, value.labels)
    assert back.labels.dtype == bool
    assert back.enroll.dtype == back.test.dtype == np.int32


def test_keys_are_never_cut_at_dots_and_an_exact_name_wins(tmp_path):
    path = write(tmp_path, "1 a.1 a.2.wav\n0 a.1 b.FLAC\n0 a.1.wav a.2\n")
    known = ["a.1", "a.1.wav", "a.2", "a", "b"]
    value = read_trials(path, known)
    assert names(value) == [("a.1", "a.2"), ("a.1", "b"), ("a.1.wav", "a.2")]
    assert value.ids == ["a.1", "a.1.wav", "a.2", "b"]


def test_white_space_of_other_systems_is_read_alike(tmp_path):
    plain = "1 a b\n0 a c\n0 b c\n"
    for text in (
        plain.replace("\n", "\r\n"),
        plain.replace(" ", "\t"),
        "\n  " + plain.replace(" ", "  ") + "\n\n",
        plain.rstrip(),
        "\ufeff" + plain,
    ):
        value = read_trials(write(tmp_path, text))
        assert names(value) == [("a", "b"), ("a", "c"), ("b", "c")], text
        assert value.labels.tolist() == [True, False, False]


def test_faulty_lines_are_named_with_their_numbers_all_together(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "BLOCK_BYTES", 10)
    path = write(tmp_path, "1 a b\n0 a\n\n2 a b\n0 a b\n0 a b c\n")
    with pytest.raises(UserError) as caught:
        read_trials(path)
    assert str(caught.value).splitlines()[1:] == [
        "  line 2: 0 a",
        "  line 4: 2 a b",
        "  line 6: 0 a b c",
    ]
    assert "each line must be <0 or 1> <key> <key>" in str(caught.value)


def test_two_faulty_lines_that_make_up_for_each_other_are_still_found(tmp_path):
    with pytest.raises(UserError, match="line 1: 1 a\n  line 2: b 1 c d"):
        read_trials(write(tmp_path, "1 a\nb 1 c d\n"))
    with pytest.raises(UserError, match="line 1: 1 a\n"):
        read_trials(write(tmp_path, "1 a \n0 b c d\n0 b  c\n"))


def test_many_faults_are_counted(tmp_path):
    with pytest.raises(UserError, match="line 5: x\n  and 4 more"):
        read_trials(write(tmp_path, "x\n" * 9))


def test_unknown_keys_are_counted_and_the_first_ones_named(tmp_path):
    text = "1 a b\n0 a c\n" + "".join(f"0 a u{i}\n0 u{i} a\n" for i in range(7))
    with pytest.raises(UserError, match="7 keys name no .*: u0, u1, u2, u3, u4 and 2"):
        read_trials(write(tmp_path, text), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got 0 targets .1. and 0 non-targets"),
        ("\n\n", "got 0 targets .1. and 0 non-targets"),
        ("1 a b\n", "got 1 targets .1. and 0 non-targets"),
        ("0 a b\n", "got 0 targets .1. and 1 non-targets"),
    ],
)
def test_a_list_of_one_class_or_none_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_trials(write(tmp_path, text))


def test_what_is_no_text_or_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="can't be read as text"):
        read_trials(write(tmp_path, "1 spéaker b\n0 a b\n", "latin-1"))
    with pytest.raises(UserError, match="no such file"):
        read_trials(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["a b", "", "a\n"])
def test_an_id_that_could_not_be_read_again_is_not_written(tmp_path, name):
    value = make()._replace(ids=[name] * 9)
    with pytest.raises(ValueError, match="is empty or holds white space"):
        trials.write_trials(tmp_path / "a.txt", value)
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("suffix", [".npz", ".txt"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_come_back_bit_for_bit_with_their_trials(tmp_path, suffix, dtype):
    value = make()
    scores = np.random.default_rng(1).normal(size=50).astype(dtype)
    scores[:4] = np.nan, np.inf, -np.inf, 1e-30
    path = tmp_path / f"scores{suffix}"
    trials.write_scores(path, value, scores)
    back, read = read_scores(path)
    np.testing.assert_array_equal(read.astype(dtype), scores)
    np.testing.assert_array_equal(back.labels, value.labels)
    assert names(back) == names(value)
    with pytest.raises(ValueError, match="50 trials need as many scores"):
        trials.write_scores(path, value, scores[1:])
    assert read_scores(path)[1].size == 50


def test_a_damaged_score_file_is_told(tmp_path):
    path = tmp_path / "scores.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="not a file of scores"):
        read_scores(path)
    with pytest.raises(UserError, match="no such file"):
        read_scores(tmp_path / "none.npz")
    value = make()
    with open(path, "wb") as out:
        np.savez(out, **value._asdict(), scores=np.zeros(3))
    with pytest.raises(UserError, match="don't fit together"):
        read_scores(path)
    with open(path, "wb") as out:
        np.savez(out, **value._replace(ids=["a"])._asdict(), scores=np.zeros(50))
    with pytest.raises(UserError, match="don't fit together"):
        read_scores(path)
    with pytest.raises(UserError, match="line 1: 1 a b word"):
        read_scores(write(tmp_path, "1 a b word\n"))
