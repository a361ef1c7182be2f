"""One fault in one running Brain, and the batches that carry it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from speechbrain_ext.chaos.faults import BatchMark, Fault

#: (epoch, batch), both counted from 0.
Place = tuple[int, int]


class Injection:
    """Puts a fault into a Brain when the loader hands over the batch it belongs to.

    Arguments
    ---------
    brain : speechbrain.Brain
        Stock or NaN-safe, before ``fit``. Its class is exchanged for a subclass of the
        same name, which sees every batch that goes through ``compute_forward``.
    fault : Fault or None
        None: nothing is spoiled, and the stage losses are recorded all the same.

    A marker of loss and gradient faults is live from the moment its batch is handed
    over until the next batch is asked for, and then only in forward passes of that
    batch: a replay of other batches in between is not spoiled, a second look at the
    same batch is.
    """

    def __init__(self, brain: Any, fault: Fault | None = None):
        self.brain = brain
        self.fault = fault
        #: whether there was anything that could be spoiled
        self.fired = False
        #: what ``on_stage_end`` was told, in order
        self.stage_losses: list[float] = []
        self._mark: BatchMark | None = None
        self._marked_now = False
        self._first_gradient: str | None = None
        self._hooks: list[Any] = []
        brain.__class__ = _observed(type(brain), self)

    def before(self, batch: Any) -> None:
        """Spoil ``batch`` in place, or the state, or mark the batch."""
        fault = self.fault
        if fault is None:
            return
        if fault.where in ("data", "state"):
            target = batch if fault.where == "data" else self.brain
            self.fired = bool(fault.spoil(target)) or self.fired
            return
        self._mark = BatchMark(batch)
        if fault.where == "gradient":
            self._listen_to_gradients()

    def after(self) -> None:
        """Forget the mark: the batch is done with."""
        self._mark, self._marked_now, self._first_gradient = None, False, None
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def see(self, batch: Any) -> None:
        """Remember whether this forward pass is of the marked batch."""
        self._marked_now = self._mark is not None and self._mark.matches(batch)

    def loss(self, loss: Any) -> Any:
        """Return the loss, spoiled if it is that of the marked batch."""
        if self._marked_now and self.fault.where == "loss":
            self.fired = True
            return self.fault.spoil(loss)
        return loss

    def _listen_to_gradients(self) -> None:
        """Spoil the gradient that backward reaches first, in each backward pass.

        A fixed parameter could be one that the loss does not depend on.
        """
        for name, parameter in self.brain.modules.named_parameters():
            if not parameter.requires_grad:
                continue

            def spoil(grad: torch.Tensor, name: str = name) -> torch.Tensor | None:
                if not self._marked_now:
                    return None
                self._first_gradient = self._first_gradient or name
                if name != self._first_gradient:
                    return None
                self.fired = True
                return self.fault.spoil(grad)

            self._hooks.append(parameter.register_hook(spoil))


def _observed(brain_class: type, injection: Injection) -> type:
    """Make a subclass of the same name that shows its batches to an injection."""

    class Observed(brain_class):
        def compute_forward(self, batch, stage):
            injection.see(batch)
            return super().compute_forward(batch, stage)

        def compute_objectives(self, predictions, batch, stage):
            return injection.loss(super().compute_objectives(predictions, batch, stage))

        def on_stage_end(self, stage, stage_loss, epoch=None):
            injection.stage_losses.append(float(stage_loss))
            return super().on_stage_end(stage, stage_loss, epoch)

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Observed, name, getattr(brain_class, name))
    return Observed


class Deliveries(DataLoader):
    """Hands over recorded batches, each time as fresh copies.

    Arguments
    ---------
    epochs : list of list
        Batches of each epoch; the n-th iteration goes through the n-th epoch.
    injection : Injection or None
        Told before and after each batch of ``places``.
    places : tuple of (int, int)
        Where the fault strikes.
    removed : tuple of (int, int)
        Batches that are never delivered.

    ``len`` counts removed batches too, so that schedules that ask for it do not depend
    on them.
    """

    def __init__(
        self,
        epochs: list[list[Any]],
        injection: Injection | None = None,
        *,
        places: tuple[Place, ...] = (),
        removed: tuple[Place, ...] = (),
    ):
        super().__init__(epochs[0], batch_size=None, collate_fn=_as_it_is)
        self._epochs = epochs
        self._injection = injection
        self._places, self._removed = set(places), set(removed)
        self._epoch = -1

    def __len__(self) -> int:
        return len(self._epochs[0])

    def __iter__(self) -> Iterator[Any]:
        self._epoch += 1
        for number, recorded in enumerate(self._epochs[self._epoch]):
            place = (self._epoch, number)
            if place in self._removed:
                continue
            # Brains move and change what they are given.
            batch = copy.deepcopy(recorded)
            if place in self._places:
                self._injection.before(batch)
            yield batch
            if place in self._places:
                self._injection.after()


def _as_it_is(batch: Any) -> Any:
    return batch
