"""Hooks on optimizers and wrapped modules: the guard is asked whoever calls them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

from speechbrain_ext.brain.judging import judge_step

if TYPE_CHECKING:
    from speechbrain_ext.brain.guard import Guard


class StepHooks:
    """Hooks of one run of ``fit``; `release` leaves none behind.

    Arguments
    ---------
    guard : Guard
        It is asked before each ``optimizer.step()`` and, with several ranks, before a
        module speaks to the others.
    """

    def __init__(self, guard: Guard):
        self._guard = guard
        self._handles: list[Any] = []
        # Not by id: an optimizer that takes a dead one's place may take its id too.
        self._hooked: weakref.WeakSet = weakref.WeakSet()
        #: optimizers whose step() is running
        self._inside: list[torch.optim.Optimizer] = []

    def attach(self) -> None:
        """Set hooks on what has none yet; cheap, for each batch."""
        for name, optimizer in self._guard.optimizers().items():
            if optimizer not in self._hooked:
                self._hooked.add(optimizer)
                self._hook_optimizer(name, optimizer)
        if self._guard.agreement is not None:
            self._hook_wrapped_modules()

    def end_batch(self) -> None:
        """Forget steps that raised, and give each optimizer its own rate back."""
        self._inside.clear()
        self._guard.safer.after_step()

    def release(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooked.clear()

    def _hook_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Judge also where a recipe calls ``optimizer.step()`` by itself."""
        guard = self._guard

        # A subclass whose step() calls super().step() runs its hooks twice.
        def before(optimizer, args, kwargs):
            self._inside.append(optimizer)
            if guard.open and self._inside.count(optimizer) == 1:
                self.before_step(name, optimizer)

        def after(optimizer, args, kwargs):
            if optimizer in self._inside:
                self._inside.remove(optimizer)
            if optimizer not in self._inside:
                guard.safer.after_step()

        self._handles.append(optimizer.register_step_pre_hook(before))
        self._handles.append(optimizer.register_step_post_hook(after))

    def before_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Judge an optimizer's step, unless the last verdict has cleared it."""
        guard = self._guard
        key = id(optimizer)
        if key not in guard.cleared:
            judge_step(guard, {name: optimizer})
        guard.cleared.discard(key)
        # The first step of a batch needs an undo copy only where another verdict
        # follows in the same batch; until one batch has shown its way: always. While
        # batches are replayed, each one is judged once more at its end.
        if not guard.stepped and (guard.steps_twice is not False or guard.replaying):
            guard.transaction.shield_optimizers(guard.optimizers())
            guard.shielded = True
        guard.stepped.add(key)
        guard.safer.before_step(optimizer)

    def _hook_wrapped_modules(self) -> None:
        """Vote before a module speaks to the other ranks; know when it is done."""
        guard = self._guard
        for module in guard.brain.modules.modules():
            wrapped = isinstance(module, torch.nn.parallel.DistributedDataParallel)
            if not wrapped or module in self._hooked:
                continue
            self._hooked.add(module)

            def before(module, args):
                if guard.open and torch.is_grad_enabled():
                    if not guard.agreement.voted:
                        guard.hear("forward")
                    guard.agreement.inside_collectives = True

            def after(module, args, output):
                if guard.agreement is not None:
                    guard.agreement.inside_collectives = False

            self._handles.append(module.register_forward_pre_hook(before))
            self._handles.append(module.register_forward_hook(after))
