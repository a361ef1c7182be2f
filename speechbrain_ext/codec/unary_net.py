"""A small network that says how likely 0, 1, 2, ... are, in exact integers.

A symbol is sent as answers to "is it more than 0?", "more than 1?", ...; the network
gives the logit of each answer (the hazards of a discrete survival model). It is trained
in float32 by torch, then rounded; what runs in encoder and decoder are integers, held
in float64 where every sum and product is exact, so that the order of a sum, the number
of threads and the machine make no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import nn

from speechbrain_ext.codec.exact import MOST_LOGIT, ONE

#: Weights are integers of this scale, and smaller than 8.
WEIGHT_ONE = 4096
_MOST_WEIGHT = 8 * WEIGHT_ONE - 1
#: Activations end here: 64.
MOST_ACTIVATION = 64 * ONE


class IntegerNet(NamedTuple):
    """Rounded weights, as compiled code takes them: float64 that hold integers.

    Attributes
    ----------
    bias : np.ndarray
        What the first layer adds at each place, [places, hidden].
    first, second : np.ndarray
        Weights, [features, hidden], [hidden, hidden].
    last : np.ndarray
        Weights, [hidden, symbols]; a symbol's lie together in memory.
    second_bias, last_bias : np.ndarray
        [hidden], [symbols].
    """

    bias: np.ndarray
    first: np.ndarray
    second: np.ndarray
    second_bias: np.ndarray
    last: np.ndarray
    last_bias: np.ndarray


class UnaryNet(nn.Module):
    """The network while it is trained.

    Arguments
    ---------
    num_features : int
        Inputs that depend on what was coded before.
    places : torch.Tensor
        Inputs that depend on the place of a symbol only, [places, place features].
    num_symbols : int
        Symbols of their own; larger ones are an escape.
    hidden : int
        Units of both hidden layers.

    Example
    -------
    >>> net = UnaryNet(3, torch.linspace(0, 1, 5)[:, None], num_symbols=4, hidden=8)
    >>> net(torch.zeros(2, 3), torch.tensor([0, 4])).shape
    torch.Size([2, 4])
    """

    def __init__(
        self, num_features: int, places: torch.Tensor, num_symbols: int, hidden: int
    ):
        super().__init__()
        self.register_buffer("places", places.float(), persistent=False)
        self.first = nn.Linear(num_features, hidden)
        self.place = nn.Linear(places.shape[1], hidden, bias=False)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, num_symbols)

    def forward(self, features: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return the logit that a symbol is more than 0, 1, ...

        Arguments
        ---------
        features : torch.Tensor
            [batch, num_features].
        place : torch.Tensor
            int64, [batch].

        Returns
        -------
        torch.Tensor
            [batch, num_symbols].
        """
        found = self.first(features) + self.place(self.places)[place]
        top = MOST_ACTIVATION / ONE
        found = self.second(found.clamp(0, top)).clamp(0, top)
        return self.last(found)

    @torch.no_grad()
    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the rounded weights, int32, that `integer_net` takes."""
        bias = self.first.bias + self.place(self.places)
        return {
            "bias": _rounded(bias, ONE * WEIGHT_ONE, None),
            "first": _rounded(self.first.weight.T, WEIGHT_ONE, _MOST_WEIGHT),
            "second": _rounded(self.second.weight.T, WEIGHT_ONE, _MOST_WEIGHT),
            "second_bias": _rounded(self.second.bias, ONE * WEIGHT_ONE, None),
            "last": _rounded(self.last.weight.T, WEIGHT_ONE, _MOST_WEIGHT),
            "last_bias": _rounded(self.last.bias, ONE * WEIGHT_ONE, None),
        }


def _rounded(x: torch.Tensor, scale: int, most: int | None) -> torch.Tensor:
    found = (x.double() * scale).round()
    limit = most if most is not None else 2**31 - 1
    return found.clamp(-limit, limit).to(torch.int32).contiguous()


def integer_net(tensors: Mapping[str, torch.Tensor]) -> IntegerNet:
    """Take the weights of `UnaryNet.tensors` into the form that compiled code takes."""
    return IntegerNet(
        *(
            np.asarray(
                tensors[name].cpu().numpy(),
                np.float64,
                order="F" if name == "last" else "C",
            )
            for name in IntegerNet._fields
        )
    )


def survival_loss(logits: torch.Tensor, symbols: torch.Tensor) -> torch.Tensor:
    """Bits that the symbols cost, on average, without what follows an escape.

    Arguments
    ---------
    logits : torch.Tensor
        Of `UnaryNet`, [batch, num_symbols].
    symbols : torch.Tensor
        int64, [batch], >= 0.

    Example
    -------
    >>> even = torch.zeros(1, 3)
    >>> [survival_loss(even, torch.tensor([n])).item() for n in (0, 1, 2, 9)]
    [1.0, 2.0, 3.0, 3.0]
    """
    index = torch.arange(logits.shape[1], device=logits.device)
    symbols = symbols[:, None]
    # More than j: logit; not more than j: -logit; not asked: nothing.
    sign = torch.where(index < symbols, -1.0, 1.0)
    asked = index <= symbols
    cost = nn.functional.softplus(sign * logits) * asked
    return cost.sum(1).mean() / np.log(2)


class Scratch(NamedTuple):
    """Memory for one symbol.

    Attributes
    ----------
    first, second : np.ndarray
        Hidden units, [hidden].
    values, rows : np.ndarray
        What is not zero of a layer's input, and its index, [most inputs].
    """

    first: np.ndarray
    second: np.ndarray
    values: np.ndarray
    rows: np.ndarray


@njit(cache=True)
def new_scratch(net):
    """Return memory for an `IntegerNet`."""
    features, hidden = net.first.shape
    most = max(features, hidden)
    return Scratch(
        np.zeros(hidden), np.zeros(hidden), np.zeros(most), np.zeros(most, np.int64)
    )


@njit(cache=True)
def activate(sums):
    """Bring sums to activations, in place."""
    for index in range(len(sums)):
        value = np.floor(sums[index] / WEIGHT_ONE + 0.5)
        sums[index] = min(max(value, 0.0), float(MOST_ACTIVATION))


@njit(cache=True)
def keep_non_zero(scratch, count, row, value):
    """Note an input unless it is 0; returns how many there are."""
    scratch.values[count] = value
    scratch.rows[count] = row
    return count + (1 if value != 0.0 else 0)


# All sums are of integers, and exact: they may be taken in any order.
@njit(cache=True, fastmath={"reassoc", "contract"})
def add_noted(sums, scratch, count, weights):
    """Add ``values[i] * weights[rows[i]]`` of what is noted to ``sums``, [hidden]."""
    values, rows = scratch.values, scratch.rows
    whole = count - count % 4
    for index in range(0, whole, 4):
        a, b = values[index], values[index + 1]
        c, d = values[index + 2], values[index + 3]
        to_a, to_b = weights[rows[index]], weights[rows[index + 1]]
        to_c, to_d = weights[rows[index + 2]], weights[rows[index + 3]]
        for unit in range(len(sums)):
            found = a * to_a[unit] + b * to_b[unit] + c * to_c[unit] + d * to_d[unit]
            sums[unit] += found
    for index in range(whole, count):
        value, to = values[index], weights[rows[index]]
        for unit in range(len(sums)):
            sums[unit] += value * to[unit]


@njit(cache=True)
def run_hidden(net, place, scratch, count):
    """Fill in the hidden units, from what is noted of the features at a place."""
    first, second = scratch.first, scratch.second
    first[:] = net.bias[place]
    add_noted(first, scratch, count, net.first)
    activate(first)
    count = 0
    for index in range(len(first)):
        count = keep_non_zero(scratch, count, index, first[index])
    second[:] = net.second_bias
    add_noted(second, scratch, count, net.second)
    activate(second)


@njit(cache=True, fastmath={"reassoc", "contract"})
def logit_index(net, second, symbol):
    """Logit of "more than ``symbol``", as an index of `squash_table`."""
    weights, total = net.last[:, symbol], net.last_bias[symbol]
    for index in range(len(second)):
        total += second[index] * weights[index]
    value = np.floor(total / WEIGHT_ONE + 0.5)
    return int(min(max(value, float(-MOST_LOGIT)), float(MOST_LOGIT))) + MOST_LOGIT
