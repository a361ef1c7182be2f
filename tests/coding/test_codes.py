"""Codecs with codes, by the same commands."""

import json

import numpy as np
import pytest
import soundfile

from speechbrain_ext.inference import SpeechCodec
from tests.coding.conftest import record
from tests.coding.damage import DECODED, REFUSED, damage, forge, judge
from tests.sharing import toy_experiments


@pytest.fixture(scope="module")
def codes_exp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes") / "exp"
    return toy_experiments.codec_experiment(folder, toy_experiments.TRANSFORM)


def test_codebooks_are_chosen_and_told(call, codes_exp, tmp_path):
    source = record(tmp_path / "a.wav", 0.31, 22050, 2)
    coded, back = tmp_path / "a.sbx", tmp_path / "b.wav"
    given = ("encode", source, coded, "--model", codes_exp)
    for asked, wanted in (((), 8), (("--codebooks", 3), 3)):
        assert call(*given, *asked, "--force")[0] == 0
        [found] = json.loads(call("info", "--json", coded)[1])
        assert (found["kind"], found["codebooks"]) == ("RVQ codes", wanted)
    assert call("decode", coded, back, "--model", codes_exp)[0] == 0
    was, now = soundfile.info(source), soundfile.info(back)
    assert (now.frames, now.samplerate, now.channels) == (was.frames, 22050, 2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--snr", 30), "promises no fidelity\n  Next: --kbps R or --codebooks 1 to 8"),
        (("--codebooks", 9), "can't: codebooks must be between 1 and 8, got 9"),
    ],
)
def test_what_codes_have_not_is_refused(call, codes_exp, tmp_path, option, message):
    given = (record(tmp_path / "a.wav"), tmp_path / "a.sbx", "--model", codes_exp)
    code, _, told = call("encode", *given, *option)
    assert code == 2
    assert message in told
    assert not (tmp_path / "a.sbx").exists()


@pytest.mark.parametrize(("spoil", "count"), [(damage, 60), (forge, 30)])
def test_damaged_codes_are_refused(codes_exp, spoil, count):
    codec = SpeechCodec.from_hparams(codes_exp, device="cpu").codec
    rng = np.random.default_rng(count)
    wave = 0.1 * rng.standard_normal(3000)
    data = codec.compress(wave, 16000, codebooks=4)
    for _ in range(count):
        found = spoil(data, rng)
        assert judge(codec, found, data) in (REFUSED, DECODED), found
