"""What a forward pass may change, kept so that it can be put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from speechbrain_ext.brain.memory.containers import (
    ATOMS,
    CONTAINERS,
    ContainerMemory,
    put_back,
    remember,
)
from speechbrain_ext.brain.memory.glance import Glance
from speechbrain_ext.brain.memory.identity import SameObjects, changed
from speechbrain_ext.brain.memory.shadow import TensorShadow
from speechbrain_ext.brain.memory.slots import (
    Slots,
    is_stock,
    module_names,
    recomputed,
)
from speechbrain_ext.brain.memory.streams import (
    GENERATORS,
    generator_state,
    set_generator_state,
)
from speechbrain_ext.brain.memory.watch import ParameterWatch

#: Frozen parameters are copied as buffers up to this many bytes; beyond it they are a
#: pretrained model, and only those that something was seen to write are.
FROZEN_BYTES = 2**28


def _kind(value: Any) -> str:
    """In which way a value is remembered."""
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, CONTAINERS):
        return "container"
    if isinstance(value, tuple) and not ATOMS.issuperset(map(type, value)):
        return "container"
    return "generator" if isinstance(value, GENERATORS) else "object"


class ForwardState:
    """Buffers and plain-attribute statistics of modules and of their Brain.

    Arguments
    ---------
    modules : torch.nn.Module
        All trained modules.
    owners : Callable[[], Iterable[object]]
        Gives further objects (or dicts) whose numbers, tensors and containers belong
        to the state (the Brain, its hparams, metric accumulators, the optimizers'
        parameter groups); asked again for each plan.

    Every slot is listed once (the plan); a batch then only reads the slots and asks
    whether they still hold the same objects. Of torch's own modules only what can
    move is read (`module_names`).

    Parameters that forward itself writes (an EMA kept in a trainable parameter) are
    found by `ParameterWatch` and copied from then on.

    Limits: containers of modules are put back at any depth, with the values of tensors
    in them; those of owners to the items they held (same objects). Attributes of any
    other type are put back to the same object. A buffer must not be resized in place.
    """

    def __init__(
        self,
        modules: torch.nn.Module,
        owners: Callable[[], Iterable[object]] = tuple,
    ):
        self._modules = modules
        self._owners = owners
        self.parameters: list[torch.nn.Parameter] = []
        self.watch = ParameterWatch()
        self._spaces: list[dict] = []
        self._sizes: list[int] | None = None
        #: Of modules, which seldom move, and of their owners, which count each batch.
        self._objects, self._numbers = Slots(), Slots()
        self._seen, self._counts = SameObjects(), SameObjects()
        self._owner_ids: set[int] = set()
        self._values: list = []
        self._buffers = TensorShadow()
        self._buffer_slots = Slots()
        self._attributes = TensorShadow(masks=True)
        self._attribute_slots = Slots()
        self._nests = ContainerMemory()
        self._glance: Glance | None = None

    def forget_plan(self) -> None:
        """List the slots anew before the next batch (objects were exchanged)."""
        self._sizes = None

    def _plan(self) -> None:
        """List every slot once; each batch then only reads them."""
        modules = list(self._modules.modules())
        owners = list(self._owners())
        self._owner_ids = {id(o) for o in owners if not isinstance(o, dict)}
        own = [o if isinstance(o, dict) else vars(o) for o in owners]
        objects, numbers, buffers, attributes = [], [], [], []
        nests = set()  # places of containers that belong to modules
        spaces = []
        for module in modules:
            for name, buffer in module._buffers.items():
                places = objects if buffer is None else buffers
                places.append((module._buffers, name))
            space, skipped = vars(module), recomputed(module)
            names = module_names(module)
            if names:
                spaces.append(space)
            for name in names:
                if isinstance(space[name], torch.Tensor) and name not in skipped:
                    attributes.append((space, name))
                else:
                    objects.append((space, name))
                    nests.add((id(space), name))
        for space in own:
            for name, value in space.items():
                tensor = isinstance(value, torch.Tensor)
                (attributes if tensor else numbers).append((space, name))
        buffers += self._written_parameters(modules)
        user = [module for module in modules if not is_stock(module)]
        #: Where something may be born: looked at for their sizes.
        self._spaces = spaces + own + [m._buffers for m in user]
        self._spaces += [m._parameters for m in user] + [m._modules for m in user]
        self._keys = [frozenset(space.keys()) for space in self._spaces]
        self._sizes = list(map(len, self._spaces))
        self.parameters = list(self._modules.parameters())
        self.watch.follow(modules)
        self._objects, self._numbers = Slots(objects), Slots(numbers)
        self._seen, self._counts = SameObjects(), SameObjects(self._numbers.read())
        self._glance = None
        self._buffer_slots, self._attribute_slots = Slots(buffers), Slots(attributes)
        self._values = self._objects.read() + self._numbers.read()
        kinds = list(map(_kind, self._values))
        places = self._objects.places + self._numbers.places
        deep = [(id(space), name) in nests for space, name in places]
        self._generator_places = [i for i, k in enumerate(kinds) if k == "generator"]
        self._nest_places, self._container_places = [], []
        for index, kind in enumerate(kinds):
            if kind == "container" and deep[index]:
                self._nest_places.append(index)
            elif isinstance(self._values[index], CONTAINERS):
                self._container_places.append(index)

    def _written_parameters(self, modules: list) -> list[tuple[dict, str]]:
        """Places of parameters that something else than an optimizer may write."""
        frozen = [
            (module, name)
            for module in modules
            for name, parameter in module._parameters.items()
            if parameter is not None and not parameter.requires_grad
        ]
        # A frozen parameter is a buffer by another name (EMA codebooks).
        size = sum(m._parameters[name].nbytes for m, name in frozen)
        if size > FROZEN_BYTES:
            frozen = [(m, name) for m, name in frozen if not is_stock(m)]
        places = [(module._parameters, name) for module, name in frozen]
        known = {(id(space), name) for space, name in places}
        return places + [
            (module._parameters, name)
            for module in modules
            for name in module._parameters.keys()
            if (id(module._parameters), name) not in known
            and self.watch.was_written(module, name)
        ]

    def _read(self) -> list | None:
        """Read every slot, or return None if the plan is out of date."""
        # Attributes born in the last forward (caches, first statistics) change sizes.
        if self._sizes is None or list(map(len, self._spaces)) != self._sizes:
            return None
        try:
            objects = self._objects.read()
            numbers = self._numbers.read()
            buffers = self._buffer_slots.read()
            attributes = self._attribute_slots.read()
        except KeyError:  # one was born and another one deleted
            return None
        found = objects + buffers + attributes
        settled = self._seen.are(found)
        moved = self._counts.follow(numbers)
        if not settled:
            moved += changed(self._values[: len(objects)], objects)
        for before, now in moved:
            # None that became a tensor, a list that became None: another way. An
            # exchanged owner (a fresh metric) takes its attributes with it.
            if _kind(before) != _kind(now) or id(before) in self._owner_ids:
                return None
        values = objects + numbers
        if settled:
            return values
        for tensors, shadow in (
            (buffers, self._buffers),
            (attributes, self._attributes),
        ):
            if not shadow.matches(tensors):
                if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
                    return None
                shadow.follow(tensors)
        self._seen, self._glance = SameObjects(found), None
        return values

    def take(self) -> None:
        """Remember the state; fast, since it runs before every batch."""
        if self.watch.learned:
            self.watch.learned = False
            self.forget_plan()
        read = self._read()
        if read is None:
            self._plan()
            read = self._read()
        self._values = values = read
        self._items = [(values[i], remember(values[i])) for i in self._container_places]
        self._states = [
            (values[i], generator_state(values[i])) for i in self._generator_places
        ]
        if self._nest_places:
            self._nests.take([values[i] for i in self._nest_places])
        self._buffers.take()
        self._attributes.take()
        self.watch.take(self.parameters)

    def glance(self) -> list[torch.Tensor] | None:
        """Return scalars that are all finite only if forward spoiled nothing.

        The look that most batches need; on a CPU alone. None, or a scalar that is not
        finite, says nothing: finite values may have a sum that is not, and what was
        bad before is allowed. Then `probe` tells.
        """
        shadows = (self._buffers, self._attributes)
        # Until then nobody knows what was bad from the start.
        if not all(shadow.quick is not None or not shadow.live for shadow in shadows):
            return None
        if self._glance is None:
            self._glance = Glance(*shadows)
        if not self._glance.trusted:
            return None
        try:
            now = self._buffer_slots.read() + self._attribute_slots.read()
        except KeyError:
            return None
        self.watch.look()
        signs = self._glance.signs(now)
        if signs is None:
            self._glance = None
        return signs

    def doubt_glance(self) -> None:
        """Trust `probe` alone, until the slots hold other tensors."""
        if self._glance is not None:
            self._glance.trusted = False

    def probe(self) -> torch.Tensor | None:
        """Return 0 if forward spoiled no buffer or attribute, else NaN (None: none).

        What was NaN or Inf before is not the batch's doing; -Inf is allowed in plain
        attributes, where attention masks are kept.
        """
        self.watch.look()
        total = None
        for shadow, slots in (
            (self._buffers, self._buffer_slots),
            (self._attributes, self._attribute_slots),
        ):
            if not slots:
                continue
            try:
                now = slots.read()
            except KeyError:
                now = [space.get(name) for space, name in slots.places]
            for part in shadow.spoiled_by(now):
                part = part.float()
                total = part if total is None else total + part.to(total.device)
        return total

    def restore(self) -> None:
        """Put everything back: values, identities, and nothing that is new."""
        self.watch.restore()
        for space, keys in zip(self._spaces, self._keys, strict=True):
            for name in [n for n in space.keys() if n not in keys]:
                del space[name]
        first = len(self._objects)
        self._objects.write(self._values[:first])
        self._numbers.write(self._values[first:])
        for container, items in self._items:
            put_back(container, items)
        for generator, state in self._states:
            set_generator_state(generator, state)
        if self._nest_places:
            self._nests.restore()
        for shadow, slots in (
            (self._buffers, self._buffer_slots),
            (self._attributes, self._attribute_slots),
        ):
            slots.write(shadow.live)
            shadow.restore()
