"""The arithmetic coder: what goes in comes out, in as many bytes as it is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from speechbrain_ext.codec.arithmetic import (
    decode_bit,
    encode_bit,
    finish,
    new_coder,
    start_decoding,
)
from speechbrain_ext.codec.exact import (
    MOST_LOGIT,
    ONE,
    PROBABILITY_ONE,
    log_magnitude_table,
    squash_table,
)


def written(bits, probabilities) -> bytes:
    buffer, coder = np.zeros(4 * len(bits) + 16, np.uint8), new_coder()
    for bit, probability in zip(bits, probabilities, strict=True):
        encode_bit(coder, buffer, int(bit), int(probability))
    return buffer[: finish(coder, buffer)].tobytes()


def read(data: bytes, probabilities) -> list[int]:
    buffer, coder = np.frombuffer(data, np.uint8).copy(), new_coder()
    start_decoding(coder, buffer)
    return [decode_bit(coder, buffer, int(p)) for p in probabilities]


def ideal_bytes(bits, probabilities) -> float:
    likely = np.where(bits, probabilities, PROBABILITY_ONE - probabilities)
    return float(-np.log2(likely / PROBABILITY_ONE).sum() / 8)


@pytest.mark.parametrize("kind", ["even", "any", "extreme", "against all odds"])
@pytest.mark.parametrize("count", [0, 1, 7, 2000])
def test_bits_come_back_from_as_many_bytes_as_they_are_worth(kind, count):
    rng = np.random.default_rng(count)
    probabilities = {
        "even": np.full(count, PROBABILITY_ONE // 2),
        "any": rng.integers(1, PROBABILITY_ONE, count),
        "extreme": rng.choice([1, PROBABILITY_ONE - 1], count),
        "against all odds": np.full(count, 3),
    }[kind]
    bits = rng.random(count) < probabilities / PROBABILITY_ONE
    if kind == "against all odds":
        bits[::50] = True
    data = written(bits, probabilities)
    assert read(data, probabilities) == bits.astype(int).tolist()
    assert len(data) <= 1.002 * ideal_bytes(bits, probabilities) + 2


def test_nothing_but_the_likely_takes_no_byte_at_all():
    assert len(written([0] * 8, [100] * 8)) <= 1


def test_probabilities_are_the_logistic_function_of_logits():
    table = squash_table()
    for logit in (-MOST_LOGIT, -300, -1, 0, 1, 300, MOST_LOGIT):
        exact = PROBABILITY_ONE / (1 + math.exp(-logit / ONE))
        assert abs(table[logit + MOST_LOGIT] - exact) <= 0.5
    assert 0 < table.min()
    assert table.max() < PROBABILITY_ONE
    assert (np.diff(table) >= 0).all()


def test_no_entry_of_a_table_depends_on_the_last_bits_of_a_machine():
    logits = np.arange(-MOST_LOGIT, 1) / ONE
    values = [PROBABILITY_ONE / (1 + np.exp(-logits))]
    values.append(ONE * np.log2(1.0 + np.arange(len(log_magnitude_table()))))
    for exact in values:
        # How near to where rounding turns; float64 knows them to 1e-11.
        assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6
