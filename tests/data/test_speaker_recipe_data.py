"""The stage data of egs/voxceleb_mini, as run.sh calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path):
    """Call local/data.py from another directory, without any program on the PATH."""

    def call(*arguments):
        command = [sys.executable, ROOT / "egs/voxceleb_mini/local/data.py"]
        done = subprocess.run(
            [*command, "--datadir", tmp_path / "data", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


def test_auto_without_apt_speaks_and_says_why(data, tmp_path):
    code, out, err = data("--num_speakers", 2, "--nj", 1)
    assert (code, out) == (0, "data: espeak is ready\n")
    assert "auto takes espeak" in err
    assert "apt-get is not on this machine" in err
    assert len(list((tmp_path / "data/raw").glob("*.wav"))) == 16


def test_auto_with_a_data_folder_means_that_folder(data, tmp_path):
    code, out, _ = data("--which", "--data_folder", tmp_path)
    assert (code, out) == (0, "folder\n")
    code, _, err = data("--data_folder", tmp_path / "none")
    assert code == 2
    assert "no such folder" in err


def test_an_unknown_corpus_is_a_usage_error(data):
    code, _, err = data("--corpus", "debain")
    assert code == 2
    assert "debian" in err
