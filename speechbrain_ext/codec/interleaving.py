"""Codes of several codebooks as one sequence, and back.

Each codebook has symbols of its own (code c of codebook q is ``q * codebook_size +
c``), so a sequence says itself what belongs where, in whatever order it comes.
"""

from __future__ import annotations

import numpy as np

#: How the codes of a frame, one of each codebook, are laid out in time.
#: flat: frame after frame, coarse codes first (AudioLM, Borsos et al., 2022).
#: delay: codebook q comes q frames late (MusicGen, Copet et al., 2023), so that what
#: refines a frame has seen the coarse code of the next.
#: coarse_first: all of the first codebook, then all of the second (VALL-E, Wang et
#: al., 2023).
PATTERNS = ("flat", "delay", "coarse_first")


def interleave(codes: np.ndarray, codebook_size: int, pattern: str) -> np.ndarray:
    """Lay codes out as one sequence of symbols.

    Arguments
    ---------
    codes : np.ndarray
        Integers, [num_codebooks, num_frames].
    codebook_size : int
        Codes per codebook.
    pattern : str
        One of `PATTERNS`.

    Returns
    -------
    np.ndarray
        int64, [num_codebooks * num_frames].

    Raises
    ------
    ValueError
        If the codes are not such integers, or there is no such pattern.

    Example
    -------
    >>> codes = np.array([[0, 1, 2], [3, 2, 1]])
    >>> interleave(codes, 4, "flat").tolist()
    [0, 7, 1, 6, 2, 5]
    >>> interleave(codes, 4, "delay").tolist()
    [0, 1, 7, 2, 6, 5]
    >>> interleave(codes, 4, "coarse_first").tolist()
    [0, 1, 2, 7, 6, 5]
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size or codes.dtype.kind not in "iu":
        raise ValueError(
            "interleave: codes must be integers [num_codebooks, num_frames], got "
            f"{codes.dtype} {list(codes.shape)}"
        )
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codebook_size:
        raise ValueError(
            f"interleave: codes must lie in 0 to {codebook_size - 1}, got {low} to "
            f"{high}"
        )
    check_pattern(pattern)
    num_codebooks, num_frames = codes.shape
    books = np.arange(num_codebooks)[:, None]
    symbols = codes.astype(np.int64) + codebook_size * books
    if pattern == "coarse_first":
        return symbols.ravel()
    if pattern == "flat":
        return symbols.T.ravel()
    place = (np.arange(num_frames) + books) * num_codebooks + books
    return symbols.ravel()[np.argsort(place, axis=None)]


def deinterleave(
    symbols: np.ndarray,
    num_codebooks: int,
    codebook_size: int,
    pattern: str,
    *,
    repair: bool = False,
) -> np.ndarray:
    """Undo `interleave`.

    Arguments
    ---------
    symbols : np.ndarray
        Integers, [length].
    num_codebooks, codebook_size, pattern
        As given to `interleave`.
    repair : bool
        For what a language model made up: each codebook's codes are taken in the order
        in which they come, and all are cut to the shortest.

    Returns
    -------
    np.ndarray
        int64, [num_codebooks, num_frames]; without frames only with ``repair``.

    Raises
    ------
    ValueError
        If that is no sequence that `interleave` makes, and ``repair`` is not set.
    """
    check_pattern(pattern)
    symbols = np.asarray(symbols, np.int64)
    books, codes = np.divmod(symbols, codebook_size)
    rows = [codes[books == book] for book in range(num_codebooks)]
    shortest = min(map(len, rows))
    found = np.stack([row[:shortest] for row in rows])
    if repair:
        return found
    if not shortest or not np.array_equal(
        interleave(found, codebook_size, pattern), symbols
    ):
        counts = ", ".join(str(len(row)) for row in rows)
        raise ValueError(
            f"deinterleave: {len(symbols)} symbols ({counts} by codebook) are no whole "
            f"frames in the pattern {pattern}; of a language model's output: "
            "repair=True"
        )
    return found


def delayed(codes: np.ndarray, padding: int) -> np.ndarray:
    """Shift codebook q by q frames, for models with one stream for each codebook.

    Arguments
    ---------
    codes : np.ndarray
        [num_codebooks, num_frames].
    padding : int
        What stands before and behind.

    Returns
    -------
    np.ndarray
        [num_codebooks, num_frames + num_codebooks - 1].

    Example
    -------
    >>> delayed(np.array([[1, 2], [3, 4]]), -1).tolist()
    [[1, 2, -1], [-1, 3, 4]]
    """
    number, frames = np.shape(codes)
    shifted = np.full((number, frames + number - 1), padding, np.int64)
    for book, row in enumerate(codes):
        shifted[book, book : book + frames] = row
    return shifted


def undelayed(shifted: np.ndarray) -> np.ndarray:
    """Undo `delayed`; what stood before and behind is not looked at.

    Raises
    ------
    ValueError
        If there are fewer steps than codebooks.
    """
    number, steps = np.shape(shifted)
    frames = steps - number + 1
    if frames < 1:
        raise ValueError(f"undelayed: {number} codebooks need more than {steps} steps")
    return np.stack([shifted[book][book : book + frames] for book in range(number)])


def check_pattern(pattern: str) -> None:
    """Raise ValueError if there is no such pattern."""
    if pattern not in PATTERNS:
        raise ValueError(f"interleaving: {pattern!r} is none of {', '.join(PATTERNS)}")
