"""Any audio to embeddings: what is used, what is named, what is kept."""

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_ext.cli import cli, run
from speechbrain_ext.data.audio import load_audio, resample
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from speechbrain_ext.tasks.speaker.embed import load_embedder
from speechbrain_ext.tasks.speaker.embedder import Embedder
from tests.tasks import toy_speakers


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    with toy_speakers.loaded_once():
        yield toy_speakers.experiment(tmp_path_factory.mktemp("exp"))


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "my audio"
    (folder / "sub").mkdir(parents=True)
    stereo = np.stack([toy_speakers.noise(seed, 0.6) for seed in (1, 2)], 1)
    soundfile.write(folder / "a.wav", stereo[:, 0], 16000)
    soundfile.write(folder / "sub" / "b.flac", stereo, 44100)
    soundfile.write(folder / "c.OGG", stereo[:, 1], 8000, format="OGG")
    return folder


def embed(capsys, *arguments):
    code = run(cli, ["embed", *map(str, arguments)], "speechbrain-ext")
    return code, *capsys.readouterr()


@pytest.mark.smoke
def test_any_rate_format_and_number_of_channels(exp, audio, tmp_path, capsys):
    output = tmp_path / "x.npz"
    code, out, err = embed(capsys, audio, "--experiment", exp, "--output", output)
    assert (code, err) == (0, "")
    found = EmbeddingSet.load(output)
    assert sorted(found.ids) == ["a.wav", "c.OGG", "sub/b.flac"]
    encoder = load_embedder(exp, "cpu").encoder
    for name in found.ids:
        wav = resample(*load_audio(audio / name), 16000)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(wav)[None])[0].numpy()
        assert np.abs(found.rows([name])[0] - expected).max() <= 1e-5
        assert found.seconds[found.ids.index(name)] == pytest.approx(len(wav) / 16000)
    assert "3 files" in out
    assert {p.name for p in tmp_path.iterdir()} == {"my audio", "x.npz"}


def test_what_can_not_be_used_is_named_and_the_others_are_embedded(
    exp, audio, tmp_path, capsys
):
    (audio / "text.wav").write_text("no audio")
    (audio / "empty.wav").touch()
    soundfile.write(audio / "silent.wav", np.zeros(9000), 16000)
    soundfile.write(audio / "one.wav", np.ones(1), 16000)
    bad = np.ones(9000, np.float32)
    bad[[3, 5]] = np.nan, np.inf
    soundfile.write(audio / "nan.wav", bad, 16000, subtype="FLOAT")
    output = tmp_path / "x.npz"
    code, _, err = embed(capsys, audio, "--experiment", exp, "--output", output)
    assert code == 1
    for line in (
        "5 of 8 files can't be used",
        "text.wav: wrongly labelled",
        "empty.wav: empty",
        "silent.wav: all zero",
        "one.wav: too short",
        "nan.wav: non-finite: 2 of 9000",
    ):
        assert line in err
    assert len(EmbeddingSet.load(output)) == 3
    listing = (tmp_path / "x.rejected.tsv").read_text().splitlines()
    assert len(listing) == 1 + 5
    for name in ("text", "empty", "silent", "one", "nan"):
        (audio / f"{name}.wav").unlink()
    code, *_ = embed(capsys, audio, "--experiment", exp, "--output", output)
    assert code == 0
    assert not (tmp_path / "x.rejected.tsv").exists()


def test_when_no_file_can_be_used_nothing_is_written(exp, tmp_path, capsys):
    (tmp_path / "a.wav").touch()
    output = tmp_path / "x.npz"
    code, _, err = embed(
        capsys, tmp_path / "a.wav", "--experiment", exp, "--output", output
    )
    assert code == 1
    assert "1 of 1 files can't be used" in err
    assert not output.exists()


def test_files_are_called_as_they_were_given(exp, audio, tmp_path, capsys):
    files = [audio / "sub" / "b.flac", audio / "a.wav", audio / "a.wav"]
    output = tmp_path / "x.npz"
    code, *_ = embed(capsys, *files, "--experiment", exp, "--output", output)
    assert code == 0
    assert EmbeddingSet.load(output).ids == [str(path) for path in files[:2]]


def test_only_new_and_changed_files_are_computed_again(
    exp, audio, tmp_path, capsys, monkeypatch
):
    seen, stop = [], [2]
    real = Embedder.embed

    def counting(self, wavs):
        if len(seen) == stop[0]:
            raise KeyboardInterrupt
        seen.extend(len(wav) for wav in wavs)
        return real(self, wavs)

    monkeypatch.setattr(Embedder, "embed", counting)
    output = tmp_path / "x.npz"
    arguments = [audio, "--experiment", exp, "--output", output]
    assert embed(capsys, *arguments)[0] == 130
    assert not output.exists()
    stop[0] = None
    assert embed(capsys, *arguments)[0] == 0
    assert len(seen) == 3
    before = output.read_bytes()
    assert embed(capsys, *arguments)[0] == 0
    assert len(seen) == 3
    assert output.read_bytes() == before
    soundfile.write(audio / "a.wav", toy_speakers.noise(7, 0.7), 16000)
    soundfile.write(audio / "d.wav", toy_speakers.noise(8, 0.9), 16000)
    assert embed(capsys, *arguments)[0] == 0
    assert sorted(seen[3:]) == [11200, 14400]
    assert embed(capsys, *arguments, "--max_seconds", "0.2")[0] == 0
    assert len(seen) == 5 + 4


def test_voice_activity_detection_rejects_what_is_no_speech(
    exp, audio, tmp_path, capsys
):
    code, _, err = embed(
        capsys, audio, "--vad", "--experiment", exp, "--output", tmp_path / "x.npz"
    )
    assert code == 1
    assert "a.wav: no speech" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.wav", "--output", "x.npz"], "no such file or folder: nowhere.wav"),
        ([".", "--output", "x.npz"], "no audio below"),
        (["here.txt", "--output", "x.bin"], "must end in .npz"),
        (["here.txt", "--output", "folder.npz"], "is a folder"),
        (["here.txt", "--output", "other.npz"], "holds no embeddings"),
        (["here.txt", "--output", "x.npz", "--max_seconds", "0"], "not in the range"),
        (["here.txt", "--output", "x.npz", "--device", "tpu"], "--device=tpu"),
        (["here.txt"], "Missing option '--output'"),
        (["here.txt", "--output", "x.npz", "--vda"], "No such option"),
    ],
)
def test_a_wrong_command_line_is_a_message(
    exp, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").touch()
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "other.npz").write_text("precious")
    code, _, err = embed(capsys, *arguments, "--experiment", exp)
    assert code == 2
    assert message in err
    assert (tmp_path / "other.npz").read_text() == "precious"
