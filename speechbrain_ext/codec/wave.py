"""One way to code a waveform: a transform, its settings, and what it has learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from speechbrain_ext.codec import bands, coefficients, envelope
from speechbrain_ext.codec.guesses import (
    PLAIN_CURVE,
    RoundedRatio,
    SizeCurve,
    fit_curve,
    some_frames,
)
from speechbrain_ext.codec.learn import fit_unary_net
from speechbrain_ext.codec.post_filter import REACH, Decoded, decoded_of
from speechbrain_ext.codec.rate_control import find_costly_crossing, find_crossing
from speechbrain_ext.codec.settings import WaveSettings
from speechbrain_ext.codec.signal import SignalCoder, Symbols
from speechbrain_ext.codec.synthesis import (
    NUM_CENTROIDS,
    dequantise,
    find_centroids,
)
from speechbrain_ext.codec.unary_net import IntegerNet, integer_net
from speechbrain_ext.models.mdct import MDCT

#: Signals are quantised to these parts of non-zeros to learn from.
_DENSITIES = (0.03, 0.07, 0.15)
#: ... and without an envelope, where every decibel counts, to these.
_FLAT_DENSITIES = (0.1, 0.2, 0.35)
#: Where plain rounding puts the threshold, to learn before there are prices.
_THRESHOLD = 0.36
#: Frames to learn from, at most; more change nothing.
_MOST_FRAMES = 12_000
#: Frames that are made into a spectrum at once, and those beside that they depend on:
#: by the post-filter, and by the steps.
_BLOCK, _BESIDE = 4096, REACH + 1
#: Of a recording of more frames, what was tried is made again and not kept.
_MOST_KEPT = 10 * _BLOCK
#: A rate is met if no more than this part of it is left (as a logarithm to base 2).
_NEAR_BITS = 0.01
#: A ratio is met if no more than this is too much, dB: a little over a step.
_NEAR_DB = 0.12
#: Steps at which sizes are measured, to guess from; a line for those of usual rates.
_PROBES, _USUAL_PROBES = (-192, -96, 0, 96), 3
#: Integers may be this large, log2: an escape tells of no more.
_MOST_OCTAVES = 20


class WaveCoder(nn.Module):
    """Turns waveforms into bytes, and bytes into waveforms.

    MDCT, envelope of 6 dB steps, noise-shaped steps, coefficients chosen for error and
    bits, learned contexts, noise where nothing was sent. What it learns are buffers;
    nothing in it has a gradient.

    Arguments
    ---------
    settings : WaveSettings
    sample_rate : int
        Hz.
    hop_samples : int
        Coefficients per frame.
    window : str
        See `princen_bradley_window`.
    hidden : int
        Units of the network of coefficients; that of the envelope has fewer.
    post_filter : PostFilter or None
        Mends what is decoded; trained by whoever owns this.

    Example
    -------
    >>> coder = WaveCoder(WaveSettings(), hidden=8)
    >>> noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    >>> coder.learn([noise], steps=80, seed=0)
    >>> data, step = coder.compress(noise, bits=4000)
    >>> len(data) <= 500, coder.decompress(data, step, 16000).shape
    (True, (16000,))
    """

    def __init__(
        self,
        settings: WaveSettings,
        *,
        sample_rate: int = 16000,
        hop_samples: int = 256,
        window: str = "kbd",
        hidden: int = 32,
        post_filter: nn.Module | None = None,
    ):
        super().__init__()
        self.settings = settings
        self.post_filter = post_filter
        self.sample_rate = sample_rate
        self.mdct = MDCT(hop_samples, window)
        # In float64 frames are alike however many are transformed at a time: a stream
        # finds the same integers.
        self.analysis = MDCT(hop_samples, window).double()
        self.edges = bands.band_edges(hop_samples, sample_rate)
        self.num_bands = len(self.edges) - 1
        features = coefficients.NEIGHBOURS
        if settings.sends_envelope:
            features += coefficients.PROMISES
        shapes = {
            "coefficients": (features, hop_samples, coefficients.SYMBOLS, hidden),
            "envelope": (
                *(envelope.FEATURES, self.num_bands, envelope.SYMBOLS),
                max(hidden * 3 // 4, 1),
            ),
        }
        for part, sizes in shapes.items():
            for name, shape in _net_shapes(*sizes).items():
                self.register_buffer(
                    f"{part}_{name}", torch.zeros(shape, dtype=torch.int32)
                )
        self.register_buffer("centroids", torch.zeros(NUM_CENTROIDS).double())
        # Only to guess from: log2 of bits per sample at a level of 1 and its slope for
        # usual speech, and what a spectrum tells of its own.
        self.register_buffer("size_line", torch.zeros(2).double())
        self.register_buffer("size_curve", torch.tensor(PLAIN_CURVE).double())

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        """Load weights, also those from before spectra told of sizes."""
        state_dict.setdefault(f"{prefix}size_curve", self.size_curve)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # -- learning ----------------------------------------------------------------

    @torch.no_grad()
    def learn(
        self,
        waves: Sequence[np.ndarray],
        *,
        steps: int,
        seed: int,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Learn contexts, centroids and sizes.

        Arguments
        ---------
        waves : sequence of np.ndarray
            [time] each.
        steps : int
            Of the network of coefficients; half as many of that of the envelope.
        seed : int
        progress : callable or None
            Called after each step.
        """
        rng = np.random.default_rng(seed)
        spectra = [self.analyse(wave) for wave in waves]
        levels = [bands.measure_envelope(x, self.edges) for x in spectra]
        kept = {"hidden": self.coefficients_first.shape[1], "steps": steps}
        kept |= {"seed": seed, "progress": progress}
        features, symbols, at = self._examples(spectra, levels, rng)
        with torch.enable_grad():
            tensors, _ = fit_unary_net(
                *(features, symbols),
                coefficients.place_features(self.mdct.hop_samples),
                coefficients.SYMBOLS,
                at=at,
                **kept,
            )
        self._keep("coefficients", tensors)
        if self.settings.sends_envelope:
            pairs = [envelope.all_features(level) for level in levels]
            features = np.concatenate([f for f, _ in pairs]).astype(np.float32)
            changes = np.concatenate([c for _, c in pairs])
            kept["hidden"] = self.envelope_first.shape[1]
            kept["steps"] = max(steps // 2, 1)
            with torch.enable_grad():
                tensors, _ = fit_unary_net(
                    *(features, np.minimum(changes, envelope.SYMBOLS)),
                    *(envelope.place_features(self.num_bands), envelope.SYMBOLS),
                    **kept,
                )
            self._keep("envelope", tensors)
        self._measure_sizes(spectra, levels)

    def _examples(self, spectra, levels, rng) -> tuple[np.ndarray, ...]:
        """Features, symbols and places of frames, quantised finely and coarsely."""
        sends = self.settings.sends_envelope
        densities = _DENSITIES if sends else _FLAT_DENSITIES
        total = len(densities) * sum(map(len, spectra))
        share = min(1.0, _MOST_FRAMES / total)
        features, symbols, at = [], [], []
        for x, level in zip(spectra, levels, strict=True):
            for density in densities:
                step = self._step_of_density(x, level, density)
                steps, promised = self._steps(level, step, len(x))
                exact = np.abs(x) / 2.0 ** (steps / 256)
                rows = np.floor(exact + _THRESHOLD).astype(np.int64)
                chosen = np.broadcast_to(rng.random((len(x), 1)) < share, x.shape)
                shaped = None
                if sends:
                    shaped = (steps, promised)
                    silent = promised[:, 1] - steps < coefficients.SILENT_PROMISE
                    rows[silent] = 0
                    chosen = chosen & ~silent
                found = coefficients.all_features(rows, shaped)
                features.append(found.reshape(*rows.shape, -1)[chosen])
                symbols.append(coefficients.symbols_of(rows[chosen]))
                at.append(np.nonzero(chosen)[1])
        return tuple(map(np.concatenate, (features, symbols, at)))

    def _step_of_density(self, x, level, density: float) -> int:
        """Step with which so large a part of the coefficients is not zero."""

        def part(step: int) -> float:
            steps, _ = self._steps(level, step, len(x))
            return float((np.abs(x) >= (1 - _THRESHOLD) * 2.0 ** (steps / 256)).mean())

        return min(find_crossing(part, density), bands.NUM_STEPS - 1)

    def _measure_sizes(self, spectra, levels) -> None:
        """Learn centroids, and how sizes fall with steps."""
        exacts, rows, sizes, measured = [], [], [], []
        heard = [p for p in zip(spectra, levels, strict=True) if p[0].any()]
        for x, level in heard[:6]:
            middle = self._step_of_density(x, level, _DENSITIES[1])
            curve = self._sizes(x, level)
            for probe in _PROBES:
                step = int(np.clip(middle + probe, 0, bands.NUM_STEPS - 1))
                symbols, bits = self.coder().quantise(
                    x, level, step, self.settings.price
                )
                sizes.append((step - _loudness(x), np.log2(max(bits, 1) / x.size)))
                measured.append(curve.measure(step))
                if probe == 0:
                    steps, _ = self._steps(level, step, len(x))
                    exacts.append((x / 2.0 ** (steps / 256)).ravel())
                    rows.append(symbols.rows.ravel())
        found = find_centroids(np.concatenate(exacts), np.concatenate(rows))
        self.centroids.copy_(torch.from_numpy(found))
        where, taken = np.array(sizes).T
        usual = np.arange(len(taken)) % len(_PROBES) >= len(_PROBES) - _USUAL_PROBES
        slope, start = np.polyfit(where[usual], taken[usual], 1)
        self.size_curve.copy_(torch.from_numpy(fit_curve(np.array(measured), taken)))
        self.size_line.copy_(torch.tensor([start, min(slope, -1e-3)]))

    # -- coding ------------------------------------------------------------------

    def analyse(self, wave: np.ndarray) -> np.ndarray:
        """Return the spectrum of [time], float64 [frames, bins]."""
        signal = torch.from_numpy(np.asarray(wave, np.float32))[None]
        blocks = self.analysis.blocks(signal.to(self.analysis.dct.device))
        made = np.empty((blocks.shape[1] - 1, blocks.shape[2]))
        for start in range(0, len(made), _BLOCK):  # an hour takes gigabytes at once
            part = self.analysis.transform(blocks[:, start : start + _BLOCK + 1])
            made[start : start + _BLOCK] = part[0].cpu().numpy()
        return made

    def compress(
        self,
        wave: np.ndarray,
        *,
        bits: float | None = None,
        snr: float | None = None,
        step: int | None = None,
    ) -> tuple[bytes, int]:
        """Code a waveform.

        Arguments
        ---------
        wave : np.ndarray
            [time], finite.
        bits : float or None
            At most so many, or what the coarsest step takes.
        snr : float or None
            At least so many dB; silence has any.
        step : int or None
            See `bands.STEPS_PER_OCTAVE`; one of the three is given.

        Returns
        -------
        (bytes, int)
            Payload, and the step that `decompress` needs.

        Raises
        ------
        ValueError
            If no step is fine enough for ``snr``.
        """
        x = self.analyse(wave)
        level = bands.measure_envelope(x, self.edges)
        coder, price = self.coder(), self.settings.price
        tried: dict[int, tuple[Symbols, bytes]] = {}

        def coded(at: int) -> tuple[Symbols, bytes]:
            found = tried.get(at) or coder.compress(x, level, at, price)
            if len(x) <= _MOST_KEPT:
                tried[at] = found
            return found

        if not x.any() and step is None:
            step = bands.NUM_STEPS - 1  # finer ones cost bits, and make nothing better
        elif bits is not None:
            step = find_costly_crossing(
                lambda at: np.log2(8 * len(coded(at)[1]) + 1),
                np.log2(bits + 1),
                self._sizes(x, level),
                near=_NEAR_BITS,
                trusted=2 * _NEAR_BITS,
            )
        elif snr is not None:

            def ratio(at: int) -> float:
                blocks = self._blocks(coded(at)[0], at)
                made = [
                    decoded.values[0, skip:].numpy()[: place.stop - place.start]
                    for place, decoded, skip in blocks
                ]
                return _snr(x, np.concatenate(made))

            least = _finest_step(x)
            found = {"near": _NEAR_DB, "least": least}
            some = some_frames(len(x))
            steps, _ = self._steps(level[some], bands.STEP_ZERO, len(x[some]))
            rough = RoundedRatio(x[some], steps, _THRESHOLD)
            step = find_costly_crossing(ratio, snr + _NEAR_DB, rough, **found)
            step = min(step, bands.NUM_STEPS - 1)
            if ratio(step) < snr:
                step -= 1  # a step may change more than is near
            if step < least:
                raise ValueError(
                    f"snr {snr:g}: so quiet or short a recording holds "
                    f"{np.floor(10 * ratio(least)) / 10:g} dB at most"
                )
            return coded(step)[1], _named_step(step)
        step = int(np.clip(step, 0, bands.NUM_STEPS - 1))
        return coded(step)[1], step

    def decompress(self, data: bytes, step: int, num_samples: int) -> np.ndarray | None:
        """Undo `compress`; None if the bytes can't be of it. float32 [num_samples]."""
        if step >= bands.NUM_STEPS:
            step = _named_step(step)
            if self.settings.sends_envelope or step < -bands.FINER_STEPS:
                return None
        frames = self.mdct.num_frames(num_samples)
        symbols = self.coder().decode(data, frames, step)
        if symbols is None:
            return None
        made = np.empty(symbols.rows.shape, np.float32)
        for place, decoded, skip in self._blocks(symbols, step):
            found = self._mended_here(decoded)[0, skip:].cpu().numpy()
            made[place] = found[: len(made[place])]
        hop, wave = self.mdct.hop_samples, np.empty(num_samples, np.float32)
        for start in range(0, frames - 1, _BLOCK):
            part = torch.from_numpy(made[start : start + _BLOCK + 1])[None]
            found = self.mdct.inverse(part.to(self.mdct.dct.device))[0].cpu().numpy()
            place = wave[start * hop : (start + _BLOCK) * hop]
            place[:] = found[: len(place)]
        return wave

    def synthesise(self, decoded: Decoded, num_samples: int) -> np.ndarray:
        """Return the waveform of what was decoded, float32 [num_samples]."""
        made = self.mdct.inverse(self._mended_here(decoded), length=num_samples)
        return made[0].cpu().numpy()

    @torch.no_grad()
    def _mended_here(self, decoded: Decoded) -> torch.Tensor:
        device = self.mdct.dct.device
        return self.mended(Decoded(*(part.to(device) for part in decoded)))

    def _blocks(
        self, symbols: Symbols, step: int
    ) -> Iterator[tuple[slice, Decoded, int]]:
        """Yield what a decoder knows, block by block: an hour has millions of bins.

        Each comes with the frames that it is for, and how many before them it has
        beside; there are some behind, too.
        """
        total = len(symbols.rows)
        for start in range(0, total, _BLOCK):
            end = min(start + _BLOCK, total)
            low, high = max(start - _BESIDE, 0), min(end + _BESIDE, total)
            part = Symbols(symbols.envelope[low:high], symbols.rows[low:high])
            yield slice(start, end), self.decoded(part, step, low), start - low

    def mended(
        self,
        decoded: Decoded,
        strength: float | None = None,
        filtered: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return a spectrum with the post-filter's change, [batch, frames, bins].

        Arguments
        ---------
        decoded : Decoded
        strength : float or None
            Part of the change; None: that of the settings.
        filtered : torch.Tensor or None
            What the post-filter makes of it, if that is known.
        """
        plain = decoded.values + decoded.noise
        strength = self.settings.filter_strength if strength is None else strength
        if self.post_filter is None or strength == 0:
            return plain
        if filtered is None:
            filtered = self.post_filter(decoded)
        return plain + strength * (filtered - plain)

    def coder(self) -> SignalCoder:
        """Return the coder of symbols, from the buffers as they are."""
        sends = self.settings.sends_envelope
        return SignalCoder(
            self._net("coefficients"),
            self._net("envelope"),
            self._shape(),
            self.num_bands if sends else 0,
        )

    def _shape(self) -> bands.Shape:
        weights = self.settings.band_weights(self.num_bands)
        return bands.make_shape(self.edges, self.settings.gamma, weights)

    def _steps(self, level, step: int, frames: int):
        """log2 of steps [frames, bins], and levels, where an envelope is sent."""
        if self.settings.sends_envelope:
            return bands.shape_signal(level, self._shape(), step)
        steps = np.empty(self.mdct.hop_samples, np.int64)
        bands.flat_steps(self._shape(), step, steps)
        return np.broadcast_to(steps, (frames, len(steps))), None

    def quantise(self, x: np.ndarray, kbps: float) -> tuple[Symbols, int]:
        """Quantise a spectrum to about so many kbps, and return the step.

        Once, at the step that `learn` expects to give this rate: near enough to learn
        from, at a fraction of what `compress` takes.
        """
        seconds = len(x) * self.mdct.hop_samples / self.sample_rate
        level = bands.measure_envelope(x, self.edges)
        step = self.guess(x, level, 1000 * kbps * seconds)
        return self.coder().quantise(x, level, step, self.settings.price)[0], step

    def decoded(self, symbols: Symbols, step: int, first: int = 0) -> Decoded:
        """Return all that a decoder knows of symbols.

        Arguments
        ---------
        symbols : Symbols
        step : int
        first : int
            Number of the first frame; the noise depends on it.
        """
        steps, levels = self._steps(symbols.envelope, step, len(symbols.rows))
        values, noise = dequantise(
            symbols,
            steps,
            self.edges,
            centroids=self.centroids.cpu().numpy(),
            fill=self.settings.band_fill(self.num_bands),
            fill_cap=self.settings.fill_cap,
            first=first,
        )
        levels = np.zeros_like(steps) if levels is None else levels[:, 1]
        return decoded_of(symbols.rows, values, noise, steps, levels)

    def guess(self, x: np.ndarray, level: np.ndarray, bits: float) -> int:
        """Return a step that may take about so many bits for a spectrum."""
        step = find_crossing(self._sizes(x, level), np.log2(max(bits, 1)))
        return min(step, bands.NUM_STEPS - 1)

    def _sizes(self, x: np.ndarray, level: np.ndarray) -> SizeCurve:
        some, total = some_frames(len(x)), len(x)
        x = x[some]
        steps, promised = self._steps(level[some], bands.STEP_ZERO, len(x))
        promised = None if promised is None else promised[:, 1]
        return SizeCurve(x, steps, promised, self.size_curve.cpu().numpy(), total)

    def _net(self, part: str) -> IntegerNet:
        return integer_net(
            {name: getattr(self, f"{part}_{name}") for name in IntegerNet._fields}
        )

    def _keep(self, part: str, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            getattr(self, f"{part}_{name}").copy_(tensor)


def _net_shapes(features: int, places: int, symbols: int, hidden: int) -> dict:
    return {
        "bias": (places, hidden),
        "first": (features, hidden),
        "second": (hidden, hidden),
        "second_bias": (hidden,),
        "last": (hidden, symbols),
        "last_bias": (symbols,),
    }


def _snr(x: np.ndarray, made: np.ndarray) -> float:
    """Signal-to-noise ratio of a spectrum, dB."""
    power, error = float(np.square(x).sum()), float(np.square(x - made).sum())
    return 10 * np.log10(max(power, 1e-30) / max(error, 1e-30))


def _finest_step(x: np.ndarray) -> int:
    """Finest step with which all of a spectrum can be told."""
    peak = bands.STEPS_PER_OCTAVE * np.log2(max(float(np.abs(x).max()), 1e-30))
    most = bands.STEPS_PER_OCTAVE * _MOST_OCTAVES
    return max(bands.STEP_ZERO + int(np.ceil(peak)) - most, -bands.FINER_STEPS)


def _named_step(step: int) -> int:
    """Return what a file calls a step, and back: -1 is `bands.NUM_STEPS`."""
    return step if 0 <= step < bands.NUM_STEPS else bands.NUM_STEPS - 1 - step


def _loudness(x: np.ndarray) -> int:
    """Step that is the root mean square of a spectrum."""
    rms = max(float(np.sqrt(np.square(x).mean())), 1e-9)
    return bands.STEP_ZERO + round(bands.STEPS_PER_OCTAVE * np.log2(rms))
