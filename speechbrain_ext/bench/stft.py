"""Speed of `MultiResolutionSTFTLoss` beside auraloss', same grids, same waveforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from speechbrain_ext.bench.timing import interleaved

from speechbrain_ext.losses import MultiResolutionSTFTLoss

#: [batch, channel, time]: four and sixteen utterances of 2 s at 16 kHz.
SHAPES = ((4, 1, 32000), (16, 1, 32000))
#: What `MultiResolutionSTFTLoss` promises, as a multiple of auraloss' speed.
TARGET = 1.8


def measure(repeats: int = 15) -> dict:
    """Time one forward and backward pass on one thread.

    The values of both losses are compared first: a fast loss that computes something
    else would be no result.

    Arguments
    ---------
    repeats : int
        Rounds; the two take turns in each.

    Returns
    -------
    dict
        Shape to what `interleaved` says of ``ours`` and ``auraloss``; ``difference`` is
        the largest relative difference of the two values.

    Raises
    ------
    ImportError
        If auraloss is not installed (extra ``bench``).
    ArithmeticError
        If the two losses differ by more than 1e-5.
    """
    import auraloss

    losses = {
        "ours": MultiResolutionSTFTLoss(),
        "auraloss": auraloss.freq.MultiResolutionSTFTLoss(),
    }
    report: dict = {"shapes": {}, "difference": 0.0, "target": TARGET}
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(0)
        target = 0.1 * torch.randn(shape, generator=generator)
        prediction = target + 0.03 * torch.randn(shape, generator=generator)
        prediction.requires_grad_()
        values = {n: loss(prediction, target).item() for n, loss in losses.items()}
        difference = abs(values["ours"] / values["auraloss"] - 1)
        if difference > 1e-5:
            raise ArithmeticError(f"bench stft: the two losses differ: {values}")
        report["difference"] = max(report["difference"], difference)
        report["shapes"]["x".join(map(str, shape))] = interleaved(
            {n: _step(loss, prediction, target) for n, loss in losses.items()}, repeats
        )
    return report


def _step(
    loss: torch.nn.Module, prediction: torch.Tensor, target: torch.Tensor
) -> Callable[[], None]:
    def step() -> None:
        prediction.grad = None
        loss(prediction, target).backward()

    return step
