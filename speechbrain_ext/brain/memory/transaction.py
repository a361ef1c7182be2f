"""One batch as a transaction: everything it may move is kept, and can be put back.

Parameters and optimizer moments are not copied: they move in ``optimizer.step()``,
which runs after the verdict. What moves *before* it is: buffers (BatchNorm, EMA
codebooks, staged statistics), statistics kept as plain attributes of modules, numbers
and lists of the Brain, gradients of earlier micro-batches, and the random streams.
A batch that steps more than once needs copies of the optimizers too (`OptimizerUndo`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping

import torch

from speechbrain_ext.brain.memory.containers import ContainerMemory
from speechbrain_ext.brain.memory.forward_state import ForwardState
from speechbrain_ext.brain.memory.identity import SameObjects, same
from speechbrain_ext.brain.memory.shadow import TensorShadow
from speechbrain_ext.brain.memory.streams import RandomStreams

_grad = operator.attrgetter("grad")


class Gradients:
    """``.grad`` of all parameters, as earlier batches left it."""

    def __init__(self):
        self._shadow = TensorShadow()
        self._parameters: list[torch.nn.Parameter] = []
        self._grads: list[torch.Tensor | None] = []
        self._nothing = SameObjects()

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self._shadow.nbytes

    def take(self, parameters: list[torch.nn.Parameter]) -> None:
        """Remember which parameters have a gradient, and its values.

        A step leaves none behind, so there is something to copy only inside an
        accumulation window and for parameters whose optimizer is frozen.
        """
        self._parameters, self._grads = parameters, list(map(_grad, parameters))
        if len(self._nothing.values) != len(parameters):
            self._nothing = SameObjects([None] * len(parameters))
        if self._nothing.are(self._grads):
            self._shadow.release()
            return
        self._shadow.follow([grad for grad in self._grads if grad is not None])
        self._shadow.take()

    def restore(self) -> None:
        """Put the gradients back, or none where there was none."""
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = grad
        self._shadow.restore()


class OptimizerUndo:
    """Parameters and all state of some optimizers, for a batch that steps twice.

    Covers moments, step counters, numbers and tensors of ``param_groups`` and whatever
    else an optimizer keeps in its attributes. The memory is kept from batch to batch.
    """

    def __init__(self):
        self._memory = ContainerMemory(through_modules=True)
        self.parameters: list[torch.nn.Parameter] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self._memory.nbytes

    def take(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Remember these optimizers and their parameters."""
        optimizers = list(optimizers)
        self.parameters = [
            parameter
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        self._memory.take(optimizers)

    def restore(self) -> None:
        """Put them back, bit for bit; entries born since then are removed."""
        self._memory.restore()


class Transaction:
    """One batch: `begin`, then either nothing more (commit) or `rollback`.

    Arguments
    ---------
    modules : torch.nn.Module
        All trained modules.
    owners : Callable[[], Iterable[object]]
        See `ForwardState`.

    Example
    -------
    >>> net = torch.nn.BatchNorm1d(1)
    >>> transaction = Transaction(net)
    >>> transaction.begin()
    >>> _ = net(torch.tensor([[1.0], [3.0]]))
    >>> transaction.rollback()
    >>> net.running_mean
    tensor([0.])
    """

    def __init__(
        self,
        modules: torch.nn.Module,
        owners: Callable[[], Iterable[object]] = tuple,
    ):
        self.forward_state = ForwardState(modules, owners)
        self.random = RandomStreams()
        self.gradients = Gradients()
        self._undo = OptimizerUndo()
        self._shielded = False
        #: Of optimized parameters that belong to no module.
        self._foreign: list[torch.nn.Parameter] = []
        self._foreign_gradients = Gradients()

    def begin(self) -> None:
        """Remember everything."""
        self._shielded = False
        self.forward_state.take()
        self.random.take()
        self.gradients.take(self.forward_state.parameters)
        if self._foreign:
            self._foreign_gradients.take(self._foreign)

    def shield_optimizers(
        self,
        optimizers: Mapping[str, torch.optim.Optimizer] | Iterable,
    ) -> None:
        """Let `rollback` of this batch undo the steps of these optimizers as well.

        Arguments
        ---------
        optimizers : Mapping[str, torch.optim.Optimizer] or Iterable
            All that may step in this batch. To be called after `begin` and before the
            first step; costs one copy of parameters and moments.

        Gradients of parameters that belong to no module are put back as they were at
        `begin`; in the first shielded batch as they are now, since nobody knew of these
        parameters before.
        """
        if isinstance(optimizers, Mapping):
            optimizers = optimizers.values()
        self._undo.take(optimizers)
        known = set(map(id, self.forward_state.parameters))
        foreign = [p for p in self._undo.parameters if id(p) not in known]
        if not same(foreign, self._foreign):
            self._foreign = foreign
            self._foreign_gradients.take(foreign)
        self._shielded = True

    def rollback(self) -> None:
        """Put everything back, as if the batch had never been delivered."""
        self.forward_state.restore()
        if self._shielded:
            self._undo.restore()
        self.random.restore()
        self.gradients.restore()
        if self._foreign:
            self._foreign_gradients.restore()
