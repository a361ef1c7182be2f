"""A wave codec's experiment, learned in seconds, and recordings to code."""

import shutil

import numpy as np
import pytest
import soundfile

from speechbrain_ext.cli import cli, run
from tests.codec.signals import speech
from tests.sharing import toy_experiments


@pytest.fixture(scope="session")
def wave_exp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wave") / "exp"
    return toy_experiments.codec_experiment(folder, toy_experiments.WAVE)


@pytest.fixture(scope="session")
def other_exp(wave_exp, tmp_path_factory):
    """The same weights with other settings: another model."""
    folder = shutil.copytree(wave_exp, tmp_path_factory.mktemp("other") / "exp")
    text = (folder / "hyperparams.yaml").read_text()
    text = text.replace("gamma: 0.6", "gamma: 0.5").replace(str(wave_exp), str(folder))
    (folder / "hyperparams.yaml").write_text(text)
    return folder


@pytest.fixture
def call(capsys):
    """Run a command; returns exit code, standard output, standard error."""

    def called(*words):
        code = run(cli, [str(word) for word in words], "speechbrain-ext")
        return code, *capsys.readouterr()

    return called


def record(path, seconds=0.4, rate=16000, channels=1, seed=0, **told):
    """Write a recording that is not silent."""
    long = seconds * rate / 16000 + 1e-3
    wave = np.stack([speech(long, seed + n) for n in range(channels)], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave[: round(seconds * rate)], rate, **told)
    return path
