"""Labels out of range, found on the host before a GPU would end the process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from speechbrain_ext.brain.batches import batch_items, item_tensor

#: function -> (position and name of the labels, how many classes there are)
_CONSUMERS = {
    torch.nn.functional.cross_entropy: lambda x, t, *a, **k: (t, x.shape[1]),
    torch.nn.functional.nll_loss: lambda x, t, *a, **k: (t, x.shape[1]),
    torch.nn.functional.one_hot: lambda t, n=-1, **k: (t, n),
    torch.nn.functional.embedding: lambda t, w, *a, **k: (t, w.shape[0]),
}


class _Watch(TorchFunctionMode):
    """Notes which integer tensors are used as class labels, and of how many classes."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[torch.Tensor, int]] = []
        self.ignored: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        consumer = _CONSUMERS.get(func)
        if consumer is not None:
            with contextlib.suppress(Exception):
                names = {"tensor": "t", "target": "t", "num_classes": "n"}
                named = {names.get(key, key): value for key, value in kwargs.items()}
                labels, classes = consumer(*args, **named)
                if isinstance(named.get("ignore_index"), int):
                    self.ignored.add(named["ignore_index"])
                if not labels.is_floating_point() and classes > 0:
                    self.seen.append((labels.detach().cpu().flatten(), int(classes)))
        return func(*args, **kwargs)


class LabelCheck:
    """Compares the labels of each batch with the number of classes, before forward.

    Arguments
    ---------
    ranges : dict or None
        Name of a batch item -> number of classes. None: learned from the first batch:
        an item of integers whose values reach ``cross_entropy``, ``nll_loss``,
        ``one_hot`` or ``embedding`` unchanged has the classes that are counted there.
        That first batch itself can't be checked. A range that was learned may be a
        coincidence: where a batch that breaks it would only raise (on a CPU), it is
        tried, and the range forgotten if all goes well.

    A label of -100 (what torch's losses ignore), and an ``ignore_index`` that was seen
    in the first batch, are allowed.
    """

    def __init__(self, ranges: dict[str, int] | None):
        self.ranges = dict(ranges or {})
        self._known = ranges is not None
        self._ignored = {-100}
        self._learned: set[str] = set()
        #: name of the item that the last fault was found in, if its range was learned
        self.doubted: str | None = None

    def fault(self, batch: Any) -> str | None:
        """Describe the first label that is out of range, or return None.

        Only labels on the host are looked at: reading a GPU would make it wait.
        """
        self.doubted = None
        if not self.ranges:
            return None
        items = batch_items(batch)
        for name, classes in self.ranges.items():
            labels = item_tensor(items.get(name))
            if labels is None or labels.is_cuda or not labels.numel():
                continue
            low, high = (edge.item() for edge in labels.aminmax())
            if low < 0 or high >= classes:
                allowed = torch.tensor(sorted(self._ignored), dtype=labels.dtype)
                labels = labels[~torch.isin(labels, allowed)]
                if not labels.numel():
                    continue
                low, high = (edge.item() for edge in labels.aminmax())
            if low < 0 or high >= classes:
                self.doubted = name if name in self._learned else None
                worst = high if high >= classes else low
                return f"{name} holds {worst}, but there are {classes} classes"
        return None

    @contextlib.contextmanager
    def learning(self, batch: Any) -> Iterator[None]:
        """Learn the ranges from the first batch that goes through."""
        if self._known:
            yield
            return
        watch = _Watch()
        with watch:
            yield
        self._known = True
        self._ignored |= watch.ignored
        items = {
            name: item_tensor(item).detach().cpu().flatten()
            for name, item in batch_items(batch).items()
            if item_tensor(item) is not None
            and not item_tensor(item).is_floating_point()
        }
        for labels, classes in watch.seen:
            for name, values in items.items():
                # One number, or the same one all over, is too easily met by chance.
                if torch.equal(values, labels) and len(values.unique()) > 1:
                    self.ranges.setdefault(name, classes)
                    self._learned.add(name)

    def forget(self, name: str) -> None:
        """Compare this item no more: a batch that broke its range was fine."""
        self._learned.discard(name)
        self.ranges.pop(name, None)
