"""A tokenizer for encoded speech: how large its vocabulary is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from speechbrain_ext.codec.pieces import NUM_SPECIAL, VocabularyError
from speechbrain_ext.codec.token_figures import count_tokens, stream_figures
from speechbrain_ext.codec.tokens import CodeTokenizer
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.sampler import generator_for

#: Codes that the vocabulary is learned from: more change it little and take memory.
_ENOUGH_CODES = 10_000_000

#: Sizes of the vocabulary that are tried: so many runs for each single code.
_RUNS_PER_CODE = (0, 0.25, 0.5, 1, 2, 4, 8)


@dataclass(frozen=True)
class Encoded:
    """One utterance with its role and codes, [num_codebooks, num_frames]."""

    utterance: Utterance
    role: str
    codes: np.ndarray


def learn_tokenizer(
    encoded: Sequence[Encoded],
    codebook_size: int,
    pattern: str,
    vocab_size: int | None = None,
) -> tuple[CodeTokenizer, list[dict]]:
    """Learn a tokenizer from the train utterances.

    Arguments
    ---------
    encoded : sequence of Encoded
        Of the roles train and valid; others are not looked at.
    codebook_size : int
        Codes per codebook.
    pattern : str
        See `speechbrain_ext.codec.interleaving.PATTERNS`.
    vocab_size : int or None
        Tokens in all; None: the size that tells the valid utterances in the fewest
        bits, by the frequencies of the train utterances.

    Returns
    -------
    CodeTokenizer
        The one asked for, or the best.
    list of dict
        ``vocab_size``, ``per_second`` and ``coded_bps`` of each size that was tried.

    Raises
    ------
    VocabularyError
        If there can be no vocabulary of the size asked for.
    """
    train = [one for one in encoded if one.role == "train"]
    valid = [one for one in encoded if one.role == "valid"]
    learned_from = [one.codes for one in _enough(train)]

    def learned(wanted: int) -> CodeTokenizer:
        return CodeTokenizer.train(
            learned_from,
            codebook_size=codebook_size,
            vocab_size=wanted,
            pattern=pattern,
        )

    if vocab_size is not None:
        return learned(vocab_size), []
    symbols = codebook_size * len(learned_from[0])
    best, trials, worse = None, [], 0
    for runs in _RUNS_PER_CODE:
        try:
            tokenizer = learned(symbols + NUM_SPECIAL + round(runs * symbols))
        except VocabularyError:
            break  # this speech has no more runs
        trials.append(_cost(tokenizer, valid, train))
        if best is None or trials[-1]["coded_bps"] < best[1]:
            best, worse = (tokenizer, trials[-1]["coded_bps"]), 0
        else:
            worse += 1
        if worse == 2:
            break  # from here on it learns the train utterances by heart
    return best[0], trials


def _enough(train: Sequence[Encoded]) -> list[Encoded]:
    """Draw as many utterances as a vocabulary needs, or take all if they are less."""
    order = sorted(
        train,
        key=lambda one: generator_for(0, 0, one.utterance.utt_id, "tokens").random(),
    )
    before = np.cumsum([0, *(one.codes.size for one in order)])
    names = {
        one.utterance.utt_id
        for one, codes in zip(order, before, strict=False)
        if codes < _ENOUGH_CODES
    }
    return [one for one in train if one.utterance.utt_id in names]


def _cost(
    tokenizer: CodeTokenizer, valid: Sequence[Encoded], train: Sequence[Encoded]
) -> dict:
    """Tokens and bits per second that the valid speech takes."""
    counts, learned = (
        count_tokens(
            (tokenizer.encode(one.codes) for one in part), tokenizer.vocab_size
        )[NUM_SPECIAL:]
        for part in (valid, train)
    )
    seconds = sum(one.utterance.duration for one in valid)
    figures = stream_figures([counts], [learned], seconds)
    return {
        "vocab_size": tokenizer.vocab_size,
        **{key: figures[key] for key in ("per_second", "coded_bps")},
    }


def token_figures(
    encoded: Sequence[Encoded],
    tokens: Mapping[str, Sequence[np.ndarray]],
    tokenizer: CodeTokenizer,
) -> dict[str, dict]:
    """Rates, bits and use of codes and of tokens, by role.

    Arguments
    ---------
    encoded : sequence of Encoded
        All utterances; those of the role train are what the others are held against.
    tokens : mapping
        Role -> tokens of its utterances.
    tokenizer : CodeTokenizer
        What made them.

    Returns
    -------
    dict
        Role -> ``utterances``, ``seconds``, and for ``codes`` and ``tokens`` what
        `stream_figures` says.
    """
    parts = {role: [one for one in encoded if one.role == role] for role in tokens}
    books, size = range(tokenizer.num_codebooks), tokenizer.codebook_size
    code_counts = {
        role: [count_tokens((one.codes[book] for one in part), size) for book in books]
        for role, part in parts.items()
    }
    # The special tokens stand for no speech: they are not part of what can be used.
    token_counts = {
        role: [count_tokens(found, tokenizer.vocab_size)[NUM_SPECIAL:]]
        for role, found in tokens.items()
    }
    figures = {}
    for role, part in parts.items():
        seconds = sum(one.utterance.duration for one in part)
        figures[role] = {
            "utterances": len(part),
            "seconds": round(seconds, 3),
            "codes": stream_figures(code_counts[role], code_counts["train"], seconds),
            "tokens": stream_figures(
                token_counts[role], token_counts["train"], seconds
            ),
        }
    return figures
