"""A signal as a string of symbols: envelopes one frame ahead, coefficients behind.

The envelope of frame t + 1 is sent before the coefficients of frame t, whose steps and
probabilities look at it; so whoever decodes needs one frame of patience, no more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from speechbrain_ext.codec import arithmetic
from speechbrain_ext.codec.bands import Shape, flat_steps, shape_frame
from speechbrain_ext.codec.coefficients import PAD, code_frame, shift
from speechbrain_ext.codec.envelope import code_envelope_frame
from speechbrain_ext.codec.symbols import COUNT, DECODE, ENCODE, most_symbols
from speechbrain_ext.codec.unary_net import IntegerNet

#: A fixed-point logarithm of a step -> the step.
_OCTAVE = 2.0 ** (np.arange(256) / 256)
#: A coefficient takes no more bytes than this, however unlikely.
_MOST_BYTES = 16


class Symbols(NamedTuple):
    """What a signal is quantised to.

    Attributes
    ----------
    envelope : np.ndarray
        int64, [frames, bands]; [frames, 0] where none is sent.
    rows : np.ndarray
        Quantised coefficients, int64, [frames, bins].
    """

    envelope: np.ndarray
    rows: np.ndarray


@njit(cache=True)
def amplitude(logarithm):
    """Return 2^(logarithm / 256)."""
    return _OCTAVE[logarithm & 255] * 2.0 ** (logarithm >> 8)


@njit(cache=True)
def _code(mode, coder, buffer, nets, shape, step, envelope, rows, spectrum, price):
    """Code all frames; see `encode`, `decode`, `quantise`. Returns the bits, or -1."""
    coefficient_net, envelope_net = nets
    frames, bins = rows.shape
    sends = envelope.shape[1] > 0
    logs = np.zeros((3, bins + 2 * PAD))
    room = np.zeros((2, coefficient_net.first.shape[1]))
    envelope_room = np.zeros((2, envelope_net.first.shape[1]))
    steps = np.zeros(bins, np.int64)
    levels = np.zeros((3 if sends else 0, bins), np.int64)
    exact = np.zeros(bins if len(spectrum) else 0)
    total = 0.0
    if not sends:
        flat_steps(shape, step, steps)
    for t in range(frames):
        if sends:
            for ahead in range(t if t == 0 else t + 1, min(t + 2, frames)):
                bits = code_envelope_frame(
                    mode, coder, buffer, envelope_net, envelope, ahead, envelope_room
                )
                if bits < 0:
                    return -1.0
                total += bits
            shape_frame(envelope, t, shape, step, steps, levels)
        for k in range(len(exact)):
            exact[k] = spectrum[t, k] / amplitude(steps[k])
        bits = code_frame(
            *(mode, coder, buffer, coefficient_net, rows[t], logs, steps, levels),
            *(exact, price, room),
        )
        if bits < 0:
            return -1.0
        total += bits
        shift(logs)
        if mode == DECODE and coder[arithmetic.PLACE] > len(buffer) + 4:
            return -1.0  # nothing but zeros any more
    return total


class SignalCoder:
    """Codes signals with one pair of networks and one shape.

    Arguments
    ---------
    coefficient_net, envelope_net : IntegerNet
    shape : Shape
    num_bands : int
        Values of an envelope; 0: none is sent.
    """

    def __init__(
        self,
        coefficient_net: IntegerNet,
        envelope_net: IntegerNet,
        shape: Shape,
        num_bands: int,
    ):
        self.nets = (coefficient_net, envelope_net)
        self.shape = shape
        self.num_bands = num_bands

    def quantise(
        self, spectrum: np.ndarray, envelope: np.ndarray, step: int, price: float
    ) -> tuple[Symbols, float]:
        """Choose integers for a spectrum, each for its error and its bits.

        Arguments
        ---------
        spectrum : np.ndarray
            [frames, bins].
        envelope : np.ndarray
            Of `bands.measure_envelope`.
        step : int
            See `bands.STEPS_PER_OCTAVE`.
        price : float
            Squared steps that a bit may save; 0: each is rounded to the nearest.

        Returns
        -------
        (Symbols, float)
            And the bits that they take.
        """
        rows = np.zeros(spectrum.shape, np.int64)
        exact = np.ascontiguousarray(spectrum, np.float64)
        envelope = envelope[:, : self.num_bands]
        bits = self._run(COUNT, _NOTHING, Symbols(envelope, rows), step, exact, price)
        return Symbols(envelope, rows), bits

    def compress(
        self, spectrum: np.ndarray, envelope: np.ndarray, step: int, price: float
    ) -> tuple[Symbols, bytes]:
        """Choose integers as `quantise`, and turn them into bytes on the way."""
        rows = np.zeros(spectrum.shape, np.int64)
        exact = np.ascontiguousarray(spectrum, np.float64)
        symbols = Symbols(envelope[:, : self.num_bands], rows)
        return symbols, self._encode(symbols, step, exact, price)

    def encode(self, symbols: Symbols, step: int) -> bytes:
        """Turn symbols into bytes.

        What can't be sent becomes 0 in them: see `coefficients.SILENT_PROMISE`.
        """
        return self._encode(symbols, step)

    def _encode(self, symbols, step, spectrum=None, price=0.0) -> bytes:
        size = _MOST_BYTES * (symbols.rows.size + symbols.envelope.size) + 64
        buffer = np.zeros(size, np.uint8)
        coder = arithmetic.new_coder()
        self._run(ENCODE, buffer, symbols, step, spectrum, price, coder)
        return buffer[: arithmetic.finish(coder, buffer)].tobytes()

    def decode(self, data: bytes, num_frames: int, step: int) -> Symbols | None:
        """Turn bytes into symbols; None if they can't be of `encode`."""
        bins = len(self.shape.weights)
        # A silent frame is an envelope and no more. Refused before there is room for
        # what a header promises.
        if num_frames * (self.num_bands or bins) > most_symbols(len(data)):
            return None
        coder = arithmetic.new_coder()
        buffer = np.frombuffer(data, np.uint8).copy()
        arithmetic.start_decoding(coder, buffer)
        found = Symbols(
            np.zeros((num_frames, self.num_bands), np.int64),
            np.zeros((num_frames, bins), np.int64),
        )
        bits = self._run(DECODE, buffer, found, step, coder=coder)
        return None if bits < 0 else found

    def _run(self, mode, buffer, symbols, step, spectrum=None, price=0.0, coder=None):
        if spectrum is None:
            spectrum = np.zeros((0, 0))
        if coder is None:
            coder = arithmetic.new_coder()
        return _code(
            *(mode, coder, buffer, self.nets, self.shape, step),
            *(symbols.envelope, symbols.rows, spectrum, price),
        )


_NOTHING = np.zeros(0, np.uint8)
