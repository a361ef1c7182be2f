"""What `NaNSafeBrain` adds to a step: isolated, and inside a run."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import speechbrain
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from torch import nn
from torch.utils.data import DataLoader

from speechbrain_ext.bench.timing import spread, time_interleaved
from speechbrain_ext.brain import NaNSafeBrain, delivery
from speechbrain_ext.quantization import ResidualVectorQuantizer

SEED = 0
#: Steps of the whole model that are timed in each round.
STEPS = 2
#: Calls of one part of the guard in each round.
CALLS = 20
#: At most this share of a step of 10 ms or more, in per cent.
GOAL = 1.0
FROM_SECONDS = 0.010


@dataclass(frozen=True)
class Size:
    """One model and its batch; ``width`` scales channels, ``samples`` are at 16 kHz.

    ``blocks`` is the depth of the speaker model.
    """

    model: str
    width: int
    batch: int
    samples: int
    blocks: int = 3


#: About 10, 40 and 150 ms a step on one idle thread, and what costs the guard most: a
#: narrow model of many tensors. The table says how long the steps were.
SIZES = {
    "speaker, 1 block": Size("speaker", 8, 2, 2400, blocks=1),
    "speaker, narrow": Size("speaker", 8, 2, 2400),
    "speaker": Size("speaker", 40, 8, 20000),
    "speaker, wide": Size("speaker", 64, 16, 30000),
    "codec, narrow": Size("codec", 8, 4, 4000),
    "codec": Size("codec", 16, 8, 13000),
    "codec, wide": Size("codec", 24, 16, 14000),
}


def measure(repeats: int, sizes: dict[str, Size] | None = None) -> dict:
    """Time the parts of the guard, the guard inside a run, and the step.

    Whole steps with and without the guard differ by far less than two equal steps do
    on a shared machine. So the guard is timed by itself, in two ways. *Isolated*: each
    part is called in a tight loop (`CALLS` times), as primitives are compared; the sum
    over the step of stock Brain is what the goal is about. *In a run*: the clock stands
    at the entries of the guard while whole steps run, so that caches hold what the
    model left there; that is what a user pays. Neither counts the norm of the
    gradients, with which stock clips too, nor what a codebook learns.

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
        microseconds of the guard and per cent of the step as `spread`, medians of the
        parts in microseconds), no ``comparisons``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        rows = {
            name: _measure_one(size, repeats)
            for name, size in (SIZES if sizes is None else sizes).items()
        }
    finally:
        logging.disable(level)
        torch.set_num_threads(threads)
    return {
        "title": "Cost of the guard",
        "setting": "what NaNSafeBrain adds to a step of speechbrain.Brain; goal: the "
        f"isolated parts are at most {GOAL:g} % of steps of 10 ms or more. Isolated: "
        f"each part in a tight loop of {CALLS} calls; in run: the same parts inside "
        "whole steps, with the caches as the model leaves them, wall time. Snapshots "
        "count by their share of a step. Default policy, float32, 1 thread, "
        f"{repeats} interleaved rounds",
        "peers": {},
        "subjects": {
            f"{name}, {row['milliseconds']['median']:.0f} ms": row
            for name, row in rows.items()
        },
        "comparisons": [],
    }


def _measure_one(size: Size, repeats: int) -> dict:
    parts = make_parts(size)
    run = Run(size)
    times = time_interleaved({"step": make_step(size), "run": run}, repeats)
    # Apart from whole steps, whose memory would be in the caches instead.
    times |= time_interleaved(parts, repeats)
    steps = [seconds / STEPS for seconds in times["step"]]
    snapshot_every = run.brain._policy.snapshot_every
    calls = {name: CALLS for name in parts} | {"snapshot": CALLS * snapshot_every}
    micro = {
        name: [1e6 * seconds / calls[name] for seconds in times[name]] for name in parts
    }
    isolated = [sum(one) for one in zip(*micro.values(), strict=True)]
    in_run = [1e6 * seconds for seconds in run.seconds[-repeats:]]
    share = spread([1e-4 * a / b for a, b in zip(isolated, steps, strict=True)], 2)
    goal = "met" if share["median"] <= GOAL else "not met"
    if spread(steps, 4)["median"] < FROM_SECONDS:
        goal = "-"
    return {
        "milliseconds": spread([1e3 * seconds for seconds in steps]),
        "isolated_us": spread(isolated, 0),
        "isolated_per_cent": share,
        "goal": goal,
        "in_run_us": spread(in_run, 0),
        "in_run_per_cent": spread(
            [1e-4 * a / b for a, b in zip(in_run, steps, strict=True)], 2
        ),
        **{f"{name}_us": spread(micro[name], 0)["median"] for name in parts},
    }


def make_step(size: Size) -> Callable[[], None]:
    """Make a function that runs `STEPS` whole steps of stock Brain."""
    brain = _brain(speechbrain.Brain, size)
    batch = _batches(size, 1)[0]
    brain.init_optimizers()
    brain.modules.train()
    brain.step = 1

    def step() -> None:
        for _ in range(STEPS):
            brain.fit_batch(batch)

    return step


def _trained(size: Size) -> tuple[NaNSafeBrain, list[dict]]:
    """Return a Brain in the middle of its work, and batches."""
    brain, batches = _brain(NaNSafeBrain, size), _batches(size, 4)
    brain.fit(range(1), DataLoader(batches, batch_size=None))
    brain.modules.train()
    for module in brain._guard.statistics_learners():
        module.statistics_mode = "step"  # as in ``fit``: learned on commit
    for batch in batches:  # the first ones still find out what there is
        brain.fit_batch(batch)
    return brain, batches


def make_parts(size: Size) -> dict[str, Callable[[], None]]:
    """Make one function for each part of the guard, which calls it `CALLS` times.

    Returns
    -------
    dict
        ``state`` (buffers, attributes, gradients, random streams before a batch),
        ``journal`` (a copy of the batch), ``verdict`` (the probe of the buffers, one
        transfer, spikes), ``frame`` (what else is called around a batch), and
        ``snapshot`` (verified; one of them, taken every ``snapshot_every`` steps).
    """
    brain, batches = _trained(size)
    guard, batch = brain._guard, batches[0]
    recovery, optimizers = guard.recovery, guard.optimizers()
    optimizer = next(iter(optimizers))
    spikes = guard.spike_history.of(optimizers)
    guard.learners = []

    def journal() -> None:
        recovery.due(batch)
        recovery.record(batch, guard.transaction.random)
        recovery.drop_last()

    def verdict() -> None:
        guard.loss = loss
        guard.open = True
        guard.judge({})  # of no optimizer: norms are the work of clipping
        guard.usual.clear()

    def frame() -> None:
        delivery.mask(guard, batch)
        guard.hooks.attach()
        guard.reset_batch()
        guard.held.open()
        guard.labels.fault(batch)
        guard.cleared.add(id(optimizers[optimizer]))
        guard.hooks.before_step(optimizer, optimizers[optimizer])
        guard.usual.append((spikes, 1.0, 1.0))
        delivery.commit(guard)
        guard.held.discard()
        guard.hooks.end_batch()

    def snapshot() -> None:
        recovery.snapshot.verify()
        recovery.take(looked=True)

    loss = torch.ones(())
    parts = {
        "state": guard.transaction.begin,
        "journal": journal,
        "verdict": verdict,
        "frame": frame,
        "snapshot": snapshot,
    }
    return {name: functools.partial(_repeat, part) for name, part in parts.items()}


def _repeat(call: Callable[[], object]) -> None:
    for _ in range(CALLS):
        call()


class Run:
    """Whole steps of `NaNSafeBrain`, with a clock at the entries of the guard.

    Each call is a round of `STEPS` steps and one snapshot, after which `seconds` has
    one more number: what the guard took for one step.

    Arguments
    ---------
    size : Size
        Model and batch.
    """

    def __init__(self, size: Size):
        self.brain, self._batches = _trained(size)
        self.seconds: list[float] = []
        guard = self.brain._guard
        self._inside = False
        self._beside = 0.0  # spent in the guard and not counted by it
        self._learned = 0.0  # counted by it, but the model's own work
        self._clock(guard.hooks, "before_step", "_beside")
        self._clock(guard.labels, "fault", "_beside")
        for module in guard.statistics_learners():
            self._clock(module, "commit_statistics", "_learned")

    def _clock(self, owner: object, name: str, sum_: str) -> None:
        method = getattr(owner, name)

        def clocked(*args):
            if self._inside:  # a quantizer commits its codebooks
                return method(*args)
            self._inside = True
            started = time.perf_counter()
            result = method(*args)
            setattr(self, sum_, getattr(self, sum_) + time.perf_counter() - started)
            self._inside = False
            return result

        # Not through the module, whose attributes are watched by the guard.
        vars(owner)[name] = clocked

    def _total(self) -> float:
        return self.brain.health.guard_seconds + self._beside - self._learned

    def __call__(self) -> None:
        """Run one round."""
        recovery, before = self.brain._guard.recovery, self._total()
        for index in range(STEPS):
            self.brain.fit_batch(self._batches[index])
        spent = (self._total() - before) / STEPS
        started = time.perf_counter()
        recovery.snapshot.verify()
        recovery.take(looked=True)
        snapshot = time.perf_counter() - started
        self.seconds.append(spent + snapshot / recovery.every)


def _batches(size: Size, count: int) -> list[dict]:
    generator = torch.Generator().manual_seed(SEED)
    wav = 0.1 * torch.randn(size.batch, size.samples, generator=generator)
    return [
        {"id": [f"{i}_{row}" for row in range(size.batch)], "wav": wav.clone()}
        for i in range(count)
    ]


def _brain(base: type, size: Size) -> speechbrain.Brain:
    torch.manual_seed(SEED)
    modules, objective = {"speaker": _speaker, "codec": _codec}[size.model](size)

    class Measured(base):
        def compute_forward(self, batch, stage):
            return objective(self.modules, batch["wav"])

        def compute_objectives(self, predictions, batch, stage):
            return predictions

    options = {"noprogressbar": True, "device": "cpu"}
    return Measured(modules, lambda p: torch.optim.Adam(p, 1e-3), run_opts=options)


def _speaker(size: Size) -> tuple[dict, Callable]:
    """ECAPA-TDNN: many small tensors, BatchNorm in every block."""
    width = size.width
    embedding = ECAPA_TDNN(
        24,
        channels=[width] * (1 + size.blocks) + [3 * width],
        kernel_sizes=[5] + [3] * size.blocks + [1],
        dilations=[1, *range(2, 2 + size.blocks), 1],
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
