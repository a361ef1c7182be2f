"""ViSQOL: an order that ears would give, and a reason where it can't tell."""

import numpy as np
import pytest

from speechbrain_ext.scoring import visqol as module
from speechbrain_ext.scoring.signal import NotMeasured, score_pair
from tests.codec.signals import speech


@pytest.mark.skipif(not module.visqol_is_installed(), reason="needs visqol-python")
def test_more_noise_is_worse_and_a_copy_is_best():
    wave = speech(2.0)
    noise = np.random.default_rng(0).standard_normal(len(wave))
    found = [module.visqol(wave, wave + level * noise) for level in (0, 0.003, 0.1)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 4.3
    assert found[2] < 3.5


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
