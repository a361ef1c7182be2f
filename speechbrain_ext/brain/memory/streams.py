"""Random streams: the global ones, and generators that objects keep of their own."""

from __future__ import annotations

import ctypes
import random
import sys
from typing import Any

import numpy
import torch

#: The state of MT19937 in memory: 624 words of key and the position in it.
_TWISTER_BYTES = 625 * 4
#: Generators that may stand in an attribute of a module, of hparams or of a Brain.
GENERATORS = (
    torch.Generator,
    random.Random,
    numpy.random.Generator,
    numpy.random.RandomState,
)


def generator_state(generator: Any) -> Any:
    """Return the state of one of `GENERATORS`, to be given to `set_generator_state`."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, numpy.random.Generator):
        return generator.bit_generator.state
    return generator.get_state(legacy=False)


def set_generator_state(generator: Any, state: Any) -> None:
    """Put a generator back to what `generator_state` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


class _NumpyStream:
    """NumPy's global stream; asked in full only if it moved since it was last asked.

    A full answer costs 30 us, since NumPy builds its array of 624 words one by one,
    and most training loops never draw from this stream. So its memory is compared
    first, at the address that NumPy publishes for such uses.
    """

    def __init__(self):
        self.state: dict | None = None
        self._words = b""
        self._generator = None

    def take(self) -> None:
        words = self._read_words()
        if words is None or words != self._words or self.state is None:
            self.state = numpy.random.get_state(legacy=False)
            # A Gaussian kept for the next call moves without the words moving.
            settled = words is not None and not self.state.get("has_gauss", 1)
            self._words = words if settled and self._tells(words) else b""

    def _read_words(self) -> bytes | None:
        generator = numpy.random.mtrand._rand._bit_generator
        if generator is not self._generator:
            self._generator, self._words = generator, b""
            self._address = None
            if type(generator) is numpy.random.MT19937:
                self._address = generator.ctypes.state_address
        if self._address is None:
            return None
        return ctypes.string_at(self._address, _TWISTER_BYTES)

    def _tells(self, words: bytes) -> bool:
        """Whether the memory is laid out as this class believes."""
        state = self.state["state"]
        key = numpy.asarray(state["key"], numpy.uint32).tobytes()
        return words == key + numpy.int32(state["pos"]).tobytes()

    def restore(self) -> None:
        numpy.random.set_state(self.state)
        self._words = b""


class _PythonStream:
    """Python's global stream; asked in full only if it moved since it was last asked.

    A full answer is a tuple of 625 new integers. As with `_NumpyStream`, the memory is
    compared first; that it is laid out as CPython lays it out is proven once.
    """

    def __init__(self):
        self.state: tuple | None = None
        self._seen: tuple | None = None
        self._generator = None
        self._address: int | None = None

    def take(self) -> None:
        generator = random.getstate.__self__
        if generator is not self._generator:
            self._generator, self._seen = generator, None
            self._address = self._find(generator)
        if self._address is None:
            self.state = random.getstate()
            return
        # The Gaussian kept for the next call is an attribute.
        words = ctypes.string_at(self._address, _TWISTER_BYTES)
        seen = (words, generator.gauss_next)
        if seen != self._seen:
            self.state, self._seen = random.getstate(), seen

    @staticmethod
    def _find(generator: random.Random) -> int | None:
        """Address of position and key behind the object's head; None if not there."""
        head = object.__basicsize__
        if type(generator) is not random.Random or sys.implementation.name != "cpython":
            return None
        if type(generator).__base__.__basicsize__ < head + _TWISTER_BYTES:
            return None
        *key, position = generator.getstate()[1]
        words = numpy.array([position, *key], numpy.uint32).tobytes()
        address = id(generator) + head
        return address if ctypes.string_at(address, _TWISTER_BYTES) == words else None

    def hold(self, state: tuple | None) -> None:
        """Keep a state that came from somewhere else."""
        self.state, self._seen = state, None


class RandomStreams:
    """The global random streams: Python, NumPy, torch on CPU and on each GPU."""

    def __init__(self):
        self._numpy, self._python = _NumpyStream(), _PythonStream()
        self.torch_cpu: torch.Tensor | None = None
        self.torch_cuda: list[torch.Tensor] = []

    @property
    def python(self) -> tuple | None:
        """State of Python's global stream, as last taken."""
        return self._python.state

    @property
    def numpy(self) -> dict | None:
        """State of NumPy's global stream, as last taken."""
        return self._numpy.state

    def take(self) -> None:
        """Remember all streams; no wait for a GPU, whose streams live on the host."""
        self.torch_cpu = torch.get_rng_state()
        self._numpy.take()
        self._python.take()
        self.torch_cuda = []
        if torch.cuda.is_initialized():
            self.torch_cuda = torch.cuda.get_rng_state_all()

    def held(self) -> RandomStreams:
        """Return a copy that keeps what was last taken; it shares the states."""
        other = RandomStreams()
        other.torch_cpu, other.torch_cuda = self.torch_cpu, self.torch_cuda
        other._python.state, other._numpy.state = self.python, self.numpy
        return other

    def restore(self) -> None:
        """Put all streams back where they were."""
        torch.set_rng_state(self.torch_cpu)
        self._numpy.restore()
        random.setstate(self.python)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(self.torch_cuda)

    def state_dict(self) -> dict[str, Any]:
        """Return what was last taken, in types that ``weights_only=True`` reads.

        Returns
        -------
        dict
            ``torch_cpu`` (uint8 tensor), ``torch_cuda`` (one such tensor a device),
            ``python`` (version, words as an int64 tensor, next Gaussian or None),
            ``numpy`` (nested dict; arrays as int64 tensors).

        Raises
        ------
        RuntimeError
            If nothing was taken yet.
        """
        if self.torch_cpu is None:
            raise RuntimeError("RandomStreams: nothing taken yet; call take() first")
        version, words, gauss = self.python
        return {
            "torch_cpu": self.torch_cpu.clone(),
            "torch_cuda": [state.clone() for state in self.torch_cuda],
            "python": {
                "version": version,
                "words": torch.tensor(words, dtype=torch.int64),
                "gauss": gauss,
            },
            "numpy": _plain(self.numpy),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold the streams of a `state_dict`; `restore` then puts them in force.

        Raises
        ------
        ValueError
            If a stream is missing.
        """
        missing = {"torch_cpu", "torch_cuda", "python", "numpy"} - set(state)
        if missing:
            raise ValueError(
                f"RandomStreams: the state lacks {', '.join(sorted(missing))}; "
                "it must come from RandomStreams.state_dict()"
            )
        python = state["python"]
        self.torch_cpu = state["torch_cpu"].cpu()
        self.torch_cuda = [part.cpu() for part in state["torch_cuda"]]
        words = tuple(python["words"].tolist())
        self._python.hold((python["version"], words, python["gauss"]))
        self._numpy.state = _numpy_state(state["numpy"])
        self._numpy._words = b""


def _plain(state: Any) -> Any:
    """Give NumPy's state the types that torch reads back without trust."""
    if isinstance(state, dict):
        return {str(key): _plain(value) for key, value in state.items()}
    if isinstance(state, numpy.ndarray):
        if state.dtype.itemsize == 8 and state.dtype.kind == "u":
            return {"uint64": torch.from_numpy(state.view(numpy.int64).copy())}
        return torch.from_numpy(state.astype(numpy.int64))
    return state.item() if isinstance(state, numpy.generic) else state


def _numpy_state(state: Any) -> Any:
    """Undo `_plain`."""
    if isinstance(state, dict):
        if set(state) == {"uint64"}:
            return state["uint64"].numpy().view(numpy.uint64)
        return {key: _numpy_state(value) for key, value in state.items()}
    return state.numpy() if isinstance(state, torch.Tensor) else state
