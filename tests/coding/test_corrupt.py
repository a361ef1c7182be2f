"""Damaged files are refused, and never decode to something else."""

import numpy as np
import pytest

from speechbrain_ext.inference import SpeechCodec
from tests.codec.signals import speech
from tests.coding.damage import DECODED, REFUSED, Damaged, damage, forge, judge


@pytest.fixture(scope="module")
def coded(wave_exp):
    codec = SpeechCodec.from_hparams(wave_exp, device="cpu").codec
    two = np.stack([speech(0.1, 1), speech(0.1, 2)])
    return codec, [
        codec.compress(speech(0.2), 16000, kbps=8),
        codec.compress(speech(0.1), 16000, snr=25),
        codec.compress(two, 22050, kbps=12),
        codec.compress(np.zeros(1600), 8000, kbps=8),
    ]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize(("spoil", "count"), [(damage, 60), (forge, 15)])
def test_a_damaged_file_is_refused(coded, kind, spoil, count):
    codec, files = coded
    rng = np.random.default_rng([kind, count])
    for _ in range(count):
        found = spoil(files[kind], rng)
        assert judge(codec, found, files[kind]) in (REFUSED, DECODED), found


def test_the_faults_that_are_looked_for_are_found(coded):
    codec, files = coded
    rng = np.random.default_rng(0)

    class Careless:
        def decompress(self, data, name):
            return np.full((1, 9), np.nan), 16000

    assert judge(Careless(), damage(files[0], rng), files[0]) == "decoded to something"
    forged = Damaged(files[0], True, "unchanged")
    assert "not what it says" in judge(Careless(), forged, files[0])
    assert judge(codec, damage(files[0], rng), files[0]) == REFUSED
    assert judge(codec, forged, files[0]) == DECODED
