"""Windowed spectra of a waveform, and the exact way back for their gradients.

``torch.stft`` differentiates through a zero-padded complex FFT and an index-add. Here
the adjoint is a real inverse FFT and a few shifted additions, both deterministic on
every device, and only the samples under the window are ever copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Resolution:
    """One STFT grid: that of ``torch.stft(center=True, pad_mode="reflect")``.

    The window stands first in its FFT frame instead of in the middle. That turns the
    phase of each frame and leaves the power as it is, which is all the losses use.

    Arguments
    ---------
    n_fft : int
        Length of the FFT in samples.
    hop_samples : int
        Step between frames in samples.
    win_samples : int
        Length of the window in samples, at most ``n_fft``.
    """

    n_fft: int
    hop_samples: int
    win_samples: int

    def __post_init__(self) -> None:
        """Refuse grids that no signal can be analysed on."""
        if not 1 <= self.hop_samples:
            raise ValueError(f"STFT: hop_samples is {self.hop_samples}; at least 1")
        if not 2 <= self.win_samples <= self.n_fft:
            raise ValueError(
                f"STFT: win_samples is {self.win_samples}; it must lie between 2 and "
                f"n_fft = {self.n_fft}"
            )

    @property
    def bins(self) -> int:
        """Number of frequencies, 0 Hz and the Nyquist frequency included."""
        return self.n_fft // 2 + 1

    @property
    def before(self) -> int:
        """Samples that the first window reaches out before the signal."""
        return self.n_fft // 2 - (self.n_fft - self.win_samples) // 2

    def frames(self, samples: int) -> int:
        """Return the number of frames of a signal of ``samples`` samples."""
        return 1 + (samples - self.n_fft % 2) // self.hop_samples

    def after(self, samples: int) -> int:
        """Return how many samples the last window reaches out behind the signal."""
        last = (self.frames(samples) - 1) * self.hop_samples - self.before
        return max(0, last + self.win_samples - samples)

    def spectrum(
        self, padded: torch.Tensor, samples: int, window: torch.Tensor
    ) -> torch.Tensor:
        """Complex spectra of all frames.

        Arguments
        ---------
        padded : torch.Tensor
            The signal with its margins, [rows, before + samples + after].
        samples : int
            Length of the signal without margins.
        window : torch.Tensor
            [win_samples], of the dtype of ``padded``.

        Returns
        -------
        torch.Tensor
            [rows, frames, bins].
        """
        frames = self.frames(samples)
        buffer = padded.new_zeros(padded.size(0), frames, self.n_fft)
        views = padded.unfold(-1, self.win_samples, self.hop_samples)[:, :frames]
        torch.mul(views, window, out=buffer[..., : self.win_samples])
        return torch.fft.rfft(buffer)

    def add_adjoint(
        self, grad: torch.Tensor, window: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Carry a gradient from the spectra back to the padded signal.

        Arguments
        ---------
        grad : torch.Tensor
            Gradient with respect to the real and imaginary parts, as a complex tensor
            [rows, frames, bins]. It is overwritten.
        window : torch.Tensor
            The window of the forward pass, [win_samples].
        out : torch.Tensor
            Where the gradient is added, [rows, before + samples + after].
        """
        # irfft counts every inner bin twice (for its mirror image), the adjoint of
        # rfft once.
        grad[..., 1 : (self.n_fft + 1) // 2].mul_(0.5)
        pieces = torch.fft.irfft(grad, n=self.n_fft, norm="forward")
        rows, frames, hop = grad.size(0), grad.size(1), self.hop_samples
        blocks = -(-self.win_samples // hop)
        total = out.new_zeros(rows, frames + blocks, hop)
        for block in range(blocks):
            low, high = block * hop, min((block + 1) * hop, self.win_samples)
            total[:, block : block + frames, : high - low].addcmul_(
                pieces[..., low:high], window[low:high]
            )
        total = total.view(rows, -1)
        length = min(total.size(-1), out.size(-1))
        out[:, :length] += total[:, :length]


def as_rows(
    who: str, prediction: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a pair of waveforms and flatten them to [rows, time] in full precision.

    Arguments
    ---------
    who : str
        Name of the loss, for the messages.
    prediction, target : torch.Tensor
        [batch, time] or [batch, channel, time], any real floating type.

    Returns
    -------
    tuple of torch.Tensor
        Both as [rows, time]; float64 stays, everything shorter becomes float32. The
        target is cut from the graph.

    Raises
    ------
    ValueError
        If the shapes differ, have another rank, or hold no sample.
    TypeError
        If one is not of a real floating type.
    """
    shapes = f"prediction {list(prediction.shape)}, target {list(target.shape)}"
    if prediction.shape != target.shape:
        raise ValueError(f"{who}: shapes differ: {shapes}")
    if prediction.dim() not in (2, 3):
        raise ValueError(
            f"{who}: needs [batch, time] or [batch, channel, time], got {shapes}"
        )
    if prediction.numel() == 0:
        raise ValueError(f"{who}: nothing to compare: {shapes}")
    for name, wav in (("prediction", prediction), ("target", target)):
        if not wav.is_floating_point():
            raise TypeError(f"{who}: {name} must be floating point, got {wav.dtype}")
    double = prediction.dtype == torch.float64
    dtype = torch.float64 if double else torch.float32
    samples = prediction.size(-1)
    return (
        prediction.to(dtype).reshape(-1, samples),
        target.detach().to(dtype).reshape(-1, samples),
    )


def margins(
    who: str, resolutions: tuple[Resolution, ...], samples: int
) -> tuple[int, int]:
    """Return how far the windows of all grids reach over both ends of a signal.

    Raises
    ------
    ValueError
        If the signal is too short to be mirrored that far: it must be longer than
        half of the longest window.
    """
    # Not 'after' below, which depends on the length by one hop: the rule stays simple.
    reach = max(
        max(grid.before, grid.win_samples - grid.before) for grid in resolutions
    )
    if samples <= reach:
        raise ValueError(
            f"{who}: {samples} samples are too few to mirror the ends under a window "
            f"of {max(grid.win_samples for grid in resolutions)}; at least {reach + 1} "
            "are needed. Drop such crops, or choose shorter windows"
        )
    before = max(grid.before for grid in resolutions)
    return before, max(grid.after(samples) for grid in resolutions)


def pad_mirrored(wav: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """Continue [rows, time] at both ends by its mirror image."""
    return F.pad(wav.unsqueeze(1), (before, after), mode="reflect").squeeze(1)


def unpad_mirrored(grad: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """Adjoint of `pad_mirrored`: fold the gradient of the margins back inwards."""
    samples = grad.size(-1) - before - after
    inner = grad[:, before : before + samples].clone()
    inner[:, 1 : before + 1] += grad[:, :before].flip(-1)
    inner[:, samples - 1 - after : samples - 1] += grad[:, before + samples :].flip(-1)
    return inner


class WindowedLoss(torch.nn.Module):
    """Base of the spectral losses: their grids, and constants that stay float32.

    Windows (and what a subclass adds) are non-persistent buffers, so they follow the
    module to its device, cost nothing per step and appear in no checkpoint.
    ``module.half()`` and the like would round them: they are made anew instead.
    """

    def __init__(self, fft_sizes, hop_sizes, win_lengths) -> None:
        super().__init__()
        sizes = [list(fft_sizes), list(hop_sizes), list(win_lengths)]
        if not sizes[0] or len({len(numbers) for numbers in sizes}) != 1:
            raise ValueError(
                f"{type(self).__name__}: fft_sizes, hop_sizes and win_lengths need "
                f"the same number of entries, at least one; got {sizes}"
            )
        self.resolutions = tuple(Resolution(*grid) for grid in zip(*sizes, strict=True))
        self.register_constants("window", self.make_windows)

    def make_windows(self) -> list[torch.Tensor]:
        """Make one periodic Hann window per grid, float32."""
        return [torch.hann_window(grid.win_samples) for grid in self.resolutions]

    def register_constants(self, name, make) -> None:
        """Register one float32 buffer per grid; ``make`` returns them as a list."""
        self.__dict__.setdefault("_makers", {})[name] = make
        for index, value in enumerate(make()):
            self.register_buffer(f"{name}_{index}", value.float(), persistent=False)

    def constants(self, name: str, like: torch.Tensor) -> list[torch.Tensor]:
        """Return the buffers of one name on the device and in the dtype of ``like``."""
        return [
            getattr(self, f"{name}_{index}").to(like)
            for index in range(len(self.resolutions))
        ]

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        device = self.window_0.device
        for name, make in self._makers.items():
            for index, value in enumerate(make()):
                self._buffers[f"{name}_{index}"] = value.float().to(device)
        return self
