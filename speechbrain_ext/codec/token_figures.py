"""What tokens cost and how much of their vocabulary they use, measured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def count_tokens(sequences: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    """How often each token comes, int64 [vocab_size]."""
    counts = np.zeros(vocab_size, np.int64)
    for sequence in sequences:
        counts += np.bincount(np.ravel(sequence), minlength=vocab_size)
    return counts


def entropy_bits(counts: np.ndarray) -> float:
    """Bits per token if each costs what its own frequency says.

    The least that a code for single tokens can take. On little speech it flatters a
    large vocabulary, whose tokens come once or twice; see `coded_bits`.

    Arguments
    ---------
    counts : np.ndarray
        How often each token comes, [vocab_size].

    Example
    -------
    >>> entropy_bits(np.array([4, 2, 2, 0]))
    1.5
    """
    total = counts.sum()
    found = counts[counts > 0] / max(total, 1)
    return float(-(found * np.log2(found)).sum()) + 0.0


def coded_bits(counts: np.ndarray, learned: np.ndarray) -> float:
    """Bits per token if each costs what the frequencies of other speech say.

    Arguments
    ---------
    counts : np.ndarray
        How often each token comes where it is measured, [vocab_size].
    learned : np.ndarray
        How often each came in training; half a one is added to each (Krichevsky and
        Trofimov, 1981), so that no token is impossible. [vocab_size]

    Returns
    -------
    float
        0 if there are no tokens.

    Example
    -------
    >>> coded_bits(np.array([3, 1]), np.array([0, 0]))
    1.0
    """
    total = counts.sum()
    if not total:
        return 0.0
    expected = (learned + 0.5) / (learned.sum() + 0.5 * len(learned))
    return float(-(counts * np.log2(expected)).sum() / total)


def used_part(counts: np.ndarray) -> float:
    """Part of the vocabulary that comes at all."""
    return float((counts > 0).mean())


def stream_figures(
    counts: list[np.ndarray], learned: list[np.ndarray], seconds: float
) -> dict[str, float]:
    """Rate, cost and use of a stream that takes its symbols from vocabularies in turn.

    Raw codes have one vocabulary for each codebook, since whose turn it is is known;
    tokens have one in all.

    Arguments
    ---------
    counts : list of np.ndarray
        For each vocabulary how often each symbol comes.
    learned : list of np.ndarray
        The same for the training speech.
    seconds : float
        Duration of the speech (> 0).

    Returns
    -------
    dict
        ``per_second``; ``nominal_bps``, ``entropy_bps``, ``coded_bps``: bits per second
        at equal lengths, at `entropy_bits` and at `coded_bits`; ``used``: see
        `used_part`.
    """
    totals = [int(c.sum()) for c in counts]

    def rate(costs: list[float]) -> float:
        spent = sum(n * cost for n, cost in zip(totals, costs, strict=True))
        return round(spent / seconds, 3)

    pairs = list(zip(counts, learned, strict=True))
    return {
        "per_second": round(sum(totals) / seconds, 3),
        "nominal_bps": rate([float(np.log2(len(c))) for c in counts]),
        "entropy_bps": rate([entropy_bits(c) for c in counts]),
        "coded_bps": rate([coded_bits(c, known) for c, known in pairs]),
        "used": round(used_part(np.concatenate(counts)), 4),
    }
