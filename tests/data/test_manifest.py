import json
import math
from dataclasses import replace

import numpy as np
import pytest

from speechbrain_ext.data.audio import save_audio
from speechbrain_ext.data.manifest import (
    ManifestError,
    Utterance,
    read_manifest,
    split_hash,
    total_seconds,
    verify_manifest,
    write_manifest,
)
from speechbrain_ext.files import sha256_file


@pytest.fixture
def data_folder(tmp_path):
    """Three utterances in a folder with a space and Telugu letters."""
    folder = tmp_path / "my డేటా"
    utterances = []
    for index, name in enumerate(["b", "a", "c.1"]):
        wav = folder / "wav" / f"{name}.wav"
        save_audio(wav, np.full(1600 * (index + 1), 0.1), 16000)
        utterances.append(
            Utterance(name, wav, 0.1 * (index + 1), 16000, "s1", sha256_file(wav))
        )
    write_manifest(folder / "train.json", utterances)
    return folder


def test_what_is_written_is_read(data_folder):
    utterances = verify_manifest(data_folder / "train.json")
    assert list(utterances) == ["a", "b", "c.1"]
    assert utterances["a"].wav == data_folder / "wav" / "a.wav"
    assert utterances["a"].num_samples == 3200
    assert total_seconds(utterances) == pytest.approx(0.6)


def test_the_data_folder_can_be_moved(data_folder):
    moved = data_folder.rename(data_folder.parent / "elsewhere")
    assert len(verify_manifest(moved / "train.json")) == 3


def test_speechbrain_reads_the_manifest(data_folder):
    dataset = pytest.importorskip("speechbrain.dataio.dataset").DynamicItemDataset
    data = dataset.from_json(str(data_folder / "train.json"))
    data.set_output_keys(["id", "duration", "spk_id"])
    assert data[0] == {"id": "a", "duration": 0.2, "spk_id": "s1"}


@pytest.mark.parametrize("keep", [0, 1, 50, -3])
def test_a_truncated_manifest_says_so_and_how_to_make_it(data_folder, keep):
    path = data_folder / "train.json"
    path.write_text(path.read_text()[:keep])
    with pytest.raises(ManifestError, match="truncated") as caught:
        read_manifest(path)
    assert "--stage prepare" in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_command_that_made_the_data_is_named(data_folder):
    command = "python local/prepare.py --corpus espeak"
    (data_folder / "prepare.json").write_text(json.dumps({"command": command}))
    with pytest.raises(ManifestError, match=command):
        read_manifest(data_folder / "valid.json")


@pytest.mark.parametrize("text", ["[]", "{}", "3"])
def test_a_manifest_without_utterances_is_refused(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ManifestError, match="make it again"):
        read_manifest(tmp_path / "train.json")


def test_all_faults_of_all_entries_are_told_together(data_folder):
    path = data_folder / "train.json"
    entries = json.loads(path.read_text())
    entries["a"]["duration"] = -1
    entries["b"]["sample_rate"] = "16k"
    del entries["b"]["sha256"]
    entries["c.1"] = "wav"
    path.write_text(json.dumps(entries))
    with pytest.raises(ManifestError, match="4 problems") as caught:
        read_manifest(path)
    for utt_id in entries:
        assert f"  {utt_id}: " in str(caught.value)


@pytest.mark.parametrize("duration", [math.nan, math.inf, True, 0])
def test_a_duration_is_a_positive_finite_number(data_folder, duration):
    path = data_folder / "train.json"
    entries = json.loads(path.read_text())
    entries["a"]["duration"] = duration
    path.write_text(json.dumps(entries))
    with pytest.raises(ManifestError, match="a: duration"):
        read_manifest(path)


def test_an_utterance_that_appears_twice_is_found(data_folder):
    path = data_folder / "train.json"
    entry = json.dumps(json.loads(path.read_text())["a"])
    path.write_text(f'{{"a": {entry}, "a": {entry}}}')
    with pytest.raises(ManifestError, match="a: appears twice"):
        read_manifest(path)


def test_missing_changed_and_empty_audio_is_found_at_once(data_folder):
    (data_folder / "wav/a.wav").unlink()
    (data_folder / "wav/b.wav").write_bytes(b"")
    save_audio(data_folder / "wav/c.1.wav", np.full(4800, 0.2), 16000)
    with pytest.raises(ManifestError, match="3 problems") as caught:
        verify_manifest(data_folder / "train.json")
    assert "a.wav: missing" in str(caught.value)
    assert "b.wav: empty" in str(caught.value)
    assert "c.1.wav: changed" in str(caught.value)
    with pytest.raises(ManifestError, match="2 problems"):
        verify_manifest(data_folder / "train.json", hashes=False)


def test_the_split_hash_depends_on_content_and_role_only(data_folder):
    train = data_folder / "train.json"
    before = split_hash(train)
    moved = data_folder.rename(data_folder.parent / "elsewhere")
    assert split_hash(moved / "train.json") == before
    (moved / "test.json").write_text((moved / "train.json").read_text())
    assert split_hash(moved / "test.json") != before
    both = split_hash(moved / "train.json", moved / "test.json")
    assert both == split_hash(moved / "test.json", moved / "train.json") != before
    entries = json.loads((moved / "train.json").read_text())
    entries["a"]["sha256"] = "0" * 64
    (moved / "train.json").write_text(json.dumps(entries))
    assert split_hash(moved / "train.json") != before


def test_audio_outside_the_folder_is_written_as_an_absolute_path(tmp_path):
    wav = tmp_path / "corpus" / "a.wav"
    save_audio(wav, np.full(1600, 0.1), 16000)
    utterance = Utterance("a", wav, 0.1, 16000, None, sha256_file(wav))
    write_manifest(tmp_path / "data" / "train.json", [utterance])
    entries = json.loads((tmp_path / "data" / "train.json").read_text())
    assert entries["a"]["wav"] == str(wav)
    assert verify_manifest(tmp_path / "data" / "train.json") == {"a": utterance}


def test_a_source_and_audio_beside_the_manifest_s_folder_survive_a_move(tmp_path):
    wav = tmp_path / "data/wav/a.wav"
    wav.parent.mkdir(parents=True)
    wav.write_bytes(b"x")
    one = Utterance("a", wav, 1.0, 16000, "s", "0" * 64, "klettres")
    path = tmp_path / "data/split1/train.json"
    write_manifest(path, [one], data_folder=tmp_path / "data")
    entry = json.loads(path.read_text())["a"]
    assert (entry["wav"], entry["source"]) == ("../wav/a.wav", "klettres")
    assert read_manifest(path)["a"] == one
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = read_manifest(tmp_path / "moved/split1/train.json")["a"]
    assert moved.wav == tmp_path / "moved/wav/a.wav"
    # Without a source the entry is as it always was.
    write_manifest(path, [replace(one, source=None)])
    entry = json.loads(path.read_text())["a"]
    assert entry["wav"] == str(wav)
    assert list(entry) == ["wav", "duration", "sample_rate", "spk_id", "sha256"]
