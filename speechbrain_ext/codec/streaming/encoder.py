"""`StreamEncoder`: samples in, bytes out."""

from __future__ import annotations

import numpy as np
from torch import nn

from speechbrain_ext.codec.bands import NUM_STEPS, STEP_ZERO, STEPS_PER_OCTAVE
from speechbrain_ext.codec.container import MODEL_BYTES
from speechbrain_ext.codec.streaming.frames import FrameAnalyser
from speechbrain_ext.codec.streaming.packets import (
    MOST_FRAMES,
    PacketWriter,
    StreamHeader,
)
from speechbrain_ext.codec.streaming.rate import RateControl
from speechbrain_ext.codec.streaming.sides import (
    KINDS,
    check_codec,
    writer_of,
)
from speechbrain_ext.codec.wave import WaveCoder
from speechbrain_ext.models.code_files import CODES
from speechbrain_ext.models.transform_codec import TransformCodec

#: Level of usual speech, and how sizes fall with steps if nothing was learned.
_USUAL_LEVEL, _USUAL_SLOPE = 0.05, -1 / 90


class StreamEncoder:
    """Codes a signal while it comes.

    Whatever pieces the samples come in, the bytes are the same. They are packets (see
    `speechbrain_ext.codec.streaming.packets`), each decodable when it is there.

    Arguments
    ---------
    codec : WaveCodec or TransformCodec
        In evaluation mode, with what it has learned.
    kbps : float or None
        Of a `WaveCodec`: kilobits per second, packets' heads and checksums included;
        each packet gets its own step, see ``window_seconds``. Of a `TransformCodec`:
        most nominal rate of its codes, without heads.
    step : int or None
        Of a `WaveCodec`: one step for all, in [0, 1023], 64 per factor of two; see
        `WaveCoder.compress`. The result is then that of the whole file with this step.
    codebooks : int or None
        Of a `TransformCodec`: quantizers.
    kind : str
        Of a `WaveCodec`: "perceptual" or "fidelity".
    packet_frames : int
        Frames of a packet: each more adds a frame of latency, and shares the packet's
        bytes among more frames.
    restart_every : int
        Each so many packets is one that can be decoded without those before it: where
        packets may be lost. 0: only the first, which takes the fewest bytes.
    window_seconds : float
        What louder and softer parts may even out: any t seconds have no more than
        ``kbps * (t + window_seconds)`` kilobits; a channel of that rate is never
        further behind.

    Attributes
    ----------
    sample_rate : int
        Hz, that of the codec: convert before.
    latency_samples : int
        Once n samples have been pushed, the bytes tell of the first
        n - latency_samples at least. `StreamDecoder.latency_samples` comes on top.

    Raises
    ------
    TypeError
        If the codec has no streams.
    ValueError
        If an argument is out of range, or not exactly one says how finely to code.

    Example
    -------
    >>> from speechbrain_ext.codec.streaming import StreamDecoder
    >>> from speechbrain_ext.models import TransformCodec
    >>> from speechbrain_ext.quantization import ResidualVectorQuantizer
    >>> rvq = ResidualVectorQuantizer(8, num_quantizers=4, codebook_size=16)
    >>> codec = TransformCodec(rvq, hop_samples=160, width=8).eval()
    >>> encoder, decoder = StreamEncoder(codec, codebooks=2), StreamDecoder(codec)
    >>> wave = 0.1 * np.random.default_rng(0).standard_normal(1600)
    >>> chunks = [encoder.push(chunk) for chunk in wave.reshape(5, 320)]
    >>> found = [decoder.push(data) for data in [*chunks, encoder.finish()]]
    >>> np.concatenate(found).shape
    (1600,)
    """

    def __init__(
        self,
        codec: nn.Module,
        *,
        kbps: float | None = None,
        step: int | None = None,
        codebooks: int | None = None,
        kind: str = "perceptual",
        packet_frames: int = 4,
        restart_every: int = 0,
        window_seconds: float = 2.0,
    ):
        check_codec(codec)
        if kind not in KINDS:
            raise ValueError(
                f"StreamEncoder: kind is one of {', '.join(KINDS)}, got {kind!r}"
            )
        if not 1 <= packet_frames <= MOST_FRAMES or restart_every < 0:
            raise ValueError(
                f"StreamEncoder: packet_frames lies in 1 to {MOST_FRAMES}, and "
                f"restart_every is not negative, got {packet_frames} and "
                f"{restart_every}"
            )
        number = CODES if isinstance(codec, TransformCodec) else KINDS[kind]
        self._writer = writer_of(codec, number)
        self.sample_rate = codec.sample_rate
        self.packet_frames = packet_frames
        self._restart_every = restart_every
        hop = self._writer.mdct.hop_samples
        # A block until it is whole, one that overlaps, and the frames to wait for.
        frames = packet_frames + self._writer.look_ahead
        self.latency_samples = (frames + 1) * hop - 1
        self._rate, self._step = None, step
        if number == CODES:
            self._step = _check_codes(codec, kbps, step, codebooks)
        elif codebooks is not None or (kbps is None) == (step is None):
            raise ValueError(
                "StreamEncoder: a WaveCodec takes kbps or step, one of them, got kbps "
                f"{kbps}, step {step}, codebooks {codebooks}"
            )
        elif kbps is not None:
            coder = codec.fidelity if kind == "fidelity" else codec.perceptual
            self._rate = RateControl(
                kbps,
                packet_frames * hop / self.sample_rate,
                window_seconds=window_seconds,
                size_line=_usual_sizes(coder, packet_frames),
            )
        elif not 0 <= step < NUM_STEPS:
            raise ValueError(
                f"StreamEncoder: step lies in 0 to {NUM_STEPS - 1}, got {step}"
            )
        model = codec.digest()[:MODEL_BYTES]
        header = StreamHeader(model, number, self.sample_rate, packet_frames)
        self._packets = PacketWriter(header)
        self._analyser = FrameAnalyser(self._writer.mdct)
        self._begun = self._ended = False
        self._count = 0

    @property
    def latency_ms(self) -> float:
        """`latency_samples` in milliseconds."""
        return 1000 * self.latency_samples / self.sample_rate

    def push(self, samples: np.ndarray) -> bytes:
        """Take samples, and return the bytes that are ready.

        Arguments
        ---------
        samples : np.ndarray
            float, finite, in [-1, 1], [time >= 0], at `sample_rate`.

        Returns
        -------
        bytes
            Whole packets, often none. The first call returns the header.

        Raises
        ------
        ValueError
            If the samples are not such, or the stream is finished.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise ValueError(
                "StreamEncoder: samples must be float, [time], got "
                f"{samples.dtype} {list(samples.shape)}"
            )
        if not np.isfinite(samples).all():
            raise ValueError("StreamEncoder: samples hold NaN or Inf")
        data = [self._begin()]
        for frame in self._analyser.push(samples.astype(np.float32)):
            data += self._take(frame)
        return b"".join(data)

    def finish(self) -> bytes:
        """Return the bytes of all that is left; the stream ends.

        Raises
        ------
        ValueError
            If the stream is finished already.
        """
        data = [self._begin()]
        self._ended = True
        for frame in self._analyser.finish():
            self._writer.push(frame)
        while self._writer.pending > self.packet_frames:
            data.append(self._packet(self.packet_frames))
        samples = self._analyser.num_samples
        data.append(self._packet(self._writer.pending, samples))
        return b"".join(data)

    def _begin(self) -> bytes:
        if self._ended:
            raise ValueError("StreamEncoder: the stream is finished; begin another one")
        header = b"" if self._begun else self._packets.header
        self._begun = True
        return header

    def _take(self, frame: np.ndarray) -> list[bytes]:
        self._writer.push(frame)
        if self._writer.pending < self.packet_frames + self._writer.look_ahead:
            return []
        return [self._packet(self.packet_frames)]

    def _packet(self, count: int, samples: int | None = None) -> bytes:
        """Code so many frames; ``samples`` of the whole stream with the last ones."""
        restarts = self._restart_every > 0
        fresh = self._count == 0 or restarts and samples is not None
        fresh = fresh or restarts and self._count % self._restart_every == 0
        tried: dict[int, tuple] = {}

        def bits(step: int) -> float:
            if step not in tried:
                tried[step] = self._writer.attempt(count, step, fresh=fresh)
            return 8.0 * self._packets.size(tried[step][0], step=step, fresh=fresh)

        step = self._step
        if self._rate is not None:
            step = self._rate.choose(bits)
        bits(step)
        payload, state = tried[step]
        self._writer.keep(count, state)
        self._count += 1
        return self._packets.write(payload, step=step, fresh=fresh, samples=samples)


def _check_codes(codec, kbps, step, codebooks) -> int:
    """Return how many quantizers a stream of codes takes."""
    if step is not None or (kbps is None) == (codebooks is None):
        raise ValueError(
            "StreamEncoder: a TransformCodec takes kbps or codebooks, one of them, got "
            f"kbps {kbps}, step {step}, codebooks {codebooks}"
        )
    if codebooks is None:
        return codec.kbps_to_quantizers(kbps)
    most = codec.quantizer.num_quantizers
    if not 1 <= codebooks <= most:
        raise ValueError(
            f"StreamEncoder: codebooks lies in 1 to {most}, got {codebooks}"
        )
    return codebooks


def _usual_sizes(coder: WaveCoder, packet_frames: int) -> tuple[float, float]:
    """log2 of a packet's bits at step 0, and its slope, for usual speech."""
    start, slope = coder.size_line.tolist()
    slope = slope or _USUAL_SLOPE
    level = STEP_ZERO + STEPS_PER_OCTAVE * np.log2(_USUAL_LEVEL)
    samples = packet_frames * coder.mdct.hop_samples
    return float(np.log2(samples) + start - slope * level), slope
