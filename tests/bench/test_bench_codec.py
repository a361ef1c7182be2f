"""Every mode is timed at both ends, beside EnCodec, and what it takes is judged."""

import sys

import pytest
import torch

from speechbrain_ext.bench import codec
from speechbrain_ext.errors import UserError


@pytest.fixture(scope="module")
def result():
    pytest.importorskip("encodec")
    threads = torch.get_num_threads()
    found = codec.measure(1, seconds=0.5, steps=2)
    assert torch.get_num_threads() == threads
    return found


def test_every_mode_is_timed_at_both_ends(result):
    codes = [f"TransformCodec, {kbps} kbps of codes" for kbps in ("8", "16", "22.4")]
    modes = [
        *("WaveCodec, 8 kbps", "WaveCodec, 13 kbps"),
        *("WaveCodec, 20 dB", "WaveCodec, 30 dB"),
        *codes,
        *(f"{mode}, entropy-coded" for mode in codes),
        codec.ENCODEC,
    ]
    ends = {f"{mode}: {end}" for mode in modes for end in ("encode", "decode")}
    assert set(result["subjects"]) == ends
    against = {row["ours"]: row["peer"] for row in result["comparisons"]}
    assert against == dict.fromkeys(modes[:-1], codec.ENCODEC)


def test_the_factor_is_time_over_time_and_both_ends_add_up(result):
    subjects = result["subjects"]
    for name, subject in subjects.items():
        factor = subject["real-time factor"]
        assert factor == pytest.approx(
            subject["milliseconds"]["median"] / 1e3, abs=1e-4
        )
        mode = name.rpartition(":")[0]
        both = [subjects[f"{mode}: {end}"] for end in ("encode", "decode")]
        total = sum(end["real-time factor"] for end in both)
        assert subject["both ends"] == pytest.approx(total, abs=3e-4)
        if subject["goal"] != "-":
            least, _, verdict = subject["goal"].partition(" ")
            assert (verdict == "met") == (subject["both ends"] <= float(least))


def test_missing_encodec_is_a_clear_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "encodec", None)
    monkeypatch.setattr(codec, "_codecs", lambda *_: ([], torch.zeros(10).numpy(), ""))
    with pytest.raises(UserError, match="pip install encodec"):
        codec.measure(1)


def test_experiments_that_are_not_there_are_told(monkeypatch, tmp_path):
    pytest.importorskip("encodec")
    monkeypatch.setenv(codec.EXPERIMENTS, str(tmp_path))
    with pytest.raises(UserError, match="is no experiment"):
        codec.measure(1)
