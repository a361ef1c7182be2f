"""Tokens of a language model: frequent runs of codes as one, by byte-pair encoding."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from speechbrain_ext.codec.interleaving import (
    check_pattern,
    deinterleave,
    interleave,
)
from speechbrain_ext.codec.pieces import (
    BOS_ID,
    EOS_ID,
    NUM_SPECIAL,
    PAD_ID,
    UNK_ID,
    TokenError,
    learn_model,
    symbols_of,
    text_of,
)
from speechbrain_ext.files import atomic_path


class CodeTokenizer:
    """Codes to tokens and back, without loss.

    Acoustic byte-pair encoding (Shen et al., 2024): every code is a character of its
    own, and a SentencePiece model (BPE; Kudo and Richardson, 2018) learns which runs
    of them are worth a token. Every code has a token, also one that training never
    saw, so that any codes can be told; there is no normalisation, no space and no
    unknown. Tokens 0 to 3 are padding, begin, end and unknown (never made).

    Arguments
    ---------
    model : bytes
        A SentencePiece model, as `train` makes it.
    num_codebooks : int
        Codes of a frame.
    codebook_size : int
        Codes per codebook.
    pattern : str
        Order of the codes, see `speechbrain_ext.codec.interleaving.PATTERNS`.

    Raises
    ------
    TokenError
        If the model is none of such codes.

    Example
    -------
    >>> codes = np.tile([[0, 1, 2, 3]], 50)
    >>> tokenizer = CodeTokenizer.train([codes], codebook_size=4, vocab_size=12)
    >>> tokens = tokenizer.encode(codes)
    >>> len(tokens) < codes.size
    True
    >>> np.array_equal(tokenizer.decode(tokens), codes)
    True
    """

    pad_id, bos_id, eos_id, unk_id = PAD_ID, BOS_ID, EOS_ID, UNK_ID

    def __init__(
        self, model: bytes, num_codebooks: int, codebook_size: int, pattern: str
    ):
        check_pattern(pattern)
        self.model = model
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.pattern = pattern
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise TokenError(
                f"CodeTokenizer: no SentencePiece model: {error}"
            ) from None
        self.vocab_size = self._processor.get_piece_size()
        pieces = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        symbols = symbols_of("".join(pieces[NUM_SPECIAL:]))
        number = num_codebooks * codebook_size
        if set(symbols.tolist()) != set(range(number)):
            raise TokenError(
                f"CodeTokenizer: the SentencePiece model is none of {num_codebooks} x "
                f"{codebook_size} codes; make the tokens again"
            )
        lengths = [len(piece) for piece in pieces[NUM_SPECIAL:]]
        # A special token stands for no code; unknown is caught before.
        self.token_lengths = np.array([0] * NUM_SPECIAL + lengths)
        self._symbols = symbols
        self._starts = np.cumsum(self.token_lengths) - self.token_lengths

    @classmethod
    def train(
        cls,
        utterances: Iterable[np.ndarray],
        *,
        codebook_size: int,
        vocab_size: int,
        pattern: str = "flat",
    ) -> CodeTokenizer:
        """Learn which runs of codes become tokens.

        The same utterances in the same order give the same model, byte by byte.

        Arguments
        ---------
        utterances : iterable of np.ndarray
            Codes, [num_codebooks, num_frames] each.
        codebook_size : int
            Codes per codebook.
        vocab_size : int
            Tokens in all, the four special ones included.
        pattern : str
            See the class.

        Returns
        -------
        CodeTokenizer
            With as many tokens.

        Raises
        ------
        TokenError
            If there is no utterance, or the codes are more than there are characters.
        ValueError
            If the utterances differ in their number of codebooks.
        VocabularyError
            If ``vocab_size`` is less than the codes take, or more than this speech
            has runs for.
        """
        utterances = list(utterances)
        numbers = sorted({len(codes) for codes in utterances})
        if not numbers:
            raise TokenError("CodeTokenizer: there are no utterances to learn from")
        if len(numbers) > 1:
            raise ValueError(
                f"CodeTokenizer: utterances must have the same codebooks, got {numbers}"
            )
        sequences = [interleave(c, codebook_size, pattern) for c in utterances]
        model = learn_model(sequences, numbers[0] * codebook_size, vocab_size)
        return cls(model, numbers[0], codebook_size, pattern)

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the SentencePiece model."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Turn the codes of an utterance into tokens.

        Arguments
        ---------
        codes : np.ndarray
            Integers, [num_codebooks, num_frames].

        Returns
        -------
        np.ndarray
            int32, [num_tokens], without begin and end.

        Raises
        ------
        ValueError
            If these are no codes of this tokenizer.
        """
        codes = np.asarray(codes)
        if codes.ndim == 2 and len(codes) != self.num_codebooks:
            raise ValueError(
                f"CodeTokenizer: is of {self.num_codebooks} codebooks, got {len(codes)}"
            )
        text = text_of(interleave(codes, self.codebook_size, self.pattern))
        return np.array(self._processor.encode(text), np.int32)

    def decode(
        self, tokens: Sequence[int] | np.ndarray, *, repair: bool = False
    ) -> np.ndarray:
        """Turn tokens into codes; undoes `encode`.

        Arguments
        ---------
        tokens : sequence of int
            Begin and padding are passed over, and it ends at the first end.
        repair : bool
            Take what a language model made up: what is no whole frame is left out.

        Returns
        -------
        np.ndarray
            int64, [num_codebooks, num_frames].

        Raises
        ------
        ValueError
            If a token is not of the vocabulary; without ``repair`` also if the tokens
            are no whole frames.
        """
        tokens = np.asarray(tokens, np.int64).reshape(-1)
        wrong = (tokens < 0) | (tokens >= self.vocab_size) | (tokens == UNK_ID)
        if wrong.any():
            raise ValueError(
                f"CodeTokenizer: token {tokens[wrong][0]} stands for no code; "
                f"codes are {NUM_SPECIAL} to {self.vocab_size - 1}"
            )
        ends = np.flatnonzero(tokens == EOS_ID)
        if len(ends):
            tokens = tokens[: ends[0]]
        lengths = self.token_lengths[tokens]
        # All places of all tokens at once: their starts, and steps of one from there.
        before = np.cumsum(lengths) - lengths
        steps = np.arange(lengths.sum()) - np.repeat(before, lengths)
        symbols = self._symbols[np.repeat(self._starts[tokens], lengths) + steps]
        return deinterleave(
            symbols,
            self.num_codebooks,
            self.codebook_size,
            self.pattern,
            repair=repair,
        )

    def facts(self) -> dict:
        """Return what `load` asks for beside the model, as JSON takes it."""
        return {
            "sha256": self.digest,
            "num_codebooks": self.num_codebooks,
            "codebook_size": self.codebook_size,
            "pattern": self.pattern,
            "vocab_size": self.vocab_size,
            "pad_id": PAD_ID,
            "bos_id": BOS_ID,
            "eos_id": EOS_ID,
            "unk_id": UNK_ID,
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the SentencePiece model; `facts` belong beside it."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.model)

    @classmethod
    def load(cls, path: str | os.PathLike, facts: dict) -> CodeTokenizer:
        """Read what `save` wrote.

        Arguments
        ---------
        path : str or PathLike
            The SentencePiece model.
        facts : dict
            What `facts` returned.

        Raises
        ------
        TokenError
            If it is missing, or another one than the facts are of.
        """
        try:
            model = Path(path).read_bytes()
            asked = {k: facts[k] for k in ("num_codebooks", "codebook_size", "pattern")}
            sha256 = facts["sha256"]
        except (OSError, KeyError, TypeError) as error:
            raise TokenError(f"{path}: no tokenizer of codes: {error!r}") from None
        if hashlib.sha256(model).hexdigest() != sha256:
            raise TokenError(
                f"{path}: is not the tokenizer that these tokens were made with; make "
                "them again: ./run.sh --stage tokenize --force"
            )
        return cls(model, **asked)
