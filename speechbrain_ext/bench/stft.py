"""Multi-resolution STFT loss: ours beside auraloss'."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from speechbrain_ext.bench.timing import (
    compare,
    import_peer,
    peak_step_mib,
    peer_versions,
    spread,
    time_interleaved,
)
from speechbrain_ext.losses import MultiResolutionSTFTLoss

#: [batch, channel, time] at 16 kHz: crops of 1 s as in training, and longer ones.
SHAPES = ((12, 1, 16000), (4, 1, 32000), (16, 1, 32000))
SEED = 0
#: Times as fast as auraloss, as promised.
GOAL = 1.8


def measure(repeats: int, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> dict:
    """Time forward and backward of both losses in turn.

    Both have the same three grids, which are the defaults of both, and return the same
    value. One thread; float32.

    Arguments
    ---------
    repeats : int
        Rounds of `time_interleaved`.
    shapes : tuple of tuple of int
        Shapes of the waveforms, [batch, channel, time].

    Returns
    -------
    dict
        ``title``, ``setting``, ``peers`` (versions), ``subjects`` (milliseconds, MiB
        and value by name), ``comparisons`` (see `compare`).

    Raises
    ------
    UserError
        If auraloss is not installed.
    ArithmeticError
        If the two losses differ by more than 1e-5: then their speeds don't compare.
    """
    auraloss = import_peer("auraloss", "auraloss")
    losses = {
        "ours": MultiResolutionSTFTLoss(),
        "auraloss": auraloss.freq.MultiResolutionSTFTLoss(),
    }
    subjects, comparisons = {}, []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for shape in shapes:
            pair = _waveforms(shape)
            label = "x".join(map(str, shape))
            steps = {f"{n}, {label}": _step(loss, *pair) for n, loss in losses.items()}
            values = [step() for step in steps.values()]
            if not math.isclose(*values, rel_tol=1e-5):
                raise ArithmeticError(f"bench: the losses differ: {values} for {label}")
            times = time_interleaved(steps, repeats)
            comparisons.append(compare(times, *steps, GOAL))
            for (name, step), value in zip(steps.items(), values, strict=True):
                subjects[name] = {
                    "milliseconds": spread([1e3 * seconds for seconds in times[name]]),
                    "step_mib": round(peak_step_mib(step), 1),
                    "loss": round(value, 7),
                }
    finally:
        torch.set_num_threads(threads)
    return {
        "title": "Multi-resolution STFT loss",
        "setting": "FFT 1024, 2048, 512; [batch, channel, time] as said, forward and "
        f"backward, float32, 1 thread, {repeats} interleaved rounds",
        "peers": peer_versions(["auraloss"]),
        "subjects": subjects,
        "comparisons": comparisons,
    }


def _waveforms(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    target = 0.1 * torch.randn(shape, generator=generator)
    prediction = target + 0.03 * torch.randn(shape, generator=generator)
    return prediction.requires_grad_(), target


def _step(
    loss: torch.nn.Module, prediction: torch.Tensor, target: torch.Tensor
) -> Callable[[], float]:
    def step() -> float:
        prediction.grad = None
        value = loss(prediction, target)
        value.backward()
        return value.item()

    return step
