"""A bundle says which speech its author used, and brings nothing else with that."""

import json
from pathlib import Path

import pytest

from speechbrain_ext.sharing.bundle.card import render
from speechbrain_ext.sharing.bundle.data import SETTINGS, data_settings, remember_data
from speechbrain_ext.sharing.bundle.errors import BundleError
from speechbrain_ext.sharing.bundle.manifest import read_manifest
from speechbrain_ext.sharing.bundle.next_steps import next_steps
from speechbrain_ext.sharing.bundle.unpacking import unpack
from tests.sharing.bundles import whole, zipped

ROOT = Path(__file__).resolve().parents[2]


def test_options_of_the_speech_are_taken_and_folders_stay(tmp_path):
    assert data_settings(tmp_path) == {}
    command = "./run.sh --corpus=festival --tag=mine --data_folder=/home/me"
    assert data_settings(tmp_path, command) == {"corpus": "festival"}
    (tmp_path / SETTINGS).parent.mkdir()
    (tmp_path / SETTINGS).write_text(
        "recipe=codec/transform\ncorpus=folder\ndata_folder=recordings\n"
        "datadir=data/mine\nnum_test=12\nmax_rejected=.2\nvad=../x\n"
    )
    found = {"corpus": "folder", "num_test": "12", "max_rejected": "0.2"}
    assert data_settings(tmp_path, command) == found


def test_what_was_taken_is_remembered_where_it_is_unpacked(tmp_path):
    bundle, data = tmp_path / "b.zip", {"corpus": "festival", "num_test": "12"}
    bundle.write_bytes(zipped(whole(data=data)))
    folder = unpack(bundle, tmp_path / "theirs")
    assert (folder / SETTINGS).read_text() == "corpus=festival\nnum_test=12\n"
    assert data_settings(folder) == data
    assert unpack(bundle, tmp_path / "theirs") == folder


@pytest.mark.parametrize(
    "data",
    [
        {"corpus": "../x"},
        {"corpus": "a..b"},
        {"corpus": "a\nrecipe=x.yaml"},
        {"corpus": "-x"},
        {"corpus": ""},
        {"corpus": 3},
        {"Corpus": "x"},
        {"a=b": "x"},
        ["corpus"],
    ],
)
def test_data_that_is_no_word_is_refused(data):
    with pytest.raises(BundleError, match="data"):
        read_manifest(whole(data=data)["manifest.json"])


@pytest.mark.parametrize("kind", ["recipe", "result"])
def test_unpacking_says_what_to_type_next(tmp_path, monkeypatch, kind):
    egs = tmp_path / "egs" / "mine"
    folder = egs / "exp" / "theirs"
    folder.mkdir(parents=True)
    (egs / "run.sh").write_text("")
    manifest = {"kind": kind, "task": "speaker"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    remember_data(folder, {"corpus": "debian", "split_seed": "2"})
    monkeypatch.chdir(egs)
    lines = next_steps(Path("exp/theirs"))
    assert lines[0].startswith("  its speech: --corpus=debian --split_seed=2 ")
    assert lines[1].startswith("  Next: ./run.sh --tag theirs ")
    assert (lines[-1].split()[-2:] == ["--stage", "embed"]) == (kind == "result")
    monkeypatch.chdir(tmp_path)
    assert next_steps(folder)[1] == "  Next: cd egs/mine"
    (egs / "run.sh").unlink()
    elsewhere = "\n".join(next_steps(folder))
    assert f"./run.sh --expdir {folder}" in elsewhere
    assert "egs/voxceleb_mini\n" in elsewhere


def test_the_usage_of_a_card_can_be_pasted():
    results = json.loads((ROOT / "egs/telugu/results/festival.json").read_text())
    text = render(results, "theirs", [], "0" * 64, data={"corpus": "festival"})
    usage = text.partition("## Usage")[2].partition("## Results")[0]
    assert "\nbundle=$PWD/theirs.zip " in usage
    assert "\ncd egs/telugu\n" in usage
    assert "# trains it on the corpus festival, as here" in usage
    assert "\n./run.sh --tag theirs --stage evaluate " in usage
    assert "on your speech" in render(results, "theirs", [], "0" * 64)
