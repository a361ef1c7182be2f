"""Spectra to bytes and back: the same symbols, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechbrain_ext.codec import bands, coefficients, envelope
from speechbrain_ext.codec.exact import MOST_LOGIT, ONE, PROBABILITY_ONE, squash_table
from speechbrain_ext.codec.signal import Symbols
from speechbrain_ext.codec.unary_net import UnaryNet, integer_net, survival_loss
from tests.codec.signals import BINS, EDGES, NUM_BANDS, coder, spectrum

STEP = 700


def quantised(one, x, step=STEP, price=0.1):
    return one.quantise(x, bands.measure_envelope(x, EDGES), step, price)


@pytest.mark.parametrize("sends_envelope", [True, False])
@pytest.mark.parametrize("gain", [0.0, 1e-5, 0.1, 300.0])
@pytest.mark.parametrize("frames", [1, 2, 30])
def test_symbols_come_back_as_they_were(frames, gain, sends_envelope):
    one = coder(sends_envelope=sends_envelope)
    symbols, bits = quantised(one, spectrum(frames, gain=gain))
    data = one.encode(symbols, STEP)
    assert len(data) <= bits / 8 * 1.01 + 2
    found = one.decode(data, frames, STEP)
    assert np.array_equal(found.rows, symbols.rows)
    assert np.array_equal(found.envelope, symbols.envelope)
    if frames > 1:
        assert found.rows.any() == (gain >= 0.1)


@pytest.mark.parametrize("value", [1, 11, 12, 13, 15, 16, 1023, 1024, 99999, -99999])
def test_every_magnitude_can_be_sent(value):
    one = coder(sends_envelope=False)
    rows = np.zeros((3, BINS), np.int64)
    rows[1, [0, 5, BINS - 1]] = value
    symbols = Symbols(np.zeros((3, 0), np.int64), rows)
    found = one.decode(one.encode(symbols, STEP), 3, STEP)
    assert np.array_equal(found.rows, rows)


def test_nothing_is_sent_where_the_envelope_promises_nothing():
    one = coder()
    x = spectrum()
    level = bands.measure_envelope(x, EDGES)
    step = STEP + 200
    steps, levels = bands.shape_signal(level, one.shape, step)
    silent = levels[:, 1] - steps < coefficients.SILENT_PROMISE
    x[silent] = 9.0  # as if it were loud all the same
    symbols, data = one.compress(x, level, step, 0.1)
    assert silent.any()
    assert not symbols.rows[silent].any()
    assert np.array_equal(one.decode(data, len(x), step).rows, symbols.rows)
    assert data == one.encode(symbols, step)


def test_the_bits_are_those_of_the_answers():
    """Reference: features and the net's sums in numpy, for all symbols at once."""
    one = coder()
    x = spectrum()
    level = bands.measure_envelope(x, EDGES)
    step = STEP + 200
    symbols, bits = one.quantise(x, level, step, 0.1)
    shaped = bands.shape_signal(level, one.shape, step)
    magnitudes = np.abs(symbols.rows)
    features = coefficients.all_features(magnitudes, shaped)
    net, envelope_net = one.nets
    mine = answers(net, features, np.tile(np.arange(BINS), len(x)))
    coded = (shaped[1][:, 1] - shaped[0] >= coefficients.SILENT_PROMISE).ravel()
    assert 0 < coded.mean() < 1
    found = coefficients.symbols_of(magnitudes).ravel()
    expected = bits_of(mine[coded], found[coded])
    expected += (magnitudes > 0).sum()
    extra = magnitudes >= 12
    assert not extra.any()  # else their even bits would have to be counted
    features, changes = envelope.all_features(level)
    mine = answers(envelope_net, features, np.tile(np.arange(NUM_BANDS), len(x)))
    assert changes.max() < envelope.SYMBOLS
    expected += bits_of(mine, changes)
    assert bits == pytest.approx(expected, rel=2e-3)


def answers(net, features, places):
    """Probability of "more" of every question, [examples, questions]."""
    sums = np.rint(features.astype(np.float64) * ONE) @ net.first + net.bias[places]
    for weights, bias in (
        (net.second, net.second_bias),
        (net.last, net.last_bias),
    ):
        hidden = np.clip(np.floor(sums / 4096 + 0.5), 0, 64 * ONE)
        sums = hidden @ weights + bias
    logits = np.clip(np.floor(sums / 4096 + 0.5), -MOST_LOGIT, MOST_LOGIT)
    return squash_table()[logits.astype(int) + MOST_LOGIT] / PROBABILITY_ONE


def bits_of(more, symbols):
    index = np.arange(more.shape[1])
    asked, passed = index <= symbols[:, None], index < symbols[:, None]
    return -np.log2(np.where(passed, more, 1 - more))[asked].sum()


def test_rounded_weights_say_what_the_trained_ones_say():
    torch.manual_seed(0)
    net = UnaryNet(5, torch.eye(4), num_symbols=6, hidden=16)
    rounded = integer_net(net.tensors())
    features = 4 * torch.rand(300, 5)
    features = (features * ONE).round() / ONE
    places = torch.arange(300) % 4
    with torch.no_grad():
        exact = net(features, places).sigmoid().numpy()
    assert (
        np.abs(answers(rounded, features.numpy(), places.numpy()) - exact).max() < 0.01
    )


def test_the_loss_is_the_bits():
    logits, symbols = torch.randn(40, 6), torch.randint(0, 9, (40,))
    expected = bits_of(logits.sigmoid().numpy(), symbols.numpy()) / 40
    assert survival_loss(logits, symbols).item() == pytest.approx(expected, rel=1e-5)


def test_a_bit_that_is_worth_more_costs_more_error():
    one, x = coder(sends_envelope=False), spectrum()
    spent = [quantised(one, x, price=price) for price in (0.0, 0.1, 0.3)]
    bits = [b for _, b in spent]
    assert bits[0] > bits[1] > bits[2]
    steps = np.empty(BINS, np.int64)
    bands.flat_steps(one.shape, STEP, steps)
    exact = x / 2.0 ** (steps / ONE)
    nearest = np.floor(np.abs(exact) + 0.5) * np.sign(exact)
    assert np.array_equal(spent[0][0].rows, nearest)
    for symbols, _ in spent:
        assert np.abs(symbols.rows - exact).max() < 12  # 0 instead of what costs much


@pytest.mark.parametrize("seed", range(20))
def test_anything_is_decoded_or_refused(seed):
    rng = np.random.default_rng(seed)
    one = coder(sends_envelope=seed % 2 == 0)
    data = rng.integers(0, 256, rng.integers(0, 300), np.uint8).tobytes()
    found = one.decode(data, 20, STEP)
    if found is not None:
        assert np.abs(found.rows).max() < 2**22


def test_a_frame_depends_on_no_later_coefficient():
    """Streams rest on it: what is sent of a frame is the same whatever follows."""
    one, x = coder(), spectrum(12)
    level = bands.measure_envelope(x, EDGES)
    whole, _ = one.quantise(x, level, STEP, 0.1)
    other = x.copy()
    other[8:] *= 1.01  # too little to change an envelope of octaves
    changed, _ = one.quantise(other, level, STEP, 0.1)
    assert np.array_equal(whole.rows[:8], changed.rows[:8])
