"""Says when a discriminator is no help to its generator."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

#: Of real and of generated, so much right is a win of the discriminator,
_WIN = 0.995
#: and so much on average is chance.
_CHANCE = 0.505


@dataclass(frozen=True)
class DiscriminatorWatch:
    """A discriminator's accuracy, looked at once per window without waiting for it.

    Never changed but replaced, so that a Brain which holds one has the old one back
    with a batch that is rejected.

    Arguments
    ---------
    window : int
        Batches that are looked at together (>= 1).
    state : str
        ``"fair"``, ``"wins"`` or ``"collapsed"``, of the last full window.
    count : int
        Batches of this window so far.
    sums : torch.Tensor or None
        Of both accuracies over them, on the device, [2].

    Example
    -------
    >>> watch = DiscriminatorWatch(window=2)
    >>> for _ in range(2):
    ...     watch = watch.with_batch(torch.tensor(1.0), torch.tensor(1.0))
    >>> watch, warning = watch.looked_at()
    >>> watch.state, warning[:53]
    ('wins', 'discriminator: 100.0 % right over the last 2 batches:')
    """

    window: int = 1000
    state: str = "fair"
    count: int = 0
    sums: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse a window that never ends."""
        if self.window < 1:
            raise ValueError(
                f"DiscriminatorWatch: window must be >= 1, got {self.window}"
            )

    def with_batch(self, real: torch.Tensor, fake: torch.Tensor) -> DiscriminatorWatch:
        """Return a watch that has also seen one batch's accuracies, scalars."""
        both = torch.stack([real, fake])
        sums = both if self.sums is None else self.sums + both
        return replace(self, count=self.count + 1, sums=sums)

    def looked_at(self) -> tuple[DiscriminatorWatch, str | None]:
        """Return what goes on, and a warning where a window ends in a new bad state."""
        if self.sums is None or self.count < self.window:
            return self, None
        real, fake = (self.sums / self.count).tolist()
        mean, won = (real + fake) / 2, min(real, fake) >= _WIN
        state = "wins" if won else "collapsed" if mean <= _CHANCE else "fair"
        after = DiscriminatorWatch(self.window, state)
        if state in ("fair", self.state):
            return after, None
        start = f"discriminator: {100 * mean:.1f} % right over the last {self.count}"
        if won:
            return after, (
                f"{start} batches: it wins, and the codec learns little from it. Next: "
                "a lower --discriminator_schedule.update_probability or "
                "--discriminator_schedule.learning_rate_scale"
            )
        return after, (
            f"{start} batches, no better than chance: it has collapsed, or lags. Next: "
            "a higher --discriminator_schedule.update_probability, or, if its loss "
            "stays at 2, a lower --learning_rate"
        )
