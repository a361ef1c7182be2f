"""Searching what a transform coder hears with, on files it learned from.

A (1+1) evolution strategy (Rechenberg, 1973): change some of the numbers, keep the
change if the score rises, widen the steps after a success and narrow them else. What
is scored has no useful gradient, since integers and a listening model lie between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from speechbrain_ext.codec import bands
from speechbrain_ext.codec.settings import WaveSettings
from speechbrain_ext.codec.wave import WaveCoder

#: How far the numbers of `WaveSettings.vector` move in one step of width 1.
_SCALES = np.array([0.08, *[1.5] * 6, *[0.08] * 4, 0.05, 0.03, 0.15])
#: Width after a success, after a failure; and its bounds.
_WIDER, _NARROWER, _WIDTHS = 1.3, 0.93, (0.15, 2.0)
#: What twice the rate is worth, in units of the score, where a rate was missed.
_OCTAVE_WORTH = 0.75
#: A rate that is missed by more than this part is tried once more.
_NEAR = 0.02


@dataclass(frozen=True)
class Trial:
    """A score of some settings.

    Attributes
    ----------
    number : int
        0 is the start.
    score : float
        Mean over signals and rates, at equal rates.
    kept : bool
        Whether it is the best so far.
    state : SearchState
        What a search needs to go on after it.
    """

    number: int
    score: float
    kept: bool
    state: SearchState


@dataclass(frozen=True)
class SearchState:
    """Where a search stands; it goes on from here as if it had never stopped.

    Attributes
    ----------
    number : int
        Of the last trial.
    vector : list of float
        The best, see `WaveSettings.vector`.
    score : float
        Of the best.
    width : float
        Of the coming step.
    """

    number: int
    vector: list[float]
    score: float
    width: float


def search_settings(
    corpora: Sequence[tuple[WaveCoder, Sequence[np.ndarray]]],
    score: Callable[[np.ndarray, np.ndarray], float],
    *,
    kbps: Sequence[float],
    evaluations: int,
    seed: int,
    state: SearchState | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> WaveSettings:
    """Search settings with which files sound better at the same rates.

    Arguments
    ---------
    corpora : sequence of (WaveCoder, sequence of np.ndarray)
        Coders that have learned, each with some of its train files, [time] each. The
        search starts from the settings of the first; all get theirs back.
    score : callable
        Original, decoded -> more is better; NaN where it can't tell.
    kbps : sequence of float
        Rates, one signal after the other.
    evaluations : int
        Beside the first.
    seed : int
    state : SearchState or None
        Where an earlier search with the same arguments stopped.
    tell : callable
        Gets each `Trial`.

    Returns
    -------
    WaveSettings
        The best that were seen.

    Raises
    ------
    ValueError
        If there is nothing to score, or the score can't tell of any signal.
    """
    heard = [
        _Heard(coder, wave, kbps[i % len(kbps)])
        for coder, waves in corpora
        for i, wave in enumerate(waves if kbps else ())
    ]
    if not heard:
        raise ValueError("search_settings: needs at least one signal and one rate")
    before = [(coder, coder.settings) for coder, _ in corpora]
    start = heard[0].coder.settings
    try:
        if state is None:
            score_now = _mean_score(heard, score, start)
            if not np.isfinite(score_now):
                raise ValueError("search_settings: no signal could be scored")
            state = SearchState(0, start.vector().tolist(), score_now, 1.0)
            tell(Trial(0, score_now, True, state))
        while state.number < evaluations:
            # A stream of its own for each trial: none to be kept in a state.
            rng = np.random.default_rng([seed, state.number])
            changed = rng.random(len(_SCALES)) < 0.5
            step = state.width * _SCALES * rng.standard_normal(len(_SCALES)) * changed
            tried = start.with_vector(np.array(state.vector) + step)
            found = _mean_score(heard, score, tried)
            state, kept = _next_state(state, tried, found)
            tell(Trial(state.number, found, kept, state))
    finally:
        for coder, settings in before:
            coder.settings = settings
    return start.with_vector(np.array(state.vector))


def _next_state(state, tried, found) -> tuple[SearchState, bool]:
    kept = bool(found > state.score)
    width = state.width * (_WIDER if kept else _NARROWER)
    return SearchState(
        state.number + 1,
        tried.vector().tolist() if kept else state.vector,
        found if kept else state.score,
        float(np.clip(width, *_WIDTHS)),
    ), kept


class _Heard:
    """A signal with what does not depend on settings."""

    def __init__(self, coder: WaveCoder, wave: np.ndarray, kbps: float):
        self.coder = coder
        self.wave = np.asarray(wave, np.float32)
        self.bits = 1000 * kbps * len(wave) / coder.sample_rate
        self.spectrum = coder.analyse(self.wave)
        self.level = bands.measure_envelope(self.spectrum, coder.edges)

    def coded(self, settings: WaveSettings) -> tuple[np.ndarray, float]:
        """Return it decoded, and the octaves by which it missed its rate."""
        coder = self.coder
        coder.settings = settings
        octave = bands.STEPS_PER_OCTAVE
        step = coder.guess(self.spectrum, self.level, self.bits)
        for _ in range(2):
            step = int(np.clip(step, 0, bands.NUM_STEPS - 1))
            symbols, bits = coder.coder().quantise(
                self.spectrum, self.level, step, coder.settings.price
            )
            missed = float(np.log2(max(bits, 1) / self.bits))
            if abs(missed) < _NEAR:
                break
            step += round(octave * missed * 1.5)
        made = coder.synthesise(coder.decoded(symbols, step), len(self.wave))
        return made, missed


@torch.no_grad()
def _mean_score(heard, score, settings) -> float:
    found = []
    for one in heard:
        made, missed = one.coded(settings)
        value = score(one.wave, made)
        if np.isfinite(value):
            found.append(value - _OCTAVE_WORTH * missed)
    return float(np.mean(found)) if found else float("nan")
