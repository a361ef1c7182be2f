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
from speechbrain_ext.codec.unary_net import IntegerNet, new_scratch

#: A fixed-point logarithm of a step -> the step.
_OCTAVE = 2.0 ** (np.arange(256) / 256)
#: A coefficient takes no more bytes than this, however unlikely.
MOST_BYTES = 16


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
def _code(
    mode, coder, buffer, nets, shape, step, envelope, rows, spectrum, price, logs, span
):
    """Code the frames of a span; returns the bits, or -1.

    See `encode`, `decode`, `quantise`. ``logs`` is the context that frames before left.
    """
    coefficient_net, envelope_net = nets
    frames, bins = rows.shape
    sends = envelope.shape[1] > 0
    scratch, other_scratch = new_scratch(coefficient_net), new_scratch(envelope_net)
    steps = np.zeros(bins, np.int64)
    levels = np.zeros((3 if sends else 0, bins), np.int64)
    exact = np.zeros(bins if len(spectrum) else 0)
    total = 0.0
    if not sends:
        flat_steps(shape, step, steps)
    for t in range(span[0], span[1]):
        if sends:
            for ahead in range(t if t == 0 else t + 1, min(t + 2, frames)):
                bits = code_envelope_frame(
                    mode, coder, buffer, envelope_net, envelope, ahead, other_scratch
                )
                if bits < 0:
                    return -1.0
                total += bits
            shape_frame(envelope, t, shape, step, steps, levels)
        for k in range(len(exact)):
            exact[k] = spectrum[t, k] / amplitude(steps[k])
        bits = code_frame(
            *(mode, coder, buffer, coefficient_net, rows[t], logs, steps, levels),
            *(exact, price, scratch),
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

    def _encode(
        self, symbols, step, spectrum=None, price=0.0, logs=None, span=None
    ) -> bytes:
        size = MOST_BYTES * (symbols.rows.size + symbols.envelope.size) + 64
        buffer = np.zeros(size, np.uint8)
        coder = arithmetic.new_coder()
        self._run(ENCODE, buffer, symbols, step, spectrum, price, coder, logs, span)
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

    # -- in pieces -----------------------------------------------------------------

    def new_logs(self) -> np.ndarray:
        """Return the context of a signal's first frame: silence."""
        return np.zeros((3, len(self.shape.weights) + 2 * PAD))

    def encode_span(
        self,
        spectrum: np.ndarray,
        envelope: np.ndarray,
        span: tuple[int, int],
        step: int,
        price: float,
        logs: np.ndarray,
    ) -> bytes:
        """Quantise some frames of a signal, and turn them into bytes of their own.

        Arguments
        ---------
        spectrum, envelope : np.ndarray
            Of the frames and of those around them, [frames, bins], [frames, bands]:
            the one before, unless a signal begins here, and where an envelope is sent
            the one behind, unless it ends here.
        span : (int, int)
            Which of the frames: from, to. With a frame before, its envelope and that
            of the first were sent already.
        step, price
            As `quantise` takes them.
        logs : np.ndarray
            Of `new_logs`; moved on.
        """
        exact = np.ascontiguousarray(spectrum, np.float64)
        symbols = Symbols(
            envelope[:, : self.num_bands], np.zeros(exact.shape, np.int64)
        )
        return self._encode(symbols, step, exact, price, logs, span)

    def decode_span(
        self,
        data: bytes,
        envelope: np.ndarray,
        span: tuple[int, int],
        step: int,
        logs: np.ndarray,
    ) -> np.ndarray | None:
        """Undo `encode_span`.

        Arguments
        ---------
        data : bytes
        envelope : np.ndarray
            As there; what was not sent before is filled in.
        span, step, logs
            As there.

        Returns
        -------
        np.ndarray or None
            Integers, [frames, bins], 0 around the span; None if there can be no such.
        """
        rows = np.zeros((len(envelope), len(self.shape.weights)), np.int64)
        buffer = np.frombuffer(data, np.uint8).copy()
        coder = arithmetic.new_coder()
        arithmetic.start_decoding(coder, buffer)
        parts = (DECODE, buffer, Symbols(envelope, rows), step, None, 0.0, coder)
        bits = self._run(*parts, logs, span)
        return None if bits < 0 else rows

    def _run(
        self,
        mode,
        buffer,
        symbols,
        step,
        spectrum=None,
        price=0.0,
        coder=None,
        logs=None,
        span=None,
    ):
        if spectrum is None:
            spectrum = np.zeros((0, 0))
        if coder is None:
            coder = arithmetic.new_coder()
        if logs is None:
            logs, span = self.new_logs(), (0, len(symbols.rows))
        return _code(
            *(mode, coder, buffer, self.nets, self.shape, step),
            *(symbols.envelope, symbols.rows, spectrum, price, logs, span),
        )


_NOTHING = np.zeros(0, np.uint8)
