"""Residual vector quantization: ours beside EnCodec's and lucidrains'."""

from __future__ import annotations

from collections.abc import Callable

import torch

from speechbrain_ext.bench.timing import (
    compare,
    import_peer,
    peak_step_mib,
    peer_versions,
    spread,
    state_mib,
    time_interleaved,
)
from speechbrain_ext.quantization import ResidualVectorQuantizer, search

BATCH, TIME, DIM = 16, 150, 128
NUM_QUANTIZERS, CODEBOOK_SIZE = 8, 1024
SEED = 0

OURS = "ours"
OURS_FLOAT32 = "ours, products in float32 alone"
OURS_BANDS = "ours, 8 bands"
OURS_LOW_DIM = "ours, codebook_dim 16"
ENCODEC = "EnCodec ResidualVectorQuantization"
LUCIDRAINS = "lucidrains ResidualVQ, straight-through"
LUCIDRAINS_ROTATION = "lucidrains ResidualVQ, rotation trick (its default)"
LUCIDRAINS_BANDS = "lucidrains GroupedResidualVQ, 8 groups"

#: (ours, peer, times as fast as promised or None)
COMPARISONS = (
    (OURS, ENCODEC, 3.0),
    (OURS, LUCIDRAINS, 5.0),
    (OURS, LUCIDRAINS_ROTATION, 5.0),
    (OURS_FLOAT32, ENCODEC, None),
    (OURS_FLOAT32, LUCIDRAINS, None),
    (OURS_BANDS, ENCODEC, 3.0),
    (OURS_BANDS, LUCIDRAINS, 5.0),
    (OURS_BANDS, LUCIDRAINS_BANDS, None),
    (OURS_LOW_DIM, ENCODEC, None),
)

Call = Callable[[], object]

_WAY = {
    True: "this processor multiplies bfloat16: ours searches by such products first "
    "and decides in float32, so that the codes are those of a search in float32",
    False: "this processor does not multiply bfloat16: ours searches in float32",
}


def measure(repeats: int) -> dict:
    """Time a training step, forward and backward, of each quantizer in turn.

    All have the same bit rate (8 stages of 10 bits) and EMA codebooks of decay 0.99
    started from random vectors; each keeps its own way of dealing with dead codes.
    One thread; float32.

    Arguments
    ---------
    repeats : int
        Rounds of `time_interleaved`.

    Returns
    -------
    dict
        ``title``, ``setting``, ``peers`` (versions), ``subjects`` (milliseconds and
        MiB by name), ``comparisons`` (see `compare`).

    Raises
    ------
    UserError
        If a peer is not installed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(SEED)
        modules, steps = make_subjects(BATCH, TIME, NUM_QUANTIZERS, CODEBOOK_SIZE)
        times = time_interleaved(steps, repeats)
        subjects = {}
        for name, step in steps.items():
            state, transient = state_mib(modules[name]), peak_step_mib(step)
            subjects[name] = {
                "milliseconds": spread([1e3 * value for value in times[name]]),
                "state_mib": round(state, 1),
                "step_mib": round(transient, 1),
                "peak_mib": round(state + transient, 1),
            }
    finally:
        torch.set_num_threads(threads)
    return {
        "title": "Residual vector quantizer, training step",
        "setting": f"batch {BATCH}, time {TIME}, dim {DIM}, {NUM_QUANTIZERS} x "
        f"{CODEBOOK_SIZE} codes, forward and backward, float32, 1 thread, "
        f"{repeats} interleaved rounds; {_WAY[_screens()]}",
        "peers": peer_versions(["encodec", "vector-quantize-pytorch"]),
        "subjects": subjects,
        "comparisons": [compare(times, *pair) for pair in COMPARISONS],
    }


def _screens() -> bool:
    return search.multiplies_bfloat16(torch.device("cpu"))


def make_subjects(
    batch: int, time: int, num_quantizers: int, codebook_size: int
) -> tuple[dict[str, torch.nn.Module], dict[str, Call]]:
    """Make every quantizer and a function that runs one training step of it.

    Arguments
    ---------
    batch, time : int
        Shape of the latents, [batch, time, 128].
    num_quantizers, codebook_size : int
        The same for all.

    Returns
    -------
    modules : dict[str, torch.nn.Module]
        Quantizers by name.
    steps : dict[str, Callable]
        Their training steps.
    """
    encodec = import_peer("encodec.quantization.core_vq", "encodec")
    lucidrains = import_peer("vector_quantize_pytorch", "vector-quantize-pytorch")
    latents = torch.randn(batch, time, DIM)
    channels_first = latents.transpose(1, 2).contiguous()

    ours = {"init": "normal", "decay": 0.99}
    theirs = {
        "dim": DIM,
        "codebook_size": codebook_size,
        "decay": 0.99,
        "threshold_ema_dead_code": 2,
    }
    shape = (DIM, num_quantizers, codebook_size)
    modules = {
        OURS: ResidualVectorQuantizer(*shape, **ours),
        OURS_FLOAT32: ResidualVectorQuantizer(*shape, **ours),
        ENCODEC: encodec.ResidualVectorQuantization(
            num_quantizers=num_quantizers,
            dim=DIM,
            codebook_size=codebook_size,
            decay=0.99,
            kmeans_init=False,
        ),
        LUCIDRAINS: lucidrains.ResidualVQ(
            num_quantizers=num_quantizers, rotation_trick=False, **theirs
        ),
        LUCIDRAINS_ROTATION: lucidrains.ResidualVQ(
            num_quantizers=num_quantizers, rotation_trick=True, **theirs
        ),
        OURS_BANDS: ResidualVectorQuantizer(*shape, group_sizes=[DIM // 8] * 8, **ours),
        LUCIDRAINS_BANDS: lucidrains.GroupedResidualVQ(
            num_quantizers=num_quantizers // 8, groups=8, **theirs
        ),
        OURS_LOW_DIM: ResidualVectorQuantizer(*shape, codebook_dim=16, **ours),
    }

    def our_step(module: torch.nn.Module) -> Call:
        def step() -> None:
            x = latents.clone().requires_grad_()
            result = module(x)
            (result.quantized.square().mean() + result.loss).backward()

        return step

    def as_without_bfloat16(step: Call) -> Call:
        def slower() -> None:
            known = search.multiplies_bfloat16
            search.multiplies_bfloat16 = lambda device: False
            try:
                step()
            finally:
                search.multiplies_bfloat16 = known

        return slower

    def their_step(module: torch.nn.Module, given: torch.Tensor) -> Call:
        def step() -> None:
            x = given.clone().requires_grad_()
            quantized, _, loss = module(x)
            (quantized.square().mean() + loss.sum()).backward()

        return step

    steps = {}
    for name, module in modules.items():
        module.train()
        if isinstance(module, ResidualVectorQuantizer):
            steps[name] = our_step(module)
        else:
            steps[name] = their_step(
                module, channels_first if name == ENCODEC else latents
            )
    steps[OURS_FLOAT32] = as_without_bfloat16(steps[OURS_FLOAT32])
    return modules, steps
