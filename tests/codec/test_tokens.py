"""Codes as tokens: nothing is lost, nothing depends on chance, costs are right."""

import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from speechbrain_ext.codec.interleaving import PATTERNS, interleave
from speechbrain_ext.codec.pieces import (
    MAX_SYMBOLS,
    NUM_SPECIAL,
    TokenError,
    VocabularyError,
)
from speechbrain_ext.codec.token_figures import (
    coded_bits,
    count_tokens,
    entropy_bits,
    stream_figures,
)
from speechbrain_ext.codec.tokens import CodeTokenizer


def corpus(books=2, size=16, utterances=6, frames=120, seed=0):
    """Codes that last for some frames, as those of speech do."""
    rng = np.random.default_rng(seed)
    return [
        np.repeat(rng.integers(0, size, (books, frames)), 3, axis=1)[:, :frames]
        for _ in range(utterances)
    ]


def trained(codes, size=16, vocab_size=80, **settings):
    return CodeTokenizer.train(
        codes, codebook_size=size, vocab_size=vocab_size, **settings
    )


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("books", [1, 3])
def test_codes_come_back_seen_or_not(pattern, books):
    heard = [codes % 8 for codes in corpus(books)]  # half of the codes never come
    tokenizer = trained(heard, pattern=pattern)
    for codes in heard + corpus(books, seed=1, frames=1) + corpus(books, seed=2):
        tokens = tokenizer.encode(codes)
        assert tokens.min() >= NUM_SPECIAL
        assert np.array_equal(tokenizer.decode(tokens), codes)


def test_stock_sentencepiece_reads_the_model_and_says_the_same():
    codes = corpus()
    tokenizer = trained(codes)
    stock = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    text = "".join(chr(0xF0000 + symbol) for symbol in interleave(codes[0], 16, "flat"))
    assert stock.encode(text) == tokenizer.encode(codes[0]).tolist()
    assert stock.decode(stock.encode(text)) == text  # no space, no normalisation
    assert stock.get_piece_size() == tokenizer.vocab_size == 80
    specials = [stock.pad_id(), stock.bos_id(), stock.eos_id(), stock.unk_id()]
    assert specials == [0, 1, 2, 3]


def test_runs_become_tokens():
    codes = corpus(books=1)
    few, many = trained(codes, vocab_size=16 + NUM_SPECIAL), trained(codes)
    assert len(few.encode(codes[0])) == codes[0].size
    assert len(many.encode(codes[0])) < 0.7 * codes[0].size


def test_a_large_alphabet_and_a_long_utterance_lose_nothing():
    # 70,000 characters are more than one private-use plane holds, and more than
    # SentencePiece numbers the places of a sentence for.
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 35000, (2, 35000))
    tokenizer = trained([codes], size=35000, vocab_size=70000 + NUM_SPECIAL)
    assert np.array_equal(tokenizer.decode(tokenizer.encode(codes)), codes)
    long = np.tile(corpus(books=1)[0], 600)
    tokenizer = trained([long])
    assert np.array_equal(tokenizer.decode(tokenizer.encode(long)), long)
    assert len(tokenizer.encode(long)) < long.size / 2  # it was not left out


def test_other_processes_and_thread_counts_learn_the_same_model():
    code = (
        "import sys; sys.path.insert(0, '.');"
        "from tests.codec.test_tokens import corpus, trained;"
        "print(trained(corpus()).digest)"
    )
    env = {"OMP_NUM_THREADS": "3", "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env
    )
    assert found.stdout.strip() == trained(corpus()).digest, found.stderr


def test_a_size_that_can_not_be_says_which_can():
    codes = corpus(utterances=1, frames=30)
    with pytest.raises(VocabularyError, match="32 codes and 4 special .* least 36"):
        trained(codes, vocab_size=35)
    with pytest.raises(VocabularyError, match="5000 is too large") as told:
        trained(codes, vocab_size=5000)
    largest = told.value.largest
    assert str(largest) in str(told.value)
    assert trained(codes, vocab_size=largest).vocab_size == largest
    with pytest.raises(VocabularyError):
        trained(codes, vocab_size=largest + 1)


def test_what_nothing_can_be_learned_from_is_refused():
    with pytest.raises(TokenError, match="no utterances"):
        trained([])
    with pytest.raises(ValueError, match="the same codebooks"):
        trained([np.zeros((1, 3), int), np.zeros((2, 3), int)])
    with pytest.raises(TokenError, match=f"more than the {MAX_SYMBOLS} characters"):
        trained([np.zeros((3, 2), int)], size=50000)


def test_one_utterance_of_one_frame_is_enough():
    codes = np.array([[3], [5]])
    tokenizer = trained([codes], vocab_size=32 + NUM_SPECIAL)
    assert np.array_equal(tokenizer.decode(tokenizer.encode(codes)), codes)


def test_what_a_language_model_makes_up_is_refused_or_repaired():
    codes = corpus()[0]
    tokenizer = trained(corpus())
    tokens = tokenizer.encode(codes).tolist()
    around = [tokenizer.bos_id, *tokens, tokenizer.eos_id, 7, tokenizer.pad_id]
    assert np.array_equal(tokenizer.decode(around), codes)
    for wrong in (-1, tokenizer.unk_id, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"token {wrong} stands for no code"):
            tokenizer.decode([*tokens, wrong])
    single = int(np.flatnonzero(tokenizer.token_lengths == 1)[0])
    with pytest.raises(ValueError, match="repair=True"):
        tokenizer.decode([*tokens, single])
    assert np.array_equal(tokenizer.decode([*tokens, single], repair=True), codes)
    assert tokenizer.decode([], repair=True).shape == (2, 0)
    with pytest.raises(ValueError, match="of 2 codebooks, got 1"):
        tokenizer.encode(codes[:1])


def test_another_model_than_the_facts_are_of_is_refused(tmp_path):
    tokenizer, other = trained(corpus()), trained(corpus(seed=5))
    path = tmp_path / "tokenizer.model"
    tokenizer.save(path)
    again = CodeTokenizer.load(path, tokenizer.facts())
    assert again.digest == tokenizer.digest
    with pytest.raises(TokenError, match="is not the tokenizer"):
        CodeTokenizer.load(path, other.facts())
    with pytest.raises(TokenError, match="no tokenizer of codes"):
        CodeTokenizer.load(tmp_path / "none", tokenizer.facts())
    with pytest.raises(TokenError, match="none of 2 x 17 codes"):
        CodeTokenizer(tokenizer.model, 2, 17, "flat")
    with pytest.raises(TokenError, match="no SentencePiece model"):
        CodeTokenizer(b"no model", 2, 16, "flat")


def test_costs_are_those_of_the_formulas():
    assert entropy_bits(np.array([8, 8, 0, 16])) == 1.5
    assert entropy_bits(np.array([5, 0])) == 0.0
    assert entropy_bits(np.zeros(3, int)) == 0.0
    # (7 + 1/2) / (7 + 3/2) and (1/2) / (7 + 3/2), three of the one and one of the other
    wanted = -(3 * np.log2(7.5 / 8.5) + np.log2(0.5 / 8.5)) / 4
    found = coded_bits(np.array([3, 1, 0]), np.array([7, 0, 0]))
    assert found == pytest.approx(wanted)
    assert coded_bits(np.zeros(3, int), np.array([7, 0, 0])) == 0.0


def test_figures_of_a_stream_are_per_second():
    counts = count_tokens([np.array([0, 1]), np.array([[1, 3]])], 4)
    assert counts.tolist() == [1, 2, 0, 1]
    figures = stream_figures([counts, counts], [counts, counts], seconds=2.0)
    assert figures["per_second"] == 4
    assert figures["nominal_bps"] == 8
    assert figures["entropy_bps"] == 6
    assert figures["coded_bps"] > 6
    assert figures["used"] == 0.75
