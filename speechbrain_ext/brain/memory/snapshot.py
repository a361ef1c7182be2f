"""All state of a run in memory: verified, taken at a commit point, put back whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from speechbrain_ext.brain.memory.containers import ATOMS, CONTAINERS, ContainerMemory
from speechbrain_ext.brain.memory.finite import (
    ALONE,
    FiniteCheck,
    is_float,
    zero_or_nan,
)
from speechbrain_ext.brain.memory.slots import REGISTRIES
from speechbrain_ext.brain.memory.streams import RandomStreams
from speechbrain_ext.brain.memory.transaction import Gradients

_WALK = ContainerMemory()


class StateSnapshot:
    """Everything a later batch could feel, in preallocated memory.

    Parameters, buffers, attributes of modules, optimizers with all their state, owners
    and further recoverables (schedulers, GradScaler, epoch counters) at any depth of
    containers, gradients inside an accumulation window, and the random streams.

    Arguments
    ---------
    modules : torch.nn.Module
        All trained modules.
    optimizers : Callable[[], Mapping[str, torch.optim.Optimizer]]
        Gives the optimizers; asked again each time.
    owners : Callable[[], Iterable[object]]
        Gives objects or dicts whose attributes belong to the state (`state_owners`).
    extra : Callable[[], Iterable[object]]
        Gives further recoverables: put back by ``state_dict`` and
        ``load_state_dict``, and those without by their attributes.

    Limits: one snapshot is held; the memory is that of parameters, moments and
    buffers once more. Other objects than those given are put back as the same objects.

    Example
    -------
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> snapshot = StateSnapshot(net)
    >>> snapshot.take()
    >>> before = net.weight.item()
    >>> _ = torch.nn.init.constant_(net.weight, torch.nan)
    >>> snapshot.verify()
    ['weight']
    >>> snapshot.restore()
    >>> net.weight.item() == before
    True
    """

    def __init__(
        self,
        modules: torch.nn.Module,
        optimizers: Callable[[], Mapping[str, torch.optim.Optimizer]] = dict,
        owners: Callable[[], Iterable[object]] = tuple,
        extra: Callable[[], Iterable[object]] = tuple,
    ):
        self._modules = modules
        self._optimizers = optimizers
        self._owners = owners
        self._extra = extra
        self._memory = ContainerMemory(through_modules=True)
        self._gradients = Gradients()
        self._streams = RandomStreams()
        self._opaque: list[tuple[Any, Any]] = []
        #: Of buffers and attributes, by name: elements that were never finite.
        self._exempt: dict[tuple[str, str], torch.Tensor] | None = None
        #: What `verify` looks at: all in one go, and one by one.
        self._check: FiniteCheck | None = None
        self._special: list[tuple] = []
        #: Of all of them, whose sum alone is asked for: finite where they are.
        self._quick: FiniteCheck | None = None
        self._scripted = False
        #: All that may have a gradient.
        self._parameters: list[torch.nn.Parameter] = []
        self.taken = False

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return self._memory.nbytes + self._gradients.nbytes

    @torch.no_grad()
    def verify(self) -> list[str]:
        """Look whether the live state is finite; one transfer from the device.

        Returns
        -------
        list[str]
            Names of the tensors that are not, [] if all is well. -Inf in plain
            attributes, and what buffers and attributes held from the start, is well.
        """
        if self._look() or self._check is None or self._scripted:
            self._list()
        if self._quick is not None:
            signs = self._quick.sums()
            if not signs or torch.isfinite(_add(signs)):
                return []
        flags = self._check.flags()
        flags += [self._flag(*one) for one in self._special]
        if not flags:
            return []
        if torch.isfinite(_add(flags)):
            self._quick = None  # what is allowed here has no finite sum
            return []
        return [
            f"{prefix}{name}"
            for prefix, name, tensor, kind in self._named_tensors()
            if not torch.isfinite(self._flag(prefix, name, tensor, kind))
        ]

    def _look(self) -> bool:
        """Whether the state may be made of other objects than at the last look."""
        roots = [self._modules, *self._optimizers().values()]
        roots += [o if isinstance(o, dict) else vars(o) for o in self._owners()]
        further = [item for item in self._extra() if not _has_own_state(item)]
        changed = self._memory.look(roots + list(map(_attributes, further)))
        if changed:
            self._check = None
            # What is bound inside of a scripted module shows nowhere.
            self._scripted = any(
                isinstance(module, torch.jit.ScriptModule)
                for module in self._modules.modules()
            )
            parameters = [*self._modules.parameters()]
            for optimizer in self._optimizers().values():
                for group in optimizer.param_groups:
                    parameters += group["params"]
            self._parameters = list(dict.fromkeys(parameters))
        return changed

    def _list(self) -> None:
        """List the tensors to be verified; they stay while `_look` finds the same."""
        held = list(self._named_tensors())
        if self._exempt is None:
            self._exempt = {}
            for prefix, name, tensor, kind in held:
                if kind in ("buffer", "attribute"):
                    bad = zero_or_nan(tensor).isnan()
                    if bad.any():
                        self._exempt[prefix, name] = bad
        special = [
            one for one in held if one[3] == "attribute" or one[:2] in self._exempt
        ]
        chosen = set(map(id, special))
        self._check = FiniteCheck([one[2] for one in held if id(one) not in chosen])
        self._special = special
        self._quick = (
            None if self._exempt else FiniteCheck([one[2] for one in held], alone=ALONE)
        )

    def _flag(self, prefix, name, tensor, kind) -> torch.Tensor:
        """0 if this tensor is as it may be, else NaN."""
        found = zero_or_nan(tensor, masks=kind == "attribute")
        exempt = self._exempt.get((prefix, name))
        if exempt is not None and exempt.shape == found.shape:
            found = found.masked_fill(exempt, 0.0)
        return found.sum()

    def _named_tensors(self) -> Iterator[tuple[str, str, torch.Tensor, str]]:
        """All dense float tensors of the state: prefix, name, tensor, kind."""
        names = {}
        for prefix, module in self._modules.named_modules():
            prefix = prefix + "." if prefix else ""
            for name, parameter in module._parameters.items():
                names[id(parameter)] = prefix + name
                if _can_be_read(parameter):
                    kind = "parameter" if parameter.requires_grad else "buffer"
                    yield prefix, name, parameter, kind
            for name, buffer in module._buffers.items():
                if _can_be_read(buffer):
                    yield prefix, name, buffer, "buffer"
            for name, value in vars(module).items():
                if name not in REGISTRIES:
                    for tensor in _tensors_in(value):
                        yield prefix, name, tensor, "attribute"
        for which, optimizer in self._optimizers().items():
            for parameter, moments in optimizer.state.items():
                owner = names.get(id(parameter), "a parameter")
                if not isinstance(moments, dict):
                    continue
                for name, value in moments.items():
                    for tensor in _tensors_in(value):
                        yield f"{which}: ", f"{name} of {owner}", tensor, "moment"
        for owner in self._owners():
            space = owner if isinstance(owner, dict) else vars(owner)
            for name, value in space.items():
                if _can_be_read(value):
                    yield "", str(name), value, "attribute"

    def take(self, *, looked: bool = False) -> None:
        """Remember the whole state, whatever it holds: `verify` first.

        Arguments
        ---------
        looked : bool
            Nothing moved since `verify`, so that it need not be looked for again.
        """
        if not looked:
            self._look()
        self._opaque = [
            (item, copy.deepcopy(item.state_dict()))
            for item in self._extra()
            if _has_own_state(item)
        ]
        self._memory.keep()
        self._gradients.take(self._parameters)
        self._streams.take()
        self.taken = True

    def restore(self) -> None:
        """Put the whole state back, bit for bit.

        Raises
        ------
        RuntimeError
            If nothing was taken yet.
        """
        if not self.taken:
            raise RuntimeError("StateSnapshot: nothing taken yet; call take() first")
        self._memory.restore()
        self._gradients.restore()
        for item, state in self._opaque:
            item.load_state_dict(copy.deepcopy(state))
        self._streams.restore()

    @torch.no_grad()
    def restore_tensors(self, names: Iterable[str]) -> list[str]:
        """Put single tensors back, where nothing was learned since `take`.

        Arguments
        ---------
        names : Iterable[str]
            As `verify` returned them.

        Returns
        -------
        list[str]
            Those that were not there at `take` and can't be put back.
        """
        wanted = set(names)
        kept = self._memory.kept_tensors()
        for prefix, name, tensor, _ in list(self._named_tensors()):
            if f"{prefix}{name}" in wanted and id(tensor) in kept:
                live, kept_values = kept[id(tensor)]
                live.copy_(kept_values)
                wanted.discard(f"{prefix}{name}")
        # An attribute that was bound to another tensor since.
        for prefix, module in self._modules.named_modules():
            prefix = prefix + "." if prefix else ""
            before = self._memory.kept_items(vars(module))
            for name, old in (before or {}).items():
                if f"{prefix}{name}" in wanted and id(old) in kept:
                    old.copy_(kept[id(old)][1])
                    vars(module)[name] = old
                    wanted.discard(f"{prefix}{name}")
        return sorted(wanted)


def _add(scalars: list[torch.Tensor]) -> torch.Tensor:
    device = scalars[0].device
    return torch.stack([scalar.float().to(device) for scalar in scalars]).sum()


def _has_own_state(item: Any) -> bool:
    return hasattr(item, "state_dict") and hasattr(item, "load_state_dict")


def _attributes(item: Any) -> dict:
    """Return the attributes by which an object is put back."""
    if not hasattr(item, "__dict__"):
        raise TypeError(
            f"StateSnapshot: {type(item).__name__} has neither attributes nor "
            "state_dict() and load_state_dict(); leave it out of extra"
        )
    return vars(item)


def _can_be_read(value: Any) -> bool:
    """Whether a value is a dense float tensor."""
    return (
        isinstance(value, torch.Tensor)
        and not isinstance(value, torch.nn.parameter.UninitializedTensorMixin)
        and value.layout is torch.strided
        and is_float(value)
    )


def _tensors_in(value: Any) -> Sequence[torch.Tensor]:
    """Dense float tensors in an attribute, at any depth of containers."""
    if type(value) in ATOMS:
        return ()
    if isinstance(value, torch.Tensor):
        return (value,) if _can_be_read(value) else ()
    if not isinstance(value, (tuple, *CONTAINERS)) or ATOMS.issuperset(
        map(type, value.values() if isinstance(value, dict) else value)
    ):
        return ()
    return [tensor for tensor in _WALK.walk([value])[1] if _can_be_read(tensor)]
