import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.check import (
    Rejected,
    check_rejections,
    find_sample_fault,
    inspect_audio,
    kind_of,
    write_rejected,
)
from speechbrain_ext.errors import WorkError
from tests.data.test_audio import encode_with_av

NOISE = np.random.default_rng(0).uniform(-0.3, 0.3, 16000)


def write(path, wav, **options):
    soundfile.write(path, wav, options.pop("rate", 16000), **options)
    return path


@pytest.mark.parametrize("name", ["a.wav", "A.WAV", "b.flac", "c.ogg", "d.mp3"])
def test_a_sound_recording_has_no_fault(tmp_path, name):
    assert inspect_audio(write(tmp_path / name, NOISE)) is None


def test_a_quiet_but_audible_recording_has_no_fault(tmp_path):
    assert inspect_audio(write(tmp_path / "a.wav", NOISE * 1e-3)) is None


@pytest.mark.parametrize(
    ("wav", "kind"),
    [
        (np.zeros(16000), "all zero"),
        (np.full(16000, 1e-7), "all zero"),
        (np.where(np.arange(16000) == 5, np.nan, NOISE), "non-finite"),
        (np.where(np.arange(16000) == 5, -np.inf, NOISE), "non-finite"),
        (np.zeros(0), "empty"),
        (NOISE[:1], "too short"),
        (NOISE[:1599], "too short"),
        (NOISE * 32768, "out of range"),
    ],
)
def test_unusable_samples_are_named_by_kind(tmp_path, wav, kind):
    path = write(tmp_path / "a.wav", wav, subtype="FLOAT")
    assert kind_of(inspect_audio(path)) == kind


def test_exactly_a_tenth_of_a_second_is_enough():
    assert find_sample_fault(NOISE[:1600], 16000) is None
    assert find_sample_fault(NOISE[:800], 8000) is None


@pytest.mark.parametrize("name", ["a.wav", "a.g722", "a.mp3", "a.ogg", "a.flac"])
@pytest.mark.parametrize(
    "content", [b"not found\n", "తెలుగు పాఠ్యం".encode() * 400, b'{"a": 1}']
)
def test_text_with_an_audio_name_is_wrongly_labelled(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert inspect_audio(tmp_path / name).startswith("wrongly labelled: named .")


@pytest.mark.parametrize(
    ("name", "fmt", "holds"),
    [
        ("a.wav", "MP3", "MP3"),
        ("a.wav", "FLAC", "FLAC"),
        ("a.mp3", "WAV", "WAV"),
        ("a.flac", "OGG", "Ogg"),
        ("a.g722", "WAV", "WAV"),
    ],
)
def test_audio_of_another_format_is_wrongly_labelled(tmp_path, name, fmt, holds):
    path = write(tmp_path / name, NOISE, format=fmt)
    expected = f"wrongly labelled: named {path.suffix} but holds {holds}"
    assert inspect_audio(path) == expected


def test_a_sphere_file_called_wav_is_custom_not_a_fault(tmp_path):
    assert inspect_audio(write(tmp_path / "a.wav", NOISE, format="NIST")) is None


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a"])
def test_rubbish_is_undecodable(tmp_path, name):
    rubbish = np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    (tmp_path / name).write_bytes(b"\x80" + rubbish)
    assert kind_of(inspect_audio(tmp_path / name)) == "undecodable"


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.m4a"])
def test_a_file_that_breaks_off_is_undecodable(tmp_path, name):
    path = tmp_path / name
    if name == "a.m4a":
        encode_with_av(path, NOISE, 16000, "aac", "ipod")
    else:
        write(path, np.tile(NOISE, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert kind_of(inspect_audio(path)) == "undecodable"


def test_a_streamed_or_sloppy_wav_header_is_no_fault(tmp_path):
    path = write(tmp_path / "a.wav", NOISE)
    whole = path.read_bytes()
    at = whole.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF, len(whole)):
        path.write_bytes(whole[:at] + size.to_bytes(4, "little") + whole[at + 4 :])
        assert inspect_audio(path) is None


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a"])
def test_no_damage_escapes_as_another_exception(tmp_path, name, capfd):
    path, draw = tmp_path / name, np.random.default_rng(2)
    if name == "a.m4a":
        encode_with_av(path, NOISE, 16000, "aac", "ipod")
    else:
        write(path, NOISE)
    whole = path.read_bytes()
    for _ in range(15):
        damaged = bytearray(whole[: draw.integers(len(whole))])
        for place in draw.integers(0, max(len(damaged), 1), 20):
            damaged[place : place + 1] = bytes([draw.integers(256)])
        path.write_bytes(damaged)
        reason = inspect_audio(path)
        assert reason is None or "\n" not in reason
    assert capfd.readouterr().err == ""


def test_missing_empty_and_special_files_are_named(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert kind_of(inspect_audio(tmp_path / "empty.wav")) == "empty"
    for name in ("folder.wav", "link.wav", "pipe.wav", "gone.wav"):
        assert kind_of(inspect_audio(tmp_path / name)) == "missing"


def test_the_list_of_rejections_is_tab_safe_and_sorted(tmp_path):
    odd = os.fsdecode(b"tab\there\nline\xff.wav")
    rows = [Rejected("b", odd, "empty"), Rejected("a", "x y.wav", "too short: 1\t2")]
    write_rejected(tmp_path / "rejected.tsv", rows)
    lines = (tmp_path / "rejected.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "utt_id\tpath\treason",
        "a\tx y.wav\ttoo short: 1\\t2",
        "b\ttab\\there\\nline\\xff.wav\tempty",
    ]


def test_up_to_the_limit_rejections_are_accepted():
    rows = [Rejected(str(i), "x", "empty") for i in range(20)]
    check_rejections(rows, 100, 0.2, Path("rejected.tsv"))


def test_beyond_the_limit_the_message_counts_kinds_and_says_how_to_go_on():
    rows = [Rejected("a", "x.wav", "empty: no bytes")] * 15
    rows += [Rejected("b", "y.wav", "too short: 0.01 s")] * 6
    with pytest.raises(WorkError) as caught:
        check_rejections(rows, 100, 0.2, Path("rejected.tsv"))
    assert caught.value.exit_code == 1
    for part in ("21 of 100", "15  empty", "6  too short", "--max_rejected 0.21"):
        assert part in str(caught.value)
