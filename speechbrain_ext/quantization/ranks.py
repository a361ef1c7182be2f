"""What the quantizer needs to know of torch.distributed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


def is_distributed() -> bool:
    """Whether more than one rank shares the statistics."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_ranks(holds: bool, device: torch.device) -> bool:
    """Whether something holds on every rank; a collective if there are several."""
    if not is_distributed():
        return holds
    flag = torch.tensor(int(holds), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)


def copy_from_first_rank(module: nn.Module) -> None:
    """Make all buffers, persistent or not, what they are on rank 0."""
    if is_distributed():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
