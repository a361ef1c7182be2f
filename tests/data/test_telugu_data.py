"""The data stages of egs/telugu, run as a person would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.corpora.synthesis import read_sentences
from speechbrain_ext.data.manifest import verify_manifest

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "egs" / "telugu" / "local"


def stage(name, *options, cwd=None):
    return subprocess.run(
        [sys.executable, str(LOCAL / f"{name}.py"), *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def clean(result, code):
    """Check the exit code and that no traceback was shown."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr + result.stdout


def test_the_sentences_are_enough_for_the_split_and_telugu():
    sentences = read_sentences(LOCAL / "sentences.txt")
    roles = [role for role, _ in sentences]
    assert len(sentences) == 60
    for role, needed in (("train", 33), ("valid", 3), ("test", 12)):
        assert roles.count(role) >= needed
    for _, text in sentences:
        # Festival and eSpeak read digits and Latin letters in other voices.
        assert all("\u0c00" <= char <= "\u0c7f" or char in " ,.?" for char in text)
        assert 5 <= len(text.split()) <= 11
        assert text[-1] in ".?"


def test_sentences_use_nearly_all_letters_of_telugu():
    text = "".join(text for _, text in read_sentences(LOCAL / "sentences.txt"))
    consonants = "కఖగఘచఛజఝటఠడఢణతథదధనపఫబభమయరలవశషసహళ"
    assert len(set(consonants) - set(text)) <= 4
    assert set("ాిీుూృెేైొోౌ") - set(text) <= {"ౌ"}


@pytest.mark.smoke
def test_espeak_goes_from_nothing_to_manifests_and_stays(tmp_path):
    folder = tmp_path / "my data"
    options = ["--datadir", folder, "--nj", 2]
    assert "espeak is ready" in clean(stage("data", *options, cwd=tmp_path), 0)
    clean(stage("prepare", *options, cwd=tmp_path), 0)
    sizes = {"train": 33, "valid": 3, "test": 12}
    texts = {}
    for role, size in sizes.items():
        utterances = verify_manifest(folder / f"{role}.json")
        assert len(utterances) == size
        assert all(3 < utterance.duration < 8 for utterance in utterances.values())
        assert len({utterance.spk_id for utterance in utterances.values()}) >= 3
        for utt_id in utterances:
            label = json.loads((folder / "raw" / f"{utt_id}.json").read_text())
            texts.setdefault(label["text"], set()).add(role)
    assert len(texts) == 48
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.wav")}
    clean(stage("data", *options), 0)
    clean(stage("prepare", *options), 0)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.wav")} == before


def test_own_recordings_become_manifests_with_the_command_inside(tmp_path):
    recordings = tmp_path / "నా రికార్డింగులు"
    recordings.mkdir()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (20, 4000))
    for index, wav in enumerate(noise):
        soundfile.write(recordings / f"{index}.flac", wav, 8000)
    options = ["--corpus", "folder", "--data_folder", recordings]
    options += ["--datadir", tmp_path / "data"]
    clean(stage("data", *options), 0)
    clean(stage("prepare", *options, "--num_test", 5, "--seed", 3), 0)
    assert len(verify_manifest(tmp_path / "data/test.json")) == 5
    assert len(verify_manifest(tmp_path / "data/valid.json")) == 3
    state = json.loads((tmp_path / "data/prepare.json").read_text())
    assert "--seed 3" in state["command"]
    assert state["seed"] == 3
    assert state["corpus"]["corpus"] == "folder"
    assert state["corpus"]["licence"] == "unknown: yours"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "festvial"], "did you mean 'festival'"),
        (["--corpus", "folder"], "needs --data_folder"),
        (["--corpus", "folder", "--data_folder", "/nowhere/at/all"], "exists is /)"),
        (["--corpus", "openslr66", "--data_folder", "."], "openslr.org/66"),
        (["--corpus", "commonvoice", "--data_folder", "."], "commonvoice.mozilla.org"),
        (["--corpus", "folder", "--data_folder", "."], "no audio found"),
        (["--corp", "espeak"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_exit_code_2_with_a_message(options, message, tmp_path):
    name = "data" if "openslr66" in options or "festvial" in options else "prepare"
    result = stage(name, *options, "--datadir", tmp_path / "data", cwd=tmp_path)
    assert message in clean(result, 2)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_train", "0"], "at least 1"),
        (["--max_rejected", "20"], "lies in [0, 1]"),
        (["--split_by", "mood"], "invalid choice"),
    ],
)
def test_impossible_numbers_are_exit_code_2(options, message, tmp_path):
    result = stage("prepare", *options, "--datadir", tmp_path / "data")
    assert message in clean(result, 2)


def test_a_folder_of_broken_files_is_exit_code_1_with_counts(tmp_path):
    for index in range(6):
        (tmp_path / f"{index}.wav").write_text("not found")
    soundfile.write(tmp_path / "zero.wav", np.zeros(16000), 16000)
    options = ["--corpus", "folder", "--data_folder", tmp_path]
    result = stage("prepare", *options, "--datadir", tmp_path / "out")
    text = clean(result, 1)
    assert "7 of 7 recordings rejected" in text
    assert "6  wrongly labelled" in text
    assert "1  all zero" in text
    assert not (tmp_path / "out/train.json").exists()


def test_preparing_before_the_audio_is_spoken_says_what_to_run(tmp_path):
    text = clean(stage("prepare", "--datadir", tmp_path / "data"), 1)
    assert "run the stage data" in text
