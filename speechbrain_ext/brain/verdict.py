"""Is this batch fit to be learned from? Decided by one transfer from the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Verdict:
    """What was seen of one batch.

    Attributes
    ----------
    cause : str
        ``"accepted"``, ``"loss"`` (non-finite loss), ``"gradient"`` (a gradient holds
        NaN or Inf), ``"norm overflow"`` (finite gradients whose norm is not),
        ``"buffer"`` (forward left a non-finite buffer), ``"spike"`` (finite, but far
        above what was usual), ``"exception"``, ``"label"`` (out of range),
        ``"state"`` (weights or moments were corrupted before the batch came),
        ``"other rank"``.
    loss, grad_norm : float
        As computed, non-finite values included; NaN where there was none.
    spike : bool
        Whether loss or norm is above the limits, whatever is done about it.
    """

    cause: str
    loss: float = math.nan
    grad_norm: float = math.nan
    spike: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the batch may change the parameters."""
        return self.cause == "accepted"


class RejectedBatch(BaseException):
    """Unwinds a batch to its transaction; not an Exception, so no recipe catches it."""

    def __init__(self, verdict: Verdict):
        super().__init__(verdict.cause)
        self.verdict = verdict


def group_norms(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict:
    """2-norm of the gradients of each parameter group.

    Arguments
    ---------
    optimizers : Mapping[str, torch.optim.Optimizer]
        The optimizers about to step.

    Returns
    -------
    dict
        ``{(optimizer name, group index): scalar tensor}``, computed exactly as
        ``torch.nn.utils.clip_grad_norm_`` does, so that clipping can reuse it.
    """
    norms = {}
    for name, optimizer in optimizers.items():
        for index, group in enumerate(optimizer.param_groups):
            grads = [p.grad for p in group["params"] if p.grad is not None]
            norms[name, index] = torch.nn.utils.get_total_norm(grads)
    return norms


def judge(
    loss: torch.Tensor,
    norms: Iterable[torch.Tensor],
    probe: torch.Tensor | None,
    *,
    limits: tuple[float, float] = (math.inf, math.inf),
    reject_spikes: bool = False,
    agree: bool = False,
    signs: Sequence[torch.Tensor] = (),
) -> Verdict:
    """Judge one batch with a single transfer from the device.

    Arguments
    ---------
    loss : torch.Tensor
        Scalar loss of the batch.
    norms : Iterable[torch.Tensor]
        Gradient norms of all groups, scalars.
    probe : torch.Tensor or None
        0 if all buffers are finite, else NaN (`ForwardState.probe`).
    limits : tuple[float, float]
        Loss and total norm; a batch above both is a spike. Either alone is not: an
        unusual batch has large gradients, which clipping is for.
    reject_spikes : bool
        Whether a spike is a bad batch.
    agree : bool
        Take the same verdict on all ranks of the default process group.
    signs : Sequence[torch.Tensor]
        Further scalars, not finite if a buffer may not be (`ForwardState.glance`).

    Returns
    -------
    Verdict
        With cause ``"gradient"`` also for norm overflow: `explain_norm` tells them
        apart, on the event only; and, with a finite ``grad_norm``, where the gradients
        of another rank alone are not finite.
    """
    device = loss.device
    loss = _scalar(loss, device)
    norms = [_scalar(norm, device) for norm in norms]
    if norms[1:]:
        norms = [torch.linalg.vector_norm(torch.stack(norms))]
    elif agree and not norms:  # the flags have their places
        norms = [torch.zeros_like(loss)]
    parts = [loss, *norms, *(_scalar(sign, device) for sign in signs)]
    if probe is not None:
        parts.append(probe.to(device))
    values = None if not agree and on_host(loss) else torch.stack(parts)
    if agree:
        # Decided on the device, so that the flags need no transfer of their own. Of
        # what this rank alone has seen: gradients are everybody's already.
        bad = ~torch.isfinite(values[0] + values[2:].sum())
        if reject_spikes:
            bad = bad | ((values[0] > limits[0]) & (values[1] > limits[1]))
        # Inside an accumulation window gradients are each rank's own, though.
        flags = torch.stack([bad, ~torch.isfinite(values[1])]).float()
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        values = torch.cat([values, flags])
    numbers = [p.item() for p in parts] if values is None else values.tolist()
    loss_value = numbers[0]
    # Without an optimizer, or with all of them frozen, there is no norm.
    norm_value = numbers[1] if norms else 0.0
    clean = all(map(math.isfinite, numbers[1 + len(norms) : len(parts)]))
    spike = loss_value > limits[0] and norm_value > limits[1]
    if not math.isfinite(loss_value):
        cause = "loss"
    elif not clean:  # forward comes before backward
        cause = "buffer"
    elif agree and numbers[-2] > 0 and not (reject_spikes and spike):
        cause = "other rank"
    elif not math.isfinite(norm_value) or (agree and numbers[-1] > 0):
        cause = "gradient"
    elif spike and reject_spikes:
        cause = "spike"
    else:
        cause = "accepted"
    return Verdict(cause, loss_value, norm_value, spike)


def on_host(tensor: torch.Tensor) -> bool:
    """Whether reading a number is no transfer: then several cost less than a list."""
    return tensor.is_cpu


def _scalar(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """As a detached float32 without dimensions; for most, nothing is to be done."""
    if tensor.requires_grad or tensor.ndim:
        tensor = tensor.detach().reshape(())
    if tensor.dtype is not torch.float32:
        tensor = tensor.float()
    return tensor if tensor.device == device else tensor.to(device)


@torch.no_grad()
def nonfinite_names(named: Iterable[tuple[str, torch.Tensor | None]]) -> list[str]:
    """Names of the tensors that hold a NaN or an Inf, in the given order.

    Costly (one transfer a tensor): for events and commit points only.
    """
    return [
        name
        for name, tensor in named
        if tensor is not None
        and tensor.is_floating_point()
        and not torch.isfinite(tensor).all()
    ]


def explain_norm(verdict: Verdict, modules: torch.nn.Module) -> tuple[Verdict, list]:
    """Tell a true NaN or Inf gradient from finite gradients whose norm overflows.

    Returns
    -------
    tuple[Verdict, list[str]]
        The verdict, with cause ``"norm overflow"`` where that is the case, and the
        names of the parameters whose gradient is not finite.
    """
    names = nonfinite_names((n, p.grad) for n, p in modules.named_parameters())
    if verdict.cause == "gradient" and not names:
        verdict = replace(verdict, cause="norm overflow")
    return verdict, names
