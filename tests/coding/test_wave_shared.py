"""A wave codec leaves its experiment: exports and bundles code the same bytes."""

import shutil

import numpy as np
import pytest
import torch

from speechbrain_ext.cli import cli, run
from speechbrain_ext.codec.container import BitstreamError
from speechbrain_ext.errors import UserError
from speechbrain_ext.inference import SpeechCodec
from speechbrain_ext.models import TransformCodec
from speechbrain_ext.quantization import ResidualVectorQuantizer
from speechbrain_ext.sharing.bundle import pack, unpack, verify
from speechbrain_ext.sharing.export import export
from speechbrain_ext.sharing.verified import FAILED
from tests.codec.signals import speech
from tests.coding.conftest import record


@pytest.fixture(scope="module")
def shared(wave_exp, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    export(wave_exp, folder / "export", log=lambda line: None)
    pack(wave_exp, folder / "wave.zip")
    unpack(folder / "wave.zip", folder / "unpacked")
    return folder


@pytest.fixture(scope="module")
def codec(wave_exp):
    return SpeechCodec.from_hparams(wave_exp, device="cpu")


@pytest.mark.parametrize("name", ["export", "wave.zip", "unpacked"])
def test_wherever_the_model_comes_from_the_bytes_are_the_same(shared, codec, name):
    found = SpeechCodec.from_hparams(shared / name, device="cpu")
    data = found.compress(speech(0.4), 16000, kbps=10)
    assert data == codec.compress(speech(0.4), 16000, kbps=10)
    assert np.array_equal(found.decompress(data)[0], codec.decompress(data)[0])
    assert found.digest() == codec.digest()


def test_a_bundle_and_an_export_are_verified(shared):
    checks = verify(shared / "wave.zip").checks
    failed = [check.name for check in checks if check.verdict == FAILED]
    assert failed == ["figures"]  # which the toy has made up
    assert run(cli, ["verify", str(shared / "export")], "x") == 0


def test_the_card_says_how_to_make_files(shared):
    text = (shared / "export" / "README.md").read_text()
    assert "codec.compress(wav, sample_rate, kbps=8)" in text
    assert "speechbrain-ext encode IN.wav OUT.sbx --model export" in text
    assert "codec.encode" not in text


def test_files_of_one_place_are_read_in_another(shared, wave_exp, tmp_path, call):
    source = record(tmp_path / "a.wav")
    given = (source, tmp_path / "a.sbx", "--model", shared / "wave.zip")
    assert call("encode", *given)[0] == 0
    for model in (wave_exp, shared / "export"):
        out = tmp_path / f"{model.name}.wav"
        assert call("decode", tmp_path / "a.sbx", out, "--model", model)[0] == 0
    made = [(tmp_path / f"{name}.wav").read_bytes() for name in ("exp", "export")]
    assert made[0] == made[1]


def test_a_bundle_without_a_model_is_named(wave_exp, tmp_path):
    pack(wave_exp / "hyperparams.yaml", tmp_path / "recipe.zip")
    with pytest.raises(UserError, match="holds a recipe and no trained model"):
        SpeechCodec.from_hparams(tmp_path / "recipe.zip")


def test_a_damaged_export_is_refused(shared, tmp_path):
    folder = shutil.copytree(shared / "export", tmp_path / "export")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="other bytes than config.json says"):
        SpeechCodec.from_hparams(folder)


# -- SpeechCodec ---------------------------------------------------------------------


def test_what_a_wave_codec_has_not_says_what_to_use(codec):
    for call in (
        lambda: codec.bitrates,
        lambda: codec.encode(speech(0.1), 16000),
        lambda: codec.decode(np.zeros((1, 3), int)),
    ):
        with pytest.raises(TypeError, match="has no codes.*use compress"):
            call()
    assert (codec.has_codes, codec.has_files) == (False, True)


def test_reconstruction_goes_by_way_of_a_file(codec):
    wave = speech(0.4)
    data = codec.compress(wave.astype(np.float32), 16000, kbps=12)
    wanted = codec.decompress(data)[0][0]
    assert np.array_equal(codec.reconstruct(wave, 16000, kbps=12), wanted)
    both = codec.reconstruct(np.stack([wave, wave[::-1]]), 16000)
    assert both.shape == (2, len(wave))
    assert codec.reconstruct(wave, 8000, kbps=12).shape == (2 * len(wave),)


def test_files_know_their_name_and_model(codec):
    data = codec.compress(speech(0.2), 16000, snr=10)
    assert data[5:9] == codec.digest()[:4]
    with pytest.raises(BitstreamError, match="mine: is cut"):
        codec.decompress(data[:-1], "mine")


def test_a_codec_without_files_says_so():
    class CodesAlone(TransformCodec):
        compress = property()  # hasattr is False

    rvq = ResidualVectorQuantizer(8, num_quantizers=4, codebook_size=16)
    plain = SpeechCodec(CodesAlone(rvq, hop_samples=160, width=8).eval())
    with pytest.raises(TypeError, match="has no file format.*use encode"):
        plain.compress(torch.zeros(99).numpy(), 16000, kbps=1)
