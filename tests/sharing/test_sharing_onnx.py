"""The ONNX file computes what torch does, from what its JSON says; or there is none."""

import json
import shutil
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ResNet import ResNet
from torch import nn

from speechbrain_ext.cli import cli, run
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.models.speaker import SpeakerEncoder
from speechbrain_ext.sharing import onnx as sharing
from speechbrain_ext.sharing.fbank_graph import describe_features
from speechbrain_ext.tasks.speaker.weights import load_encoder
from tests.tasks import toy_speakers


@pytest.fixture(scope="module", autouse=True)
def _each_encoder_is_loaded_once():
    with toy_speakers.loaded_once(sharing):
        yield


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return toy_speakers.experiment(tmp_path_factory.mktemp("exp"))


@pytest.fixture(scope="module")
def encoder(exp):
    return load_encoder(exp, "cpu")[0]


@pytest.fixture(scope="module")
def exported(exp):
    """Return source -> what `export_onnx` returned."""
    return {source: sharing.export_onnx(exp, source=source) for source in SOURCES}


SOURCES = ("features", "waveform")
BATCHES = [(1, 0.1), (1, 1.0), (2, 0.7), (5, 0.25), (3, 3.0)]


def waves(batch, seconds):
    return np.stack([toy_speakers.noise(n, seconds) for n in range(batch)])


def expected(encoder, wavs):
    with torch.no_grad():
        return encoder(torch.from_numpy(wavs)).numpy()


def onnx_session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def log_mels(wavs, settings):
    """Compute log-mels in NumPy from what the JSON says, and nothing else."""
    n_fft, win, hop = (settings[k] for k in ("n_fft", "win_samples", "hop_samples"))
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(win) / win)
    before = (n_fft - win) // 2
    window = np.pad(window, (before, n_fft - win - before))
    padded = np.pad(wavs.astype(float), ((0, 0), (n_fft // 2, n_fft // 2)))
    frames = [
        padded[:, start : start + n_fft] * window
        for start in range(0, wavs.shape[1] + 1, hop)
    ]
    power = np.abs(np.fft.rfft(np.stack(frames, 1))) ** 2
    low, high = (2595 * np.log10(1 + settings[k] / 700) for k in ("fmin_hz", "fmax_hz"))
    points = 700 * (10 ** (np.linspace(low, high, settings["num_mels"] + 2) / 2595) - 1)
    hz = np.linspace(0, settings["sample_rate"] / 2, n_fft // 2 + 1)
    width = points[1:-1] - points[:-2]
    filters = np.maximum(0, 1 - np.abs(hz[:, None] - points[1:-1]) / width)
    mels = 10 * np.log10(np.maximum(power @ filters, settings["log_floor"]))
    loudest = mels.max(axis=(1, 2), keepdims=True)
    mels = np.maximum(mels, loudest - settings["top_db"])
    if settings["mean_norm"]:
        mels -= mels.mean(axis=1, keepdims=True)
    return mels.astype(np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize(("batch", "seconds"), BATCHES)
def test_features_give_torchs_embedding_at_any_batch_and_length(
    exported, encoder, batch, seconds
):
    wavs = waves(batch, seconds)
    with torch.no_grad():
        features = encoder.compute_features(torch.from_numpy(wavs)).numpy()
    (found,) = onnx_session(exported["features"].model).run(
        ["embedding"], {"features": features}
    )
    assert np.abs(found - expected(encoder, wavs)).max() <= 1e-5


@pytest.mark.parametrize(("batch", "seconds"), BATCHES)
def test_a_waveform_gives_torchs_embedding(exported, encoder, batch, seconds):
    wavs = waves(batch, seconds)
    (found,) = onnx_session(exported["waveform"].model).run(
        ["embedding"], {"waveform": wavs}
    )
    assert np.abs(found - expected(encoder, wavs)).max() <= 1e-4


def test_silence_gives_a_finite_embedding(exported, encoder):
    wavs = np.zeros((2, 8000), np.float32)
    (found,) = onnx_session(exported["waveform"].model).run(None, {"waveform": wavs})
    assert np.isfinite(found).all()
    assert np.abs(found - expected(encoder, wavs)).max() <= 1e-4


def test_the_json_is_enough_to_compute_the_features(exported, encoder):
    settings = json.loads(exported["features"].settings.read_text())
    wavs = waves(2, 0.9)
    mels = log_mels(wavs, settings["features"])
    with torch.no_grad():
        theirs = encoder.compute_features(torch.from_numpy(wavs)).numpy()
    assert np.abs(mels - theirs).max() <= 1e-2  # dB; float32 in the quietest bands
    (found,) = onnx_session(exported["features"].model).run(None, {"features": mels})
    assert np.abs(found - expected(encoder, wavs)).max() <= 1e-3


def test_the_json_names_weights_shapes_and_what_was_checked(exp, exported):
    for source in SOURCES:
        settings = json.loads(exported[source].settings.read_text())
        assert settings["checkpoint_sha256"] == load_encoder(exp, "cpu")[1]["sha256"]
        assert settings["input"]["name"] == source
        assert settings["output"]["shape"] == ["batch", toy_speakers.DIM]
        assert "equally long" in settings["relative_lengths"]
        assert settings["checked"]["max_abs_difference"] <= 1e-5
        assert len(settings["checked"]["batch_sizes_and_seconds"]) >= 5


def test_a_resnet_is_exported_alike_and_left_in_evaluation(tmp_path):
    torch.manual_seed(0)
    net = ResNet(24, channels=[4, 4, 8, 8], block_sizes=[1] * 4, lin_neurons=12)
    encoder = SpeakerEncoder(Fbank(n_mels=24), net, embedding_dim=12).eval()
    wrapper = sharing._FromFeatures(encoder).eval()
    sharing.write_graph(wrapper, tmp_path / "x.onnx")
    # Its untrained embeddings are large, and tolerance is relative to them.
    assert sharing.check(wrapper, tmp_path / "x.onnx", 1e-5) <= 1e-4
    assert not any(module.training for module in encoder.modules())


@pytest.fixture
def _written_before(exported, monkeypatch):
    """Take the graph that was written already: it takes seconds to write one."""
    monkeypatch.setattr(
        sharing,
        "write_graph",
        lambda wrapper, path: shutil.copy(exported["features"].model, path),
    )


@pytest.mark.usefixtures("_written_before")
@pytest.mark.parametrize("wrong", [1e-4, np.nan, np.inf])
def test_a_model_that_differs_is_not_written(exp, tmp_path, monkeypatch, wrong):
    real = sharing._runner

    def off(path):
        run_it = real(path)
        return lambda given: run_it(given) + np.float32(wrong)

    monkeypatch.setattr(sharing, "_runner", off)
    with pytest.raises(WorkError, match="differ by"):
        sharing.export_onnx(exp, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "features_to_embedding.onnx").write_text("earlier")
    with pytest.raises(WorkError):
        sharing.export_onnx(exp, tmp_path / "old")
    (left,) = (tmp_path / "old").iterdir()
    assert left.read_text() == "earlier"


@pytest.mark.parametrize(
    "features",
    [Fbank(n_mels=8, deltas=True), Fbank(filter_shape="gaussian"), nn.Identity()],
)
def test_features_that_the_json_can_not_describe_are_refused(features):
    with pytest.raises(UserError, match="only SpeechBrain's Fbank"):
        describe_features(features)


def test_a_missing_package_names_the_command(exp, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime not installed.*pip install"):
        sharing.export_onnx(exp, tmp_path)


def export(capsys, *arguments):
    code = run(cli, ["export", *map(str, arguments)], "speechbrain-ext")
    return code, *capsys.readouterr()


@pytest.mark.usefixtures("_written_before")
def test_the_command_says_what_it_wrote_and_how_far_off_it_is(exp, tmp_path, capsys):
    code, out, err = export(capsys, exp, "--format", "onnx", "--output", tmp_path)
    assert (code, err) == (0, "")
    assert str(tmp_path / "features_to_embedding.onnx") in out
    assert "differs from torch by at most" in out
    assert {p.suffix for p in tmp_path.iterdir()} == {".onnx", ".json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tflite"], "not 'onnx'"),
        (["--fromat", "onnx"], "No such option"),
        (["--output", "file"], "is a file"),
    ],
)
def test_a_wrong_command_line_is_a_message(
    exp, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, _, err = export(capsys, exp, *arguments)
    assert code == 2
    assert message in err


def test_a_folder_without_encoder_names_the_next_command(tmp_path, capsys):
    code, _, err = export(capsys, tmp_path)
    assert code == 2
    assert "--stage train" in err
