"""What a transform coder hears with: the numbers that a recipe or a search sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

#: Bands where the piecewise linear weights and fills have their knots, as parts of all.
_WEIGHT_KNOTS = np.linspace(0, 1, 6)
_FILL_KNOTS = np.linspace(0, 1, 4)


@dataclass(frozen=True)
class WaveSettings:
    """Where a coder is coarse, and what it puts where it sent nothing.

    Attributes
    ----------
    gamma : float
        How much of the envelope the steps follow, in [0, 1].
    weights_db : sequence of float
        Six knots from the lowest band to the highest: larger is coarser.
    fill : sequence of float
        Four knots: noise where nothing was sent, as part of the energy that is missing.
    fill_cap : float
        At most this many steps of noise.
    price : float
        Squared steps that a bit may save; see `coefficients`.
    filter_strength : float
        How much of its post-filter's change is made, in [0, 1].
    sends_envelope : bool
        Without an envelope there is one step for all, and no noise is filled in.
    """

    gamma: float = 0.6
    weights_db: Sequence[float] = (-7.0, -9.5, -3.0, 5.0, 9.0, 5.0)
    fill: Sequence[float] = (0.0, 0.27, 0.47, 0.33)
    fill_cap: float = 0.35
    price: float = 0.1
    filter_strength: float = 1.0
    sends_envelope: bool = True

    def __post_init__(self):
        for name in ("weights_db", "fill"):  # YAML has lists
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"WaveSettings: gamma lies in [0, 1], got {self.gamma}")
        for name, knots in (("weights_db", 6), ("fill", 4)):
            if len(getattr(self, name)) != knots:
                raise ValueError(
                    f"WaveSettings: {name} has {knots} knots, got {getattr(self, name)}"
                )
        if not 0 <= self.filter_strength <= 1:
            raise ValueError(
                "WaveSettings: filter_strength lies in [0, 1], got "
                f"{self.filter_strength}"
            )
        if self.price < 0 or self.fill_cap < 0 or min(self.fill) < 0:
            raise ValueError("WaveSettings: price, fill and fill_cap are not negative")

    def band_weights(self, num_bands: int) -> np.ndarray:
        """Weights of all bands in dB, [num_bands]."""
        at = np.linspace(0, 1, num_bands)
        return np.interp(at, _WEIGHT_KNOTS, self.weights_db)

    def band_fill(self, num_bands: int) -> np.ndarray:
        """Fill of all bands, [num_bands]."""
        return np.interp(np.linspace(0, 1, num_bands), _FILL_KNOTS, self.fill)

    # -- as one vector, for a search ------------------------------------------------

    def vector(self) -> np.ndarray:
        """All that a search may change, [14]."""
        edges = (self.fill_cap, self.price, self.filter_strength)
        return np.array([self.gamma, *self.weights_db, *self.fill, *edges])

    def with_vector(self, vector: np.ndarray) -> WaveSettings:
        """Return settings of a vector, brought into the ranges that are allowed."""
        return replace(
            self,
            gamma=float(np.clip(vector[0], 0, 1)),
            weights_db=tuple(float(x) for x in vector[1:7]),
            fill=tuple(float(max(x, 0)) for x in vector[7:11]),
            fill_cap=float(max(vector[11], 0)),
            price=float(max(vector[12], 0)),
            filter_strength=float(np.clip(vector[13], 0, 1)),
        )
