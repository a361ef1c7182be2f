"""ViSQOL: an order that ears would give, and a reason where it can't tell."""

import numpy as np
import pytest

from speechbrain_ext.scoring import visqol as module
from speechbrain_ext.scoring.signal import NotMeasured, score_pair
from tests.codec.signals import speech


@pytest.mark.skipif(not module.visqol_is_installed(), reason="needs visqol-python")
def test_a_copy_is_far_better_than_noise():
    wave = speech(2.0)
    noise = np.random.default_rng(0).standard_normal(len(wave))
    assert module.visqol(wave, wave) > module.visqol(wave, wave + 0.1 * noise) + 1


def test_what_cannot_be_measured_says_why(monkeypatch):
    wave = speech(1.0)
    with pytest.raises(NotMeasured, match="silent"):
        module.visqol(0 * wave, wave)
    monkeypatch.setattr(module, "visqol_is_installed", lambda: False)
    scores = score_pair(wave, wave, 16000, ["visqol"])
    assert scores["visqol"] is None
    assert "pip install" in scores["not_measured"]["visqol"]


def test_it_is_not_measured_unless_asked_for():
    wave = speech(1.0)
    assert "visqol" not in score_pair(wave, wave, 16000)
