"""More than one number in SpeechBrain's progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import speechbrain.core


@contextlib.contextmanager
def extra_progress(items: Callable[[], dict[str, float | str]]) -> Iterator[None]:
    """Show ``items()`` in every training bar that is opened inside this block.

    Stock ``Brain._fit_train`` owns its bar and shows ``train_loss`` alone; no hook
    gets hold of the bar. This exchanges the bar's class for the length of an epoch.

    Arguments
    ---------
    items : Callable[[], dict]
        Called after each batch; names and numbers or texts, in the order shown.
    """
    stock = speechbrain.core.tqdm

    class Bar(stock):
        def set_postfix(self, ordered_dict=None, refresh=True, **kwargs):
            shown = {**kwargs, **items()}
            if "loss" in shown:
                shown.pop("train_loss", None)  # the same number twice
            # As a dict and not as keywords: those would be sorted by name.
            super().set_postfix({**(ordered_dict or {}), **shown}, refresh)

    speechbrain.core.tqdm = Bar
    try:
        yield
    finally:
        speechbrain.core.tqdm = stock
