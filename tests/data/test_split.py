import pytest

from speechbrain_ext.data.split import Candidate, find_copies, split_roles
from speechbrain_ext.errors import UserError, WorkError


def candidates(number, speakers=0, role=None):
    return [
        Candidate(f"u{i:04d}", f"s{i % speakers}" if speakers else None, role, str(i))
        for i in range(number)
    ]


def all_of(roles):
    return [utt_id for utt_ids in roles.values() for utt_id in utt_ids]


def test_every_utterance_gets_exactly_one_role_by_default():
    for number in (3, 4, 11, 12, 100, 568):
        roles, how = split_roles(candidates(number), 1, {})
        assert how == "utterance"
        assert sorted(all_of(roles)) == [f"u{i:04d}" for i in range(number)]


@pytest.mark.parametrize(
    ("number", "valid", "test"), [(3, 1, 1), (11, 1, 1), (12, 3, 3), (200, 10, 20)]
)
def test_default_sizes_are_fractions_but_not_too_few(number, valid, test):
    roles, _ = split_roles(candidates(number), 1, {})
    assert (len(roles["valid"]), len(roles["test"])) == (valid, test)


def test_given_sizes_are_met_exactly():
    counts = {"train": 33, "valid": 3, "test": 12}
    roles, _ = split_roles(candidates(60), 1, counts)
    assert {role: len(utt_ids) for role, utt_ids in roles.items()} == counts


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    people = candidates(50)
    first, _ = split_roles(people, 1, {})
    again, _ = split_roles(people[::-1], 1, {})
    other, _ = split_roles(people, 2, {})
    assert {role: set(ids) for role, ids in first.items()} == {
        role: set(ids) for role, ids in again.items()
    }
    assert set(first["test"]) != set(other["test"])


def test_one_more_recording_moves_few_others():
    before, _ = split_roles(candidates(200), 1, {})
    after, _ = split_roles(candidates(201), 1, {})
    assert len(set(before["test"]) - set(after["test"])) <= 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("speakers", [3, 4, 17])
def test_no_speaker_has_two_roles(seed, speakers):
    people = candidates(170, speakers)
    speaker_of = {person.utt_id: person.spk_id for person in people}
    roles, how = split_roles(people, seed, {})
    assert how == "speaker"
    sets = [{speaker_of[utt_id] for utt_id in ids} for ids in roles.values()]
    assert sum(map(len, sets)) == len(set.union(*sets)) == speakers
    if speakers == 17:
        assert 10 <= len(roles["test"]) <= 20


def test_a_huge_speaker_stays_in_train():
    people = [Candidate(f"big{i}", "big", None, f"b{i}") for i in range(900)]
    people += candidates(100, 10)
    for seed in range(10):
        roles, _ = split_roles(people, seed, {})
        assert sum(utt_id.startswith("big") for utt_id in roles["train"]) == 900


def test_with_fewer_than_three_speakers_utterances_are_split():
    assert split_roles(candidates(20, 2), 1, {})[1] == "utterance"
    with pytest.raises(UserError, match="--split_by utterance"):
        split_roles(candidates(20, 2), 1, {}, by="speaker")


def test_published_roles_are_kept_and_cut_in_order():
    people = [
        Candidate(f"{role}{i}", None, role, f"{role}{i}")
        for role in ("train", "valid", "test")
        for i in range(5)
    ]
    roles, how = split_roles(people, 1, {"train": 3, "valid": None, "test": 1})
    assert how == "corpus"
    assert roles["train"] == ["train0", "train1", "train2"]
    assert len(roles["valid"]) == 5
    assert roles["test"] == ["test0"]


def test_asking_for_more_than_there_is_names_the_option():
    with pytest.raises(UserError, match="--num_train 50: only 30 utterances"):
        split_roles(candidates(40), 1, {"train": 50, "valid": 5, "test": 5})


@pytest.mark.parametrize("number", [0, 1, 2])
def test_too_few_recordings_for_three_roles_is_an_error(number):
    with pytest.raises(WorkError, match="no utterance is left"):
        split_roles(candidates(number), 1, {})


def test_of_copies_the_one_in_the_test_set_stays():
    people = [
        Candidate("a", None, "train", "x"),
        Candidate("b", None, "test", "x"),
        Candidate("c", None, "valid", "x"),
        Candidate("d", None, "train", "y"),
    ]
    assert find_copies(people) == {"a": "b", "c": "b"}
