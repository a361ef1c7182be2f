"""The stage prepare of egs/voxceleb_mini, run as a person would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.manifest import verify_manifest
from speechbrain_ext.data.speakers import find_leaks

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "egs" / "voxceleb_mini" / "local"


def prepare(*options):
    done = subprocess.run(
        [sys.executable, str(LOCAL / "prepare.py"), *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_folder_of_speakers_becomes_a_split_with_the_command_inside(tmp_path):
    rng = np.random.default_rng(0)
    for speaker in ("అమ్మ", "b c", "d", "e.1", "e.2"):
        folder = tmp_path / "rec" / speaker
        folder.mkdir(parents=True)
        for index in range(8):
            wav = rng.uniform(-0.3, 0.3, 8000 * 3 + 200 * index)
            soundfile.write(folder / f"{index}.flac", wav, 8000)
    soundfile.write(tmp_path / "rec/stray.wav", wav, 8000)
    code, text = prepare(
        *["--corpus=folder", "--data_folder", tmp_path / "rec", "--vad=none", "--nj=1"],
        *["--datadir", tmp_path / "data", "--num_test=2", "--split_seed=3"],
    )
    assert code == 0, text
    assert "1 of 41 recordings rejected" in text
    split = tmp_path / "data/split3"
    test = verify_manifest(split / "test.json")
    train = verify_manifest(split / "train.json")
    assert len({one.spk_id for one in test.values()}) == 2
    assert len({one.spk_id for one in train.values()}) == 3
    assert {one.sample_rate for one in train.values()} == {16000}
    assert find_leaks(split) == []
    assert "--split_seed=3" in json.loads((split / "split.json").read_text())["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_test", "1"], "at least 2"),
        (["--max_rejected", "20"], "lies in [0, 1]"),
        (["--chunk_seconds", "-1"], "lies in [0, 60]"),
        (["--vad", "web"], "invalid choice"),
        (["--subset_seed", "3"], "espeak takes no --subset_seed"),
        (["--max_files_per_speaker", "9"], "espeak takes no --max_files_per_speaker"),
    ],
)
def test_impossible_numbers_are_exit_code_2(options, message, tmp_path):
    code, text = prepare("--corpus=espeak", "--datadir", tmp_path / "data", *options)
    assert code == 2
    assert message in text
    assert not (tmp_path / "data").exists()
