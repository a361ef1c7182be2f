"""Two gloo ranks: one set of statistics, the same buffers, nothing lost or doubled."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from speechbrain_ext.quantization import ResidualVectorQuantizer

DIM, RANKS = 6, 2


def make(init, **options):
    torch.manual_seed(0)
    return ResidualVectorQuantizer(
        DIM, 2, 16, init=init, init_frames=200, statistics_mode="step", **options
    )


def share(seed, rank):
    """Half a batch; on rank 1 with a bad frame now and then."""
    generator = torch.Generator().manual_seed(10 * seed + rank)
    x = torch.randn(1, 80, DIM, generator=generator)
    if rank == 1 and seed == 2:
        x[0, 5] = float("nan")
    return x


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    saved = {}
    for name, init, options in (
        ("normal", "normal", {}),
        ("plain", "normal", {"dead_threshold": 0.0}),
        ("kmeans", "kmeans", {"group_sizes": [4, 2]}),
    ):
        rvq = make(init, **options)
        torch.manual_seed(100 + rank)  # ranks draw differently, as data loaders do
        for seed in range(5):
            rvq(share(seed, rank))
            if seed == 3:
                rvq.discard_statistics()
            else:
                rvq.commit_statistics()
        assert rvq.initialized
        saved[name] = dict(rvq.named_buffers())
    try:
        make("normal").initialize(torch.randn(20 if rank else 4, DIM))
        saved["refused"] = False
    except ValueError:
        saved["refused"] = True
    torch.save(saved, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_end_with_equal_buffers_that_are_those_of_the_whole_batch(tmp_path):
    mp.spawn(run_rank, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(RANKS))
    for kind in ("normal", "plain", "kmeans"):
        for name, value in first[kind].items():
            assert torch.isfinite(value).all()
            assert torch.equal(value, second[kind][name]), (kind, name)
    assert first["normal"]["bank.revived"].sum() > 0
    assert first["refused"]
    assert second["refused"]  # although this rank had frames enough

    # Without revival nothing is random: one process with the whole batch must agree.
    whole = make("normal", dead_threshold=0.0)
    for seed in (0, 1, 2, 4):
        whole(torch.cat([share(seed, rank) for rank in range(RANKS)], dim=1))
        whole.commit_statistics()
    for name, value in whole.named_buffers():
        expected = first["plain"][name].double()
        assert torch.allclose(value.double(), expected, atol=1e-5), name
