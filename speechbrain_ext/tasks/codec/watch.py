"""Says when a discriminator is no help to its generator."""

from __future__ import annotations

import torch

#: Of real and of generated, so much right is a win of the discriminator,
_WIN = 0.995
#: and so much on average is chance.
_CHANCE = 0.505


class DiscriminatorWatch:
    """Looks at a discriminator's accuracy once per window, without waiting for it.

    Arguments
    ---------
    window : int
        Batches that are looked at together (>= 1).

    Attributes
    ----------
    state : str
        ``"fair"``, ``"wins"`` or ``"collapsed"``, of the last full window.

    Example
    -------
    >>> watch = DiscriminatorWatch(window=2)
    >>> for _ in range(2):
    ...     watch.add(torch.tensor(1.0), torch.tensor(1.0))
    >>> print(watch.look()[:54])
    discriminator: 100.0 % right over the last 2 batches:
    """

    def __init__(self, window: int = 1000):
        if window < 1:
            raise ValueError(f"DiscriminatorWatch: window must be >= 1, got {window}")
        self.window = window
        self.state = "fair"
        self.count = 0
        #: of both accuracies, on the device
        self.sums: torch.Tensor | None = None

    def add(self, real: torch.Tensor, fake: torch.Tensor) -> None:
        """Add one batch's accuracies; rebinding, so that a rejected one is undone."""
        both = torch.stack([real, fake])
        self.sums = both if self.sums is None else self.sums + both
        self.count += 1

    def look(self) -> str | None:
        """Return a warning at the end of a window whose state is new and not fair."""
        if self.sums is None or self.count < self.window:
            return None
        real, fake = (self.sums / self.count).tolist()
        batches, before = self.count, self.state
        self.sums, self.count = None, 0
        mean = (real + fake) / 2
        won = min(real, fake) >= _WIN
        self.state = "wins" if won else "collapsed" if mean <= _CHANCE else "fair"
        if self.state in ("fair", before):
            return None
        start = f"discriminator: {mean:.1%} right over the last {batches} batches"
        start = start.replace("%", " %")
        if won:
            return (
                f"{start}: it wins, and the codec learns little from it. Next: a lower "
                "--discriminator_schedule.update_probability or "
                "--discriminator_schedule.learning_rate_scale"
            )
        return (
            f"{start}, no better than chance: it has collapsed, or lags. Next: "
            "a higher --discriminator_schedule.update_probability, or, if its loss "
            "stays at 2, a lower --learning_rate"
        )
