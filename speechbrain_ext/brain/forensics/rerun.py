"""The incident's batch, or a part of it, run once more from the state before it."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch

from speechbrain_ext.brain.forensics.trace import Origin, Trace, is_bad, state_tensors


@dataclass
class Outcome:
    """What one run showed.

    Attributes
    ----------
    loss, norm : float
        Loss, and gradient norm (0 where backward did not run).
    error : BaseException or None
        What it raised.
    bad_gradients : list of str
        Parameters whose gradient is not finite, those that came first in front.
    bad_state : list of tuple
        ``(kind, name)`` of buffers and attributes that this run spoiled.
    largest : str
        Parameter with the largest finite gradient.
    origin : Origin or None
        Where the first bad number comes from, if a trace watched.
    digest : str
        Equal for two runs if loss and all gradients have the same bits.
    """

    loss: float = math.nan
    norm: float = 0.0
    error: BaseException | None = None
    bad_gradients: list[str] = field(default_factory=list)
    bad_state: list[tuple[str, str]] = field(default_factory=list)
    largest: str = ""
    origin: Origin | None = None
    digest: str = ""

    @property
    def bad(self) -> bool:
        """Whether the guard would have rejected this run for a non-finite number."""
        return (
            self.error is not None
            or not math.isfinite(self.loss)
            or not math.isfinite(self.norm)
            or bool(self.bad_gradients or self.bad_state)
        )


class Rerun:
    """Runs a batch again and again from the same state, and leaves gradients alone.

    Arguments
    ---------
    modules : torch.nn.Module
        All trained modules.
    forward : Callable
        Returns the loss; called without arguments for the batch itself, and with a
        batch for a part of it, if it takes one.
    restore : Callable[[], None]
        Puts back state and random streams; called before every run.
    scale : float or None
        Factor on the loss before backward (GradScaler).
    """

    def __init__(
        self,
        modules: torch.nn.Module,
        forward: Callable[..., torch.Tensor],
        restore: Callable[[], None],
        scale: float | None = None,
    ):
        self.modules = modules
        self.forward = forward
        self.restore = restore
        self.scale = scale
        self.count = 0
        self.takes_batch = _takes_one(forward)
        self._bad_before: set[str] | None = None

    def __call__(
        self,
        batch: Any = None,
        *,
        trace: Trace | None = None,
        full_precision: bool = False,
        digest: bool = False,
        always_backward: bool = False,
        look: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run forward and, if the loss is finite, backward.

        Arguments
        ---------
        batch : Any, optional
            A part of the batch; None: the batch itself.
        trace : Trace, optional
            Watches this run.
        full_precision : bool
            Without autocast and without the scale.
        digest : bool
            Also take the fingerprint of loss and gradients.
        always_backward : bool
            Run backward also if the loss is not finite, as training does.
        look : Callable[[], None], optional
            Called at the end of the run, while its gradients are there.

        Returns
        -------
        Outcome
            An exception of the run is in it; only `BaseException` passes.
        """
        self.count += 1
        self.restore()
        if self._bad_before is None:
            self._bad_before = {
                name
                for name, kind, tensor in state_tensors(self.modules)
                if is_bad(tensor, masks=kind != "parameter")
            }
        parameters = list(self.modules.named_parameters())
        kept = [(parameter, parameter.grad) for _, parameter in parameters]
        for parameter, _ in kept:
            parameter.grad = None
        outcome = Outcome()
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                if full_precision:
                    stack.enter_context(without_autocast())
                if trace is not None:
                    stack.enter_context(trace.watching())
                loss = self.forward() if batch is None else self.forward(batch)
                outcome.loss = float(loss.detach())
                if trace is not None:
                    trace.own_graph(loss)
                    outcome.origin = trace.origin_of(loss)
                known = math.isfinite(outcome.loss) or always_backward
                if known and loss.requires_grad:
                    scale = None if full_precision else self.scale
                    with trace.backward() if trace else contextlib.nullcontext():
                        (loss * scale if scale else loss).backward()
            self._look_at_state(outcome, trace)
            self._look_at_gradients(outcome, parameters, trace)
            if digest:
                outcome.digest = _digest([loss, *(p.grad for _, p in parameters)])
        except Exception as error:
            outcome.error = error
        finally:
            if look is not None:
                look()
            for parameter, grad in kept:
                parameter.grad = grad
        return outcome

    def _look_at_state(self, outcome: Outcome, trace: Trace | None) -> None:
        for name, kind, tensor in state_tensors(self.modules):
            if kind == "parameter" and tensor.requires_grad:
                continue
            if name not in self._bad_before and is_bad(tensor, masks=True):
                kind = "buffer" if kind == "parameter" else kind
                outcome.bad_state.append((kind, name))
                if trace is not None and outcome.origin is None:
                    outcome.origin = trace.origin_of(tensor)

    def _look_at_gradients(self, outcome, parameters, trace) -> None:
        grads = {n: p.grad for n, p in parameters if p.grad is not None}
        if not grads:
            return
        bad = [name for name, grad in grads.items() if is_bad(grad)]
        if trace is not None and bad:
            origins = {name: trace.origin_of(grads[name]) for name in bad}
            known = [name for name in bad if origins[name] is not None]
            known.sort(key=lambda name: origins[name].index)
            bad = known + [name for name in bad if name not in known]
            outcome.origin = outcome.origin or origins[bad[0]]
        outcome.bad_gradients = bad
        outcome.norm = float(torch.nn.utils.get_total_norm(grads.values()))
        if not bad:
            dense = {n: g for n, g in grads.items() if g.layout is torch.strided}
            peaks = {n: g.abs().max().item() for n, g in dense.items() if g.numel()}
            outcome.largest = max(peaks, key=peaks.get, default="")


def _takes_one(function: Callable) -> bool:
    """Whether a function can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True


@contextlib.contextmanager
def without_autocast():
    """Make every ``torch.autocast`` entered inside compute in full precision.

    The run enters autocast by itself, deep in code that is not ours; that it is
    patched for the length of one run is what it takes to repeat it in float32.
    """
    enter = torch.autocast.__enter__

    def disabled(self):
        wanted, self._enabled = self._enabled, False
        try:
            return enter(self)
        finally:  # the object lives on: a Brain enters the same one for every batch
            self._enabled = wanted

    with mock.patch.object(torch.autocast, "__enter__", disabled):
        yield


def _digest(tensors) -> str:
    """Fingerprint of the bits of some tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
            total.update(dense.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()
