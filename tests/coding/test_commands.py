"""encode and decode, as a person types them."""

import io
import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from speechbrain_ext.codec.container import read_coded
from speechbrain_ext.coding.work import Worker
from tests.coding.conftest import record


@pytest.mark.parametrize(
    ("rate", "channels", "seconds"),
    [(8000, 1, 0.4), (22050, 2, 0.317), (44100, 1, 0.25), (16000, 1, 1 / 16000)],
)
def test_samples_rate_and_channels_come_back(
    call, wave_exp, tmp_path, rate, channels, seconds
):
    source = record(tmp_path / "a.wav", seconds, rate, channels)
    coded, back = tmp_path / "a.sbx", tmp_path / "b.flac"
    code, out, _ = call("encode", source, coded, "--model", wave_exp, "--kbps", 16)
    assert code == 0
    assert f"{coded}: 1 file, {seconds:.2f} s of audio" in out
    assert call("decode", coded, back, "--model", wave_exp)[0] == 0
    was, now = soundfile.info(source), soundfile.info(back)
    assert (now.frames, now.samplerate, now.channels) == (was.frames, rate, channels)
    assert (now.format, now.subtype) == ("FLAC", "PCM_16")


@pytest.mark.parametrize(
    ("options", "subtype"),
    [([], "PCM_16"), (["--bits", 24], "PCM_24"), (["--bits", "float"], "FLOAT")],
)
def test_samples_are_as_fine_as_asked(call, wave_exp, tmp_path, options, subtype):
    record(tmp_path / "a.wav")
    call("encode", tmp_path / "a.wav", tmp_path / "a.sbx", "--model", wave_exp)
    assert not call(
        "decode", tmp_path / "a.sbx", tmp_path / "b.wav", "--model", wave_exp, *options
    )[0]
    assert soundfile.info(tmp_path / "b.wav").subtype == subtype


def test_what_is_too_loud_for_the_samples_is_clipped_and_told(call, wave_exp, tmp_path):
    loud = 1.3 * np.sin(np.arange(6400) / 20)
    soundfile.write(tmp_path / "a.wav", loud, 16000, subtype="FLOAT")
    given = (tmp_path / "a.wav", tmp_path / "a.sbx", "--model", wave_exp, "--snr", 25)
    assert call("encode", *given)[0] == 0
    asked = ("decode", tmp_path / "a.sbx", tmp_path / "b.wav", "--model", wave_exp)
    assert "samples were beyond full scale and clipped" in call(*asked)[1]
    assert soundfile.read(tmp_path / "b.wav")[0].max() > 0.999
    assert "clipped" not in call(*asked, "--force", "--bits", "float")[1]
    assert soundfile.read(tmp_path / "b.wav")[0].max() > 1.2


def test_without_an_aim_a_file_has_8_kbps_and_with_one_that(call, wave_exp, tmp_path):
    source = record(tmp_path / "a.wav", 1.0)
    sizes = {}
    for aim in ((), ("--kbps", 8), ("--kbps", 24), ("--snr", 15)):
        out = tmp_path / f"{len(sizes)}.sbx"
        assert call("encode", source, out, "--model", wave_exp, *aim)[0] == 0
        sizes[aim] = out.read_bytes()
    assert sizes[()] == sizes["--kbps", 8]
    assert 0.97 * 3000 < len(sizes["--kbps", 24]) <= 3000
    kinds = [read_coded(data).kind for data in sizes.values()]
    assert kinds == [0, 0, 0, 1]


def test_silence_is_coded_like_any_sound(call, wave_exp, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((4000, 2)), 16000)
    for aim in (("--kbps", 8), ("--snr", 30)):
        given = (tmp_path / "a.wav", tmp_path / "a.sbx", "--model", wave_exp, "--force")
        assert call("encode", *given, *aim)[0] == 0
        given = (tmp_path / "a.sbx", tmp_path / "b.wav", "--model", wave_exp, "--force")
        assert call("decode", *given)[0] == 0
        found, _ = soundfile.read(tmp_path / "b.wav")
        assert found.shape == (4000, 2)
        assert np.abs(found).max() < 1e-3


def test_standard_input_and_output_are_files_too(call, wave_exp, tmp_path, monkeypatch):
    source = record(tmp_path / "a.wav")
    call("encode", source, tmp_path / "a.sbx", "--model", wave_exp)
    call("decode", tmp_path / "a.sbx", tmp_path / "b.wav", "--model", wave_exp)
    given, written = SimpleNamespace(buffer=None), io.BytesIO()
    fake = SimpleNamespace(buffer=written, isatty=lambda: False, flush=lambda: None)
    for command, path, wanted in (
        ("encode", source, tmp_path / "a.sbx"),
        ("decode", tmp_path / "a.sbx", tmp_path / "b.wav"),
    ):
        given.buffer = io.BytesIO(path.read_bytes())
        written.seek(0)
        written.truncate()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", given)
            patch.setattr(sys, "stdout", fake)
            code, _, told = call(command, "-", "-", "--model", wave_exp)
        assert code == 0
        assert written.getvalue() == wanted.read_bytes()
        assert f"{command}: -: 1 file" in told


# -- many ----------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    record(tmp_path / "in" / "one" / "a.wav")
    record(tmp_path / "in" / "two" / "a.flac", seed=1)
    return tmp_path / "in"


def test_a_folder_keeps_its_subfolders(call, wave_exp, tree, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    assert "2 files" in call("encode", tree, out, "--model", wave_exp)[1]
    assert call("decode", out, back, "--model", wave_exp, "--format", "flac")[0] == 0
    found = sorted(str(p.relative_to(back)) for p in back.rglob("*.*"))
    assert found == ["one/a.flac", "two/a.flac"]


def test_files_of_one_name_do_not_become_one(call, wave_exp, tree, tmp_path):
    given = [tree / "one" / "a.wav", tree / "two" / "a.flac", tmp_path / "out"]
    code, _, told = call("encode", *given, "--model", wave_exp)
    assert code == 2
    assert "1 outputs would each be made of several inputs" in told
    assert all(str(path) in told for path in given[:2])
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays_unless_one_says_so(call, wave_exp, tree, tmp_path):
    out = tmp_path / "out"
    there = out / "one" / "a.sbx"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    code, _, told = call("encode", tree, out, "--model", wave_exp)
    assert (code, "--skip_existing" in told, "--force" in told) == (2, True, True)
    assert not (out / "two").exists()
    code, said, _ = call("encode", tree, out, "--model", wave_exp, "--skip_existing")
    assert (code, there.read_text()) == (0, "mine")
    assert "1 file, 1 were there" in said
    assert call("encode", tree, out, "--model", wave_exp, "--force")[0] == 0
    assert read_coded(there.read_bytes()).num_samples == 6400
    said = call("encode", tree, out, "--model", wave_exp, "--skip_existing")[1]
    assert "all 2 files are there already" in said


def test_of_many_files_the_broken_ones_are_told_at_the_end(
    call, wave_exp, tree, tmp_path
):
    nan = np.full(800, np.nan, np.float32)
    soundfile.write(tree / "nan.wav", nan, 16000, subtype="FLOAT")
    soundfile.write(tree / "none.wav", nan[:0], 16000)
    (tree / "empty.wav").touch()
    (tree / "text.wav").write_text("not audio")
    code, said, told = call("encode", tree, tmp_path / "out", "--model", wave_exp)
    assert code == 1
    assert "2 files" in said
    assert "4 of 6 files failed; the others are done" in told
    assert "nan.wav: non-finite: 800 of 800 samples are NaN or Inf" in told
    assert "none.wav: empty: no samples" in told
    assert "empty.wav: is empty" in told
    assert "text.wav: undecodable" in told
    made = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert made == ["a.sbx", "a.sbx"]


def test_after_an_interrupt_what_is_there_is_whole(
    call, wave_exp, tree, tmp_path, monkeypatch
):
    made, calls = Worker.__call__, []

    def interrupted(self, job):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made(self, job)

    monkeypatch.setattr(Worker, "__call__", interrupted)
    code, _, told = call("encode", tree, tmp_path / "out", "--model", wave_exp)
    assert code == 130
    assert "the same command with --skip_existing goes on: 1 of 2 files" in told
    [only] = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert read_coded(only.read_bytes()).num_samples == 6400
    calls.clear()
    code, _, told = call(
        "encode", tree, tmp_path / "out", "--model", wave_exp, "--force"
    )
    assert code == 130
    assert "the same command begins again: 1 of 2 files" in told


# -- mistakes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coded(wave_exp, tmp_path_factory):
    from speechbrain_ext.inference import SpeechCodec
    from tests.codec.signals import speech

    codec = SpeechCodec.from_hparams(wave_exp, device="cpu")
    return codec.compress(speech(0.4), 16000, kbps=8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: b"", "x.sbx: is empty"),
        (lambda d: d[:-9], "x.sbx: is cut or damaged.*get it again"),
        (lambda d: d[:3] + d[3:40] + b"?" + d[41:], "is cut or damaged"),
        (lambda d: b"RIFF" + bytes(90), "is not coded speech of this package"),
        (lambda d: d[:4] + b"\x07" + d[5:], "format version 7, and this reads 1"),
        (lambda d: d[:5] + bytes(4) + d[9:], "is cut or damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_a_line(
    call, wave_exp, coded, tmp_path, spoil, message
):
    (tmp_path / "x.sbx").write_bytes(spoil(coded))
    given = (tmp_path / "x.sbx", tmp_path / "x.wav", "--model", wave_exp)
    code, _, told = call("decode", *given)
    assert code == 2
    assert told.startswith(f"decode: {tmp_path / 'x.sbx'}: ")
    assert told.count(str(tmp_path / "x.sbx")) == 1
    assert re.search(message, told)
    assert not (tmp_path / "x.wav").exists()


def test_another_model_is_told_from_the_one_that_coded(
    call, wave_exp, other_exp, coded, tmp_path
):
    (tmp_path / "x.sbx").write_bytes(coded)
    given = (tmp_path / "x.sbx", tmp_path / "x.wav", "--model", other_exp)
    code, _, told = call("decode", *given)
    assert code == 2
    assert f"was coded by the model {coded[5:9].hex()}, and --model {other_exp}" in told
    assert "give the model that coded it" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.wav", "give what to read and, last, what to write"),
        ("nope.wav out.sbx", "no such file or folder: nope.wav"),
        ("a.wav b.wav", "b.wav: the last path is what is written, .*OUT, as b.sbx"),
        ("a.wav a.wav x.sbx", "x.sbx looks like a file, and 2 files go into a folder"),
        ("a.wav a.wav out", "outputs would each be made of several inputs"),
        ("a.wav there.sbx", "there.sbx is there already.*--force"),
        ("a.wav o.sbx --kbps 8 --snr 9", "--kbps and --snr are two aims"),
        ("a.wav o.sbx --codebooks 2", "--codebooks 2: .*has no codebooks.*--kbps R"),
        ("a.wav o.sbx --kbps 0.1", "--kbps 0.1: .*must be between"),
        ("a.wav o.sbx --snr 300", "300.* is not in the range"),
        ("a.wav o.sbx --force --skip_existing", "say different things"),
        ("a.wav - a.sbx", "- stands for one file"),
        ("empty out", "nothing in it to encode"),
        ("slow.wav o.sbx", "slow.wav: sample rate: 500; a file holds 1000 to"),
        ("there.sbx o.sbx", "there.sbx: is coded already"),
    ],
)
def test_a_mistake_is_named_with_the_rule(
    call, wave_exp, coded, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "a.wav", 0.05)
    record(tmp_path / "slow.wav", 0.05, rate=500)
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.sbx").write_bytes(coded)
    before = sorted(os.listdir())
    code, _, told = call("encode", *words.split(), "--model", wave_exp)
    assert code == 2
    assert "Traceback" not in told
    assert re.search(message, told, re.DOTALL), told
    assert sorted(os.listdir()) == before
    assert (tmp_path / "there.sbx").read_bytes() == coded


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("there.sbx o.mp3", "no format ends in .mp3; known: .wav and .flac"),
        ("there.sbx o.flac --bits float", "--bits float: flac has no such samples"),
        ("there.sbx there.sbx --force", "no format ends in .sbx"),
        ("there.sbx", "give what to read and, last, what to write"),
        ("there.sbx o.wav --model nope", "decode: --model nope: no such folder"),
        ("there.sbx o.wav --model a.yaml", "is a recipe; train it first"),
        ("there.sbx o.wav --model empty", "is a folder, but no experiment"),
    ],
)
def test_decoding_names_mistakes_too(
    call, wave_exp, coded, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.sbx").write_bytes(coded)
    (tmp_path / "a.yaml").write_text("a: 1")
    (tmp_path / "empty").mkdir()
    code, _, told = call("decode", "--model", wave_exp, *words.split())
    assert code == 2
    assert message in told
    assert (tmp_path / "there.sbx").read_bytes() == coded


def test_a_place_that_can_not_be_written_is_named(call, wave_exp, tmp_path):
    record(tmp_path / "a.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "file")
    given = (tmp_path / "a.wav", tmp_path / "file" / "a.sbx", "--model", wave_exp)
    code, _, told = call("encode", *given)
    assert code == 2
    assert f"{tmp_path / 'file'} is no folder that can be written to" in told
