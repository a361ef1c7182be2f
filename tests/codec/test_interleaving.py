"""Codes as one sequence: every pattern can be undone, and is what its paper draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechbrain_ext.codec.interleaving import (
    PATTERNS,
    deinterleave,
    delayed,
    interleave,
    undelayed,
)


@given(
    st.sampled_from(PATTERNS),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 300),
    st.integers(0, 2**32),
)
def test_every_pattern_comes_back(pattern, books, frames, size, seed):
    codes = np.random.default_rng(seed).integers(0, size, (books, frames))
    symbols = interleave(codes, size, pattern)
    assert symbols.shape == (codes.size,)
    assert np.array_equal(deinterleave(symbols, books, size, pattern), codes)
    assert np.array_equal(undelayed(delayed(codes, -1)), codes)


def test_delay_is_the_picture_of_musicgen_read_column_by_column():
    # Copet et al., 2023, figure 1: codebook q of frame t stands in step t + q.
    codes = np.arange(12).reshape(3, 4) % 4
    picture = [[(q, s - q) for q in range(3) if 0 <= s - q < 4] for s in range(6)]
    wanted = [q * 4 + codes[q, t] for step in picture for q, t in step]
    assert interleave(codes, 4, "delay").tolist() == wanted


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_no_whole_frame_is_refused_and_can_be_left_out(pattern):
    codes = np.array([[1, 2, 3], [3, 2, 1]])
    symbols = interleave(codes, 4, pattern)
    for broken in (symbols[:-1], np.append(symbols, 0), symbols[:0]):
        with pytest.raises(ValueError, match="no whole frames"):
            deinterleave(broken, 2, 4, pattern)
        found = deinterleave(broken, 2, 4, pattern, repair=True)
        kept = found.shape[1]
        assert np.array_equal(found, codes[:, :kept])
        assert kept == min(len(broken) // 2, 3)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 0), int), "must be integers"),
        (np.zeros(3, int), "must be integers"),
        (np.zeros((1, 3)), "must be integers"),
        (np.array([[4]]), "0 to 3, got 4 to 4"),
        (np.array([[-1]]), "0 to 3, got -1 to -1"),
    ],
)
def test_what_are_no_codes_is_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        interleave(codes, 4, "flat")


def test_an_unknown_pattern_is_named():
    with pytest.raises(ValueError, match="'zigzag' is none of flat, delay"):
        interleave(np.array([[1]]), 4, "zigzag")
    with pytest.raises(ValueError, match="2 codebooks need more than 1 steps"):
        undelayed(np.zeros((2, 1)))
