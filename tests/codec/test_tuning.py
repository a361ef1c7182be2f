"""The search of settings: it climbs, leaves coders as they were, and goes on."""

import numpy as np
import pytest

from speechbrain_ext.codec.settings import WaveSettings
from speechbrain_ext.codec.tuning import search_settings
from speechbrain_ext.codec.wave import WaveCoder
from tests.codec.signals import speech

WAVES = [speech(0.5, seed=n) for n in range(2)]
RATES = {"kbps": (10.0,), "seed": 3}


@pytest.fixture(scope="module")
def coder():
    found = WaveCoder(WaveSettings(), hidden=8)
    found.learn(WAVES, steps=40, seed=0)
    return found


def nearness(reference, estimate):
    """Minus the error: what a search by PESQ is not needed for."""
    return -float(np.square(reference - estimate).sum() / np.square(reference).sum())


def test_the_best_is_no_worse_than_the_start_and_is_what_was_told(coder):
    trials = []
    before = coder.settings
    best = search_settings(
        [(coder, WAVES)], nearness, **RATES, evaluations=12, tell=trials.append
    )
    assert coder.settings is before
    assert [trial.number for trial in trials] == list(range(13))
    kept = [trial for trial in trials if trial.kept]
    assert len(kept) > 1
    assert [t.score for t in kept] == sorted(t.score for t in kept)
    assert kept[-1].score == max(trial.score for trial in trials)
    assert best.vector().tolist() == pytest.approx(kept[-1].state.vector)


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(coder):
    whole, first, second = [], [], []
    corpora = [(coder, WAVES)]
    search_settings(corpora, nearness, **RATES, evaluations=5, tell=whole.append)
    search_settings(corpora, nearness, **RATES, evaluations=2, tell=first.append)
    state = first[-1].state
    search_settings(
        corpora, nearness, **RATES, evaluations=5, state=state, tell=second.append
    )
    assert first + second == whole


def test_what_cannot_be_scored_is_refused(coder):
    with pytest.raises(ValueError, match="no signal could be scored"):
        search_settings(
            [(coder, WAVES)], lambda a, b: float("nan"), **RATES, evaluations=1
        )
    with pytest.raises(ValueError, match="at least one signal"):
        search_settings([(coder, [])], nearness, **RATES, evaluations=1)
