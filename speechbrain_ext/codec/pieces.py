"""Symbols as characters, and SentencePiece's byte-pair encoding over them."""

from __future__ import annotations

import io
import re

import numpy as np
import sentencepiece

from speechbrain_ext.errors import UserError

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
NUM_SPECIAL = 4

#: Characters for symbols: the private-use planes 15 and 16, less the last two of each,
#: which are no characters. Plane 0 has only 6,400.
_PLANES = (0xF0000, 0x100000)
_PLANE_SIZE = 0xFFFE
MAX_SYMBOLS = len(_PLANES) * _PLANE_SIZE

#: Symbols of one training sentence: what is longer is cut, since SentencePiece leaves
#: out sentences beyond a bound.
_SENTENCE = 2**14
#: Codes that one token may stand for.
_MAX_PIECE = 64


class TokenError(UserError):
    """Tokens can't be made this way, or are not what the stage tokenize wrote."""


class VocabularyError(TokenError):
    """There can be no vocabulary of that size.

    Arguments
    ---------
    message : str
        For people.
    smallest : int
        What the codes take.
    largest : int or None
        What this speech has runs for; None: not looked at.
    """

    def __init__(self, message: str, smallest: int, largest: int | None = None):
        super().__init__(message)
        self.smallest, self.largest = smallest, largest


def text_of(symbols: np.ndarray) -> str:
    """Turn symbols, int64 [length] in 0 to `MAX_SYMBOLS` - 1, into characters."""
    plane, place = np.divmod(symbols, _PLANE_SIZE)
    points = np.take(_PLANES, plane) + place
    return points.astype("<u4").tobytes().decode("utf-32-le")


def symbols_of(text: str) -> np.ndarray:
    """Turn characters into symbols, int64 [length]; -1 for those that are none."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64)
    symbols = np.full(len(points), -1)
    for index, first in enumerate(_PLANES):
        inside = (points >= first) & (points < first + _PLANE_SIZE)
        symbols[inside] = points[inside] - first + index * _PLANE_SIZE
    return symbols


def learn_model(
    sequences: list[np.ndarray], num_symbols: int, vocab_size: int
) -> bytes:
    """Train SentencePiece on sequences of symbols.

    Arguments
    ---------
    sequences : list of np.ndarray
        int64, [length] each.
    num_symbols : int
        Symbols are 0 to this minus one; each gets a token.
    vocab_size : int
        Tokens in all, the special ones included.

    Returns
    -------
    bytes
        The model, as SentencePiece writes it.

    Raises
    ------
    TokenError
        If there are not enough characters for the symbols.
    VocabularyError
        If there can be no vocabulary of that size.
    """
    if num_symbols > MAX_SYMBOLS:
        raise TokenError(
            f"CodeTokenizer: {num_symbols} codes are more than the {MAX_SYMBOLS} "
            "characters there are for them; take fewer codebooks"
        )
    smallest = num_symbols + NUM_SPECIAL

    def sentences():
        # Every code alone, so that each has a token: what training did not hear would
        # be unknown else. A single character makes no pair, so it counts for no run.
        yield from text_of(np.arange(num_symbols))
        for sequence in sequences:
            for start in range(0, len(sequence), _SENTENCE):
                yield text_of(sequence[start : start + _SENTENCE])

    if vocab_size < smallest:
        raise VocabularyError(
            f"CodeTokenizer: vocab_size {vocab_size} is too small: {num_symbols} codes "
            f"and {NUM_SPECIAL} special tokens need at least {smallest}",
            smallest,
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            # As they are: no normalisation, no space before, no character left out.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=1.0,
            byte_fallback=False,
            # Nothing of what these look for is in codes.
            split_by_unicode_script=False,
            split_by_whitespace=False,
            split_by_number=False,
            max_sentencepiece_length=_MAX_PIECE,
            max_sentence_length=8 * _SENTENCE,  # in bytes; longer would be left out
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            num_threads=1,  # it is written into the model
            minloglevel=2,
        )
    except RuntimeError as error:
        most = re.search(r"value <= (\d+)", str(error))
        if not most:
            raise TokenError(f"CodeTokenizer: SentencePiece: {error}") from None
        largest = int(most[1])
        raise VocabularyError(
            f"CodeTokenizer: vocab_size {vocab_size} is too large: this speech has "
            f"runs of codes for at most {largest} tokens",
            smallest,
            largest,
        ) from None
    return model.getvalue()
