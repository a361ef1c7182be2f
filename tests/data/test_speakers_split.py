"""Promises of the split by speaker, of segments, and of trial lists."""

import hashlib
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.speakers.segments import (
    plan_chunks,
    plan_segments,
    write_piece,
)
from speechbrain_ext.data.speakers.split import Person, split_speakers, split_valid
from speechbrain_ext.data.speakers.trials import (
    keep_same_source,
    pair_all,
    read_official,
)
from speechbrain_ext.errors import UserError, WorkError


def people(number, **facts):
    return [Person(f"s{i:03d}", num_utterances=50, **facts) for i in range(number)]


def utterance(name, seconds, spk_id="s", source="p"):
    return Utterance(name, Path(f"/{name}.wav"), seconds, 16000, spk_id, "0", source)


def utterances(*seconds, **facts):
    return [utterance(f"u{i:03d}", s, **facts) for i, s in enumerate(seconds)]


# --- speakers ---


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("number", [4, 5, 9, 66, 300])
def test_every_speaker_is_on_exactly_one_side_and_each_side_has_two(seed, number):
    sides = split_speakers(people(number), seed)
    assert sorted(sides["train"] + sides["test"]) == [
        f"s{i:03d}" for i in range(number)
    ]
    assert min(map(len, sides.values())) >= 2


@pytest.mark.parametrize(
    ("number", "num_test"), [(4, 2), (9, 3), (66, 22), (200, 22), (1000, 100)]
)
def test_by_default_a_third_is_tested_but_of_many_only_some(number, num_test):
    assert len(split_speakers(people(number), 1)["test"]) == num_test


def test_a_seed_redraws_and_the_order_of_speakers_does_not():
    first = split_speakers(people(60), 1)
    assert split_speakers(people(60)[::-1], 1) == first
    others = [split_speakers(people(60), seed)["test"] for seed in (2, 3)]
    assert len({*map(tuple, others), tuple(first["test"])}) == 3


def test_one_more_speaker_moves_few_others():
    before = set(split_speakers(people(60), 1, num_test=20)["test"])
    after = set(split_speakers(people(61), 1, num_test=20)["test"])
    assert len(before - after) <= 1


def test_who_may_not_be_tested_is_learned_and_who_is_left_out_is_nowhere():
    crowd = people(20) + [
        Person("two_voices", may_test=False, reason="two voices"),
        Person("nobody", left_out=True),
    ]
    for seed in range(20):
        sides = split_speakers(crowd, seed)
        assert "two_voices" in sides["train"]
        assert "nobody" not in sides["train"] + sides["test"]


def test_speakers_of_one_group_stay_together_also_with_one_who_may_not_be_tested():
    crowd = people(12) + [Person("a", group="ab"), Person("b", group="ab")]
    crowd += [Person("c", group="cd"), Person("d", group="cd", may_test=False)]
    seen = set()
    for seed in range(30):
        test = set(split_speakers(crowd, seed)["test"])
        assert len(test & {"a", "b"}) in (0, 2)
        assert not test & {"c", "d"}
        seen |= test
    assert {"a", "b"} <= seen


def test_a_published_split_is_kept():
    crowd = people(5) + [Person(f"t{i}", fixed=("test",)) for i in range(4)]
    for seed in range(5):
        sides = split_speakers(crowd, seed)
        assert sides["test"] == ["t0", "t1", "t2", "t3"]
        assert len(split_speakers(crowd, seed, num_test=3)["test"]) == 3
    mixed = [*crowd, Person("x", fixed=("test", "train"))]
    with pytest.raises(UserError, match="on both sides: x"):
        split_speakers(mixed, 1)


def test_numbers_of_speakers_are_met_exactly_or_refused():
    sides = split_speakers(people(30), 1, num_test=7, num_train=11)
    assert {side: len(names) for side, names in sides.items()} == {
        "train": 11,
        "test": 7,
    }
    crowd = people(10) + [Person("x", may_test=False, reason="one segment")]
    with pytest.raises(UserError, match="only 10 speakers may be tested") as caught:
        split_speakers(crowd, 1, num_test=11)
    assert "  x: one segment" in str(caught.value)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_too_few_speakers_are_an_error(number):
    with pytest.raises(WorkError, match="each side needs 2 at least"):
        split_speakers(people(number), 1)


def test_held_out_utterances_are_a_twentieth_and_one_at_least_of_ten():
    spoken = {
        spk_id: utterances(*[1.0] * number, spk_id=spk_id)
        for spk_id, number in (("few", 9), ("some", 10), ("many", 200))
    }
    train, valid = split_valid(spoken, 1)
    assert Counter(one.spk_id for one in valid) == {"some": 1, "many": 10}
    assert len(train) + len(valid) == 219
    small = {"a": utterances(*[1.0] * 3), "b": utterances(*[1.0] * 2)}
    assert len(split_valid(small, 1)[1]) == 1
    assert split_valid(spoken, 2)[1] != valid


def held_of(sizes):
    spoken = {
        spk_id: utterances(*[1.0] * number, spk_id=spk_id)
        for spk_id, number in sizes.items()
    }
    train, valid = split_valid(spoken, 1)
    assert len(train) + len(valid) == sum(sizes.values())
    return Counter(one.spk_id for one in valid)


@pytest.mark.parametrize(
    ("sizes", "held"),
    [
        # One of each would leave no pair of one speaker, so no error rate.
        ({"a": 12, "b": 10, "c": 6, "d": 5}, {"a": 2, "b": 2, "c": 2}),
        ({"a": 6, "b": 7, "c": 3}, {"a": 2, "b": 2, "c": 1}),
        # Two of one speaker alone leave no pair of two.
        ({"a": 40, "b": 6, "c": 5}, {"a": 2, "b": 2}),
        # Nobody can afford it.
        ({"a": 5, "b": 5}, {"a": 1, "b": 1}),
    ],
)
def test_small_corpora_hold_out_what_an_error_rate_needs(sizes, held):
    assert held_of(sizes) == held


def test_what_is_held_out_of_larger_corpora_is_as_it_always_was():
    spoken = {
        f"s{k:02}": [
            utterance(f"s{k:02}.u{n:03}", 1.0, f"s{k:02}") for n in range(5 + 3 * k)
        ]
        for k in range(12)
    }
    train, valid = split_valid(spoken, 1)
    names = "\n".join(one.utt_id for one in [*train, *valid])
    # Written down before small corpora held out two of each.
    assert hashlib.sha256(names.encode()).hexdigest() == (
        "f5d32407df3c8d2ba48a349dd230063cfa1848535fffb0386cbd3f2060c27c76"
    )


# --- segments ---


@pytest.mark.parametrize("seed", range(5))
def test_each_utterance_is_in_one_segment_at_most_and_all_are_long_enough(seed):
    rng = np.random.default_rng(seed)
    mine = utterances(*rng.uniform(0.1, 4.0, 200))
    segments = plan_segments(mine, 3.0)
    used = [part.utt_id for piece in segments for part in piece.parts]
    assert len(used) == len(set(used))
    for piece in segments:
        assert piece.num_samples == 48000
        assert sum(part.num_samples for part in piece.parts) >= 48000
        assert len(piece.parts) >= 2 or piece.parts[0].duration >= 3
    assert plan_segments(mine[::-1], 3.0) == segments
    assert plan_segments(mine, 3.0, 5) == segments[:5]


def test_segments_are_of_one_source_and_sources_take_turns():
    mine = [utterance(f"a{i}", 1.0, source="a") for i in range(9)]
    mine += [utterance(f"b{i}", 1.0, source="b") for i in range(30)]
    segments = plan_segments(mine, 3.0, 8)
    sources = [{part.source for part in piece.parts} for piece in segments]
    assert sources == [{"a"}, {"b"}, {"a"}, {"b"}, {"a"}, {"b"}, {"b"}, {"b"}]


def test_nothing_to_join_makes_no_segment():
    assert plan_segments([], 3.0) == []
    assert plan_segments(utterances(1.0, 1.5), 3.0) == []


def test_chunks_lose_nothing():
    mine = utterances(*np.random.default_rng(1).uniform(0.2, 5.0, 50))
    chunks = plan_chunks(mine, 3.0)
    used = sorted(part.utt_id for piece in chunks for part in piece.parts)
    assert used == [one.utt_id for one in mine]
    total = sum(piece.num_samples for piece in chunks)
    assert total == sum(one.num_samples for one in mine)
    assert sum(piece.num_samples < 48000 for piece in chunks) <= 1


def test_a_piece_is_its_parts_sample_for_sample(tmp_path):
    rng = np.random.default_rng(0)
    waves = rng.integers(-30000, 30000, (3, 20000)).astype(np.int16)
    for name, wav in zip("abc", waves, strict=True):
        soundfile.write(tmp_path / f"{name}.wav", wav, 16000)
    [piece] = plan_segments([utterance(name, 1.25) for name in "abc"], 3.0)
    made = write_piece(
        piece, tmp_path / "new/x.wav", lambda name: tmp_path / f"{name}.wav"
    )
    wav, rate = soundfile.read(made.wav, dtype="int16")
    order = ["abc".index(part.utt_id) for part in piece.parts]
    assert np.array_equal(wav, waves[order].reshape(-1)[:48000])
    assert (rate, made.duration, made.source, made.spk_id) == (16000, 3.0, "p", "s")


# --- trials ---


def pairs_of(trials):
    return [
        (int(label), trials.ids[a], trials.ids[b])
        for label, a, b in zip(trials.labels, trials.enroll, trials.test, strict=True)
    ]


def test_all_pairs_are_compared_once_and_labelled_by_speaker():
    rng = np.random.default_rng(0)
    ids = [f"k.{i}.wav" for i in range(300)]
    speaker = {name: f"s{rng.integers(12)}" for name in ids}
    names = list(speaker.values())
    assert pairs_of(pair_all(ids, names, names)) == [
        (int(speaker[a] == speaker[b]), a, b) for a, b in combinations(ids, 2)
    ]


def test_members_of_a_group_are_not_compared_with_each_other():
    trials = pair_all("abc", ["x", "y", "z"], ["xy", "xy", "z"])
    assert pairs_of(trials) == [(0, "a", "c"), (0, "b", "c")]


def test_too_many_pairs_are_cut_to_the_exact_number_with_all_targets():
    ids = [f"k{i}" for i in range(900)]
    names = [f"s{i % 100}" for i in range(900)]
    whole = pairs_of(pair_all(ids, names, names))
    cut = pairs_of(pair_all(ids, names, names, limit=50_000))
    assert len(cut) == 50_000
    assert sum(label for label, *_ in cut) == sum(label for label, *_ in whole) == 3600
    assert set(cut) < set(whole)
    again = pairs_of(pair_all(ids[::-1], names[::-1], names[::-1], limit=50_000))
    assert {frozenset(p[1:]) for p in again} == {frozenset(p[1:]) for p in cut}
    few = pairs_of(pair_all(ids, names, names, limit=1000))
    assert [label for label, *_ in few] == [1] * 1000


def test_one_id_or_none_makes_no_trial():
    assert pairs_of(pair_all([], [], [])) == []
    assert pairs_of(pair_all(["a"], ["x"], ["x"])) == []


def test_hard_keeps_all_targets_and_the_non_targets_of_one_source():
    trials = pair_all("abcd", ["x", "x", "y", "z"], ["x", "x", "y", "z"])
    hard = keep_same_source(trials, ["p", "q", "q", None])
    assert pairs_of(hard) == [(1, "a", "b"), (0, "b", "c")]


def test_official_trials_keep_their_order_and_strangers_are_told(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("1 a b\n0 a c\n1 a gone\n0 c b\n")
    known = {"a": "x", "b": "x", "c": "y", "d": "y"}
    trials, missing, dropped = read_official(path, known)
    assert pairs_of(trials) == [(1, "a", "b"), (0, "a", "c"), (0, "c", "b")]
    assert (missing, dropped) == (["gone"], 1)
    with pytest.raises(ValueError, match="2 trials contradict the speakers: 0 a c"):
        read_official(path, known | {"c": "x"})
