"""info: what files say of themselves, whole or damaged."""

import json
import subprocess
import sys

import pytest

from speechbrain_ext.codec.container import Coded, write_coded
from speechbrain_ext.coding.info import describe

STEREO = Coded(b"\1\2\3\4", 1, 44100, 441000, (700, 9), (bytes(5000), bytes(4000)))
SHORT = Coded(b"\1\2\3\4", 0, 16000, 16000, (700,), (bytes(983),))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.sbx").write_bytes(write_coded(STEREO))
    (tmp_path / "b.sbx").write_bytes(write_coded(SHORT))
    return tmp_path


def test_a_file_is_described_from_its_header(files, call):
    code, said, _ = call("info", "--json", files / "a.sbx")
    [found] = json.loads(said)
    size = (files / "a.sbx").stat().st_size
    assert code == 0
    assert found == {
        "file": str(files / "a.sbx"),
        "format": "SBXw",
        "version": 1,
        "kind": "fidelity",
        "sample_rate": 44100,
        "samples": 441000,
        "seconds": 10.0,
        "channels": 2,
        "bytes": size,
        "kbps": round(8 * size / 10_000, 3),
        "codebooks": None,
        "model": "01020304",
        "crc": True,
        "fault": None,
    }
    said = call("info", files / "a.sbx")[1]
    for text in ("fidelity", "44100 Hz", "441,000 samples, 10.000 s", "good"):
        assert text in said


def test_files_of_a_folder_are_a_table(files, call):
    code, said, _ = call("info", files)
    assert code == 0
    assert len(said.splitlines()) == 3
    assert "perceptual  16000   1     1.00" in said


def test_a_damaged_file_is_told_with_what_its_header_says(files, call):
    data = write_coded(STEREO)
    (files / "c.sbx").write_bytes(data[:3000])
    (files / "d.sbx").write_bytes(data[:500] + b"?" + data[501:])
    (files / "e.sbx").write_bytes(b"RIFF")
    code, said, told = call("info", files)
    assert code == 1
    assert said.count("BAD") == 2
    assert said.count("44100   2    10.00") == 3
    assert f"{files / 'c.sbx'}: is cut or damaged" in told
    assert f"{files / 'e.sbx'}: is not coded speech" in told


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.sbx: is empty"),
        (b"RIFF1234", "is not coded speech of this package"),
        (b"SBXw\1ab", "is damaged: it ends early"),
        (b"SBXw\2" + bytes(50), "format version 2, and this reads 1"),
    ],
)
def test_what_is_no_coded_file_exits_with_2(tmp_path, call, data, message):
    (tmp_path / "x.sbx").write_bytes(data)
    code, said, told = call("info", tmp_path / "x.sbx")
    assert (code, said) == (2, "")
    assert message in told


def test_nothing_to_describe_is_named(tmp_path, call):
    assert "no such file or folder: nope" in call("info", "nope")[2]
    assert "no file in it ends in .sbx" in call("info", tmp_path)[2]


def test_an_unknown_kind_is_a_number():
    coded = Coded(b"abcd", 77, 8000, 8000, (1,), (b"abc",))
    assert describe(write_coded(coded), "x")["kind"] == "unknown (77)"


def test_codes_are_told_with_their_codebooks(tmp_path, call):
    coded = Coded(b"abcd", 2, 8000, 8000, (3, 4), (b"abc", b"d"))
    (tmp_path / "x.sbx").write_bytes(write_coded(coded))
    assert "RVQ codes, 4 codebooks" in call("info", tmp_path / "x.sbx")[1]


def test_no_torch_is_needed(files):
    code = (
        "import sys; from speechbrain_ext.cli import cli, run\n"
        f"code = run(cli, ['info', {str(files)!r}], 'x')\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
