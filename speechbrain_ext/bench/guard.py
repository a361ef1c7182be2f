"""What `NaNSafeBrain` adds to a step, isolated, as a share of the step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import speechbrain
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from torch import nn
from torch.utils.data import DataLoader

from speechbrain_ext.bench.timing import spread, time_interleaved
from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.quantization import ResidualVectorQuantizer

SEED = 0
#: Batches of one epoch, so that two snapshots and both ends of an epoch are in.
BATCHES = 100
#: Steps of the whole model that are timed in each round.
STEPS = 2
#: At most this share of a step of 10 ms or more, in per cent.
GOAL = 1.0


@dataclass(frozen=True)
class Size:
    """One model and its batch; ``width`` scales channels, ``samples`` are at 16 kHz."""

    model: str
    width: int
    batch: int
    samples: int


#: About 10, 40 and 150 ms a step on one thread.
SIZES = {
    "speaker, about 10 ms": Size("speaker", 8, 4, 4000),
    "speaker, about 40 ms": Size("speaker", 24, 8, 12000),
    "speaker, about 150 ms": Size("speaker", 48, 16, 24000),
    "codec, about 10 ms": Size("codec", 8, 8, 6400),
    "codec, about 40 ms": Size("codec", 16, 16, 16000),
    "codec, about 150 ms": Size("codec", 32, 32, 24000),
}


class _Stays(torch.optim.Adam):
    """Passes through all hooks of a step, and does nothing: both sides pay for it."""

    @torch.no_grad()
    def step(self, closure=None):
        return None


class _Presets(torch.autograd.Function):
    """A loss whose backward hands out gradients that were made before."""

    @staticmethod
    def forward(context, gradients, *parameters):
        context.gradients = gradients
        return parameters[0].new_ones(())

    @staticmethod
    def backward(context, grad):
        return None, *context.gradients


def measure(repeats: int, sizes: dict[str, Size] | None = None) -> dict:
    """Time what the guard adds to a step, and the step.

    Whole steps of the two Brains differ by far less than two equal steps do on a
    shared machine. So the guard is isolated: both Brains run a whole ``fit`` of
    `BATCHES` batches on the same modules and batches, in which forward does nothing,
    backward hands out gradients made before, and the optimizer's step is empty. What
    is left is what surrounds a step; the difference of the two is the guard: the copy
    of buffers and streams, the probe and the verdict beside stock's own check and
    clipping, snapshots, the journal's copies of the batches, held log lines, and both
    ends of an epoch. It is set against the step of stock Brain with the true forward,
    backward and Adam in the same round.

    Arguments
    ---------
    repeats : int
        Rounds of `time_interleaved`.
    sizes : dict[str, Size] or None
        What to measure; None: `SIZES`.

    Returns
    -------
    dict
        ``title``, ``setting``, ``peers``, ``subjects`` (milliseconds of the step,
        microseconds of the guard, per cent, all as `spread`), no ``comparisons``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        subjects = {
            name: _measure_one(size, repeats)
            for name, size in (SIZES if sizes is None else sizes).items()
        }
    finally:
        logging.disable(level)
        torch.set_num_threads(threads)
    return {
        "title": "Cost of the guard",
        "setting": f"everything that NaNSafeBrain adds to a step of speechbrain.Brain, "
        f"isolated (forward, backward and optimizer stubbed, {BATCHES} batches an "
        f"epoch), over the whole step; default policy; float32, 1 thread, {repeats} "
        f"interleaved rounds; goal: at most {GOAL:g} % of steps of 10 ms or more",
        "peers": {},
        "subjects": subjects,
        "comparisons": [],
    }


def _measure_one(size: Size, repeats: int) -> dict:
    calls = {
        "step": make_step(size),
        "stock": make_surroundings(speechbrain.Brain, size),
        "ours": make_surroundings(NaNSafeBrain, size),
    }
    times = time_interleaved(calls, repeats)
    steps = [seconds / STEPS for seconds in times["step"]]
    added = [
        (ours - stock) / BATCHES
        for ours, stock in zip(times["ours"], times["stock"], strict=True)
    ]
    shares = [100 * a / b for a, b in zip(added, steps, strict=True)]
    return {
        "milliseconds": spread([1e3 * seconds for seconds in steps]),
        "guard_microseconds": spread([1e6 * seconds for seconds in added], digits=1),
        "per_cent": spread(shares),
    }


def make_step(size: Size) -> Callable[[], None]:
    """Make a function that runs `STEPS` whole steps of stock Brain."""
    brain = _brain(speechbrain.Brain, size, torch.optim.Adam)
    batch = _batches(size, 1)[0]
    brain.init_optimizers()
    brain.modules.train()
    brain.step = 1

    def step() -> None:
        for _ in range(STEPS):
            brain.fit_batch(batch)

    return step


def make_surroundings(base: type, size: Size) -> Callable[[], None]:
    """Make a function that runs one epoch in which no step computes anything.

    Arguments
    ---------
    base : type
        ``speechbrain.Brain`` or `NaNSafeBrain`.
    size : Size
        Whose modules, gradients and batches are used.
    """
    brain = _brain(base, size, _Stays)
    learned = [p for p in brain.modules.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(SEED)
    gradients = [1e-3 * torch.randn(p.shape, generator=generator) for p in learned]
    brain.compute_forward = lambda batch, stage: None
    brain.compute_objectives = lambda predictions, batch, stage: _Presets.apply(
        gradients, *learned
    )
    for module in brain.modules.modules():
        if hasattr(module, "commit_statistics"):
            # What a codebook learns is the model's work; stock does it in forward.
            module.commit_statistics = lambda: None
    loader = DataLoader(_batches(size, BATCHES), batch_size=None)
    return lambda: brain.fit(range(1), loader)


def _batches(size: Size, count: int) -> list[dict]:
    generator = torch.Generator().manual_seed(SEED)
    wav = 0.1 * torch.randn(size.batch, size.samples, generator=generator)
    return [
        {"id": [f"{i}_{row}" for row in range(size.batch)], "wav": wav.clone()}
        for i in range(count)
    ]


def _brain(base: type, size: Size, optimizer: type) -> speechbrain.Brain:
    torch.manual_seed(SEED)
    modules, objective = {"speaker": _speaker, "codec": _codec}[size.model](size)

    class Measured(base):
        def compute_forward(self, batch, stage):
            return objective(self.modules, batch["wav"])

        def compute_objectives(self, predictions, batch, stage):
            return predictions

    options = {"noprogressbar": True, "device": "cpu"}
    return Measured(modules, lambda p: optimizer(p, 1e-3), run_opts=options)


def _speaker(size: Size) -> tuple[dict, Callable]:
    """ECAPA-TDNN: many small tensors, BatchNorm in every block."""
    width = size.width
    embedding = ECAPA_TDNN(
        24,
        channels=[width] * 4 + [3 * width],
        attention_channels=width,
        res2net_scale=4,
        se_channels=width,
        lin_neurons=32,
    )
    modules = {"features": Fbank(n_mels=24), "embedding": embedding}
    return modules, lambda m, wav: m.embedding(m.features(wav)).square().mean()


def _codec(size: Size) -> tuple[dict, Callable]:
    """Strided convolutions around EMA codebooks: few tensors, large buffers."""
    width = size.width

    def down(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv1d(inputs, outputs, 8, 4, 2), nn.BatchNorm1d(outputs), nn.ReLU()

    modules = {
        "encoder": nn.Sequential(
            *down(1, width), *down(width, 2 * width), *down(2 * width, 4 * width)
        ),
        "quantizer": ResidualVectorQuantizer(4 * width, 4, 256, init="normal"),
        "decoder": nn.Sequential(
            nn.ConvTranspose1d(4 * width, 2 * width, 8, 4, 2),
            nn.ReLU(),
            nn.ConvTranspose1d(2 * width, width, 8, 4, 2),
            nn.ReLU(),
            nn.ConvTranspose1d(width, 1, 8, 4, 2),
        ),
    }

    def objective(m: nn.ModuleDict, wav: torch.Tensor) -> torch.Tensor:
        found = m.quantizer(m.encoder(wav[:, None]).transpose(1, 2))
        decoded = m.decoder(found.quantized.transpose(1, 2))[:, 0]
        return (decoded - wav[:, : decoded.shape[1]]).square().mean() + found.loss

    return modules, objective
