"""Which parameters does forward itself write? Found out on a few batches."""

from __future__ import annotations

import torch

from speechbrain_ext.brain.memory.shadow import TensorShadow

#: Parameters up to this many bytes are copied before the first batch.
_COPIED_BYTES = 2**26
#: Later, only version counters are compared, on every so many batches.
_EVERY = 50


class ParameterWatch:
    """Finds parameters that move before the optimizer's step.

    An EMA codebook kept in a trainable parameter, or one that forward re-assigns, is
    state like any buffer; but to copy all parameters before each batch would cost
    more than the guard may. So they are copied before the first batch alone, compared
    after its forward by their bits (which also shows writes through ``.data``), and on
    every 50th batch by identity and torch's version counter, which costs next to
    nothing. What was found is copied like a buffer from then on.

    Limits: models above 64 MiB, and those on a GPU, are watched by identity and version
    counter alone; the batch in which such a write is first seen cannot be undone.
    """

    def __init__(self):
        #: Something was found since this was last set to False.
        self.learned = False
        #: Names (of the module's type and parameter) that forward writes.
        self.written: set[str] = set()
        self._places: set[tuple[int, str]] = set()
        self._count = 0
        self._modules: list[torch.nn.Module] = []
        self._slots: list[tuple] = []
        self._watching = False
        self._shadow: TensorShadow | None = None

    def was_written(self, module: torch.nn.Module, name: str) -> bool:
        """Whether forward was seen to write this parameter."""
        return (id(module), name) in self._places

    def follow(self, modules: list[torch.nn.Module]) -> None:
        """Watch the parameters of these modules from now on."""
        self._modules = [m for m in modules if m._parameters]

    def take(self, parameters: list) -> None:
        """Look at the parameters before a batch, if this batch is one to watch."""
        self._watching = self._count % _EVERY == 0
        first, self._count = self._count == 0, self._count + 1
        if not self._watching:
            self._shadow = None
            return
        self._slots = [
            (module, name, parameter, parameter._version)
            for module in self._modules
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.requires_grad
        ]
        size = sum(p.nbytes for p in parameters)
        on_cpu = all(p.device.type == "cpu" for p in parameters)
        if first and on_cpu and size <= _COPIED_BYTES:
            self._shadow = TensorShadow([slot[2] for slot in self._slots])
            self._shadow.take()

    def look(self) -> None:
        """Look again, before any step of an optimizer."""
        if not self._watching:
            return
        self._watching = False
        copies = {}
        if self._shadow is not None:
            copies = dict(zip(self._shadow.places, self._shadow.copies, strict=True))
        for index, (module, name, parameter, version) in enumerate(self._slots):
            now = dict(module._parameters.items()).get(name)
            moved = now is not parameter or now._version != version
            if not moved and index in copies:
                moved = not torch.equal(_bits(parameter.detach()), _bits(copies[index]))
            if moved:
                self._places.add((id(module), name))
                self.written.add(f"{type(module).__name__}.{name}")
                self.learned = True

    def restore(self) -> None:
        """Put back what forward wrote in the first batch."""
        self.look()
        if self._shadow is None:
            return
        for module, name, parameter, _ in self._slots:
            module._parameters[name] = parameter
        self._shadow.restore()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Compare NaN equal to itself, and 0.0 unlike -0.0."""
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor
