"""Whose names a bundle tells is said to whoever packs it and to whoever looks."""

import json

import pytest

from speechbrain_ext.cli import cli, run
from speechbrain_ext.sharing.bundle.people import people_in
from tests.sharing.bundles import whole, zipped

SPEAKERS = {"speakers": ["ann", "ben"]}
TESTED = {"speakers": {"u1": "carl", "u2": "carl"}, "sources": {"u1": "kitchen"}}
RESULTS = {"errors": {"missed": [{"utt_id": "u2"}]}, "left_out": [{"utt_id": "u9"}]}


def members(**changes):
    found = {
        "speakers.json": SPEAKERS,
        "scores/utterances.json": TESTED,
        "results.json": RESULTS,
    } | changes
    return {name: json.dumps(value).encode() for name, value in found.items()}


def test_names_are_counted_with_their_places():
    assert str(people_in(members())) == (
        "2 training speaker names, 1 test speaker name, 3 utterance ids "
        "(speakers.json, scores/utterances.json, results.json)"
    )


def test_a_codec_names_its_utterances():
    files = {"systems": [{"files": [{"utt_id": "a"}, {"utt_id": "b"}]}]}
    found = people_in({"results.json": json.dumps(files).encode()})
    assert str(found) == "2 utterance ids (results.json)"


@pytest.mark.parametrize("odd", [[], 3, {"speakers": 3}, {"speakers": [1, None]}])
def test_what_is_of_another_shape_is_passed_over(odd):
    found = people_in(members(**{name: odd for name in members()}))
    assert not found
    assert not people_in({"speakers.json": b"\xff{"})


def test_inspect_shows_them(tmp_path, capsys):
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(whole(members())))
    assert run(cli, ["inspect", str(path)], "speechbrain-ext") == 0
    out = capsys.readouterr().out
    assert "people: 2 training speaker names, 1 test" in out
    assert "training speaker names: ann, ben" in out
