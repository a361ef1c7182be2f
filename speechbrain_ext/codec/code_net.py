"""How likely each code is: a small network and a tree of the codes of each stage.

The codes of a stage are the leaves of a binary tree, soft ones on one side and loud
ones on the other: what surrounds a cell tells how loud it is. A code is sent as the
turns on the way to it (the hierarchical softmax of Morin & Bengio, 2005): eight answers
for one of 256 codes. Trained in float32 by torch, run in integers held in float64, as
in `unary_net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import nn

from speechbrain_ext.codec.code_context import FEATURES, PARTS
from speechbrain_ext.codec.exact import MOST_LOGIT, ONE
from speechbrain_ext.codec.unary_net import (
    MOST_ACTIVATION,
    WEIGHT_ONE,
    activate,
)

#: Units of the hidden layers, and numbers that stand for a cell's last code; multiples
#: of four, for the compiler's sake.
HIDDEN, UNITS, CODE_FEATURES = 32, 16, 8
#: The last unit is always this, so that each turn has a bias among its weights.
CONSTANT = 4
_SMALL = {"prev", "nodes", "first", "previous", "second"}


class CodeNet(NamedTuple):
    """Rounded weights and tables, as compiled code takes them.

    Attributes
    ----------
    rank : np.ndarray
        Leaf of each code, int64 [stages, codebook_size].
    code : np.ndarray
        Code of each leaf, its inverse.
    energies : np.ndarray
        Of the parts of a code vector and their sum, see `code_context`, int64
        [stages, codebook_size, parts + 1].
    stage_bias : np.ndarray
        What the first layer adds in each stage, float64 [stages, HIDDEN].
    first, second, second_bias : np.ndarray
        [FEATURES, HIDDEN], [HIDDEN, UNITS], [UNITS].
    prev, previous : np.ndarray
        Numbers of a code as the last of a cell, [stages, codebook_size,
        CODE_FEATURES], and what they add in the first layer, [CODE_FEATURES, HIDDEN].
    nodes : np.ndarray
        Of each turn, [stages, leaves, UNITS]; the root is 1, and 2 n and 2 n + 1
        follow n.
    """

    rank: np.ndarray
    code: np.ndarray
    energies: np.ndarray
    stage_bias: np.ndarray
    first: np.ndarray
    second: np.ndarray
    second_bias: np.ndarray
    prev: np.ndarray
    previous: np.ndarray
    nodes: np.ndarray


def num_turns(codebook_size: int) -> int:
    """Return how many turns lead from the root to a code."""
    return max(codebook_size - 1, 1).bit_length()


def net_shapes(stages: int, codebook_size: int) -> dict[str, tuple]:
    """Shapes and dtypes of what `CodeNet` is kept as; all but ``code``."""
    leaves = 1 << num_turns(codebook_size)
    return {
        "rank": ((stages, codebook_size), torch.int16),
        "energies": ((stages, codebook_size, PARTS + 1), torch.int32),
        "stage_bias": ((stages, HIDDEN), torch.int32),
        "first": ((FEATURES, HIDDEN), torch.int16),
        "second": ((HIDDEN, UNITS), torch.int16),
        "second_bias": ((UNITS,), torch.int32),
        "prev": ((stages, codebook_size, CODE_FEATURES), torch.int16),
        "previous": ((CODE_FEATURES, HIDDEN), torch.int16),
        "nodes": ((stages, leaves, UNITS), torch.int16),
    }


def code_net(tensors: Mapping[str, torch.Tensor]) -> CodeNet:
    """Take kept weights into the form that compiled code takes."""
    # Large tables stay small, so that the processor's cache holds them.
    kinds = dict.fromkeys(("rank", "energies"), np.int64)
    kinds |= dict.fromkeys(("prev", "nodes"), np.int16)
    arrays = {
        name: np.ascontiguousarray(x.cpu().numpy().astype(kinds.get(name, np.float64)))
        for name, x in tensors.items()
    }
    code = np.argsort(arrays["rank"], axis=1, kind="stable")
    return CodeNet(code=code, **arrays)


def rank_codes(vectors: np.ndarray) -> np.ndarray:
    """Place the codes of a stage in its tree: by energy, so that turns are foreseeable.

    Arguments
    ---------
    vectors : np.ndarray
        [codebook_size, width].

    Returns
    -------
    np.ndarray
        Leaf of each code, int64 [codebook_size].

    Example
    -------
    >>> rank_codes(np.array([[2.0, 0], [0, 0], [0, -3], [1, 0]])).tolist()
    [2, 0, 3, 1]
    """
    rank = np.empty(len(vectors), np.int64)
    order = np.argsort(np.square(vectors).sum(1), kind="stable")
    rank[order] = np.arange(len(vectors))
    return rank


class ContextNet(nn.Module):
    """The network while it is trained.

    Arguments
    ---------
    rank : torch.Tensor
        int64, [stages, codebook_size], see `rank_codes`.

    Example
    -------
    >>> net = ContextNet(torch.arange(8).repeat(2, 1))
    >>> nothing = torch.zeros(3, dtype=torch.int64)
    >>> net(torch.zeros(3, FEATURES), nothing, nothing - 1, nothing).shape
    torch.Size([3])
    """

    def __init__(self, rank: torch.Tensor):
        super().__init__()
        stages, size = rank.shape
        self.register_buffer("rank", rank)
        self.turns = num_turns(size)
        self.leaves = 1 << self.turns
        self.first = nn.Linear(FEATURES, HIDDEN)
        self.stage = nn.Embedding(stages, HIDDEN)
        # The last row: no code before.
        self.prev = nn.Embedding(stages * size + 1, CODE_FEATURES)
        self.previous = nn.Linear(CODE_FEATURES, HIDDEN, bias=False)
        self.second = nn.Linear(HIDDEN, UNITS - 1)
        # A turn is like those of the other stages at the same place, and itself.
        self.common = nn.Embedding(self.leaves, UNITS - 1)
        self.own = nn.Embedding(stages * self.leaves, UNITS - 1)
        self.bias = nn.Embedding(stages * self.leaves, 1)
        for module in (self.stage, self.own, self.bias):
            nn.init.zeros_(module.weight)
        nn.init.normal_(self.prev.weight, std=0.1)
        nn.init.normal_(self.common.weight, std=0.05)

    @torch.no_grad()
    def center(self, features: torch.Tensor) -> None:
        """Start where the features are, [batch, FEATURES]."""
        self.first.weight.mul_(0.5)
        self.first.bias.copy_(
            torch.linspace(0, 0.5, HIDDEN) - self.first.weight @ features.mean(0)
        )

    def forward(
        self,
        features: torch.Tensor,
        stage: torch.Tensor,
        prev: torch.Tensor,
        code: torch.Tensor,
    ) -> torch.Tensor:
        """Return the bits of codes.

        Arguments
        ---------
        features : torch.Tensor
            See `code_context`, as real numbers, [batch, FEATURES].
        stage, code : torch.Tensor
            int64, [batch].
        prev : torch.Tensor
            stage * codebook_size + code of the cell's last code, -1 if it has none.

        Returns
        -------
        torch.Tensor
            [batch].
        """
        top = MOST_ACTIVATION / ONE
        nothing = self.prev.num_embeddings - 1
        last = self.prev(torch.where(prev < 0, nothing, prev))
        found = self.first(features) + self.stage(stage) + self.previous(last)
        found = self.second(found.clamp(0, top)).clamp(0, top)
        leaf = self.leaves + self.rank[stage, code]
        shifts = torch.arange(self.turns, 0, -1)
        node = leaf[:, None] >> shifts
        turn = (leaf[:, None] >> (shifts - 1)) & 1
        place = stage[:, None] * self.leaves + node
        weights = self.common(node) + self.own(place)
        logits = torch.einsum("btu,bu->bt", weights, found) + self.bias(place)[..., 0]
        sign = 1.0 - 2.0 * turn
        # Where there is nothing on the right, nothing is asked.
        asked = _right_leaf(node, shifts, self.leaves) < self.rank.shape[1]
        cost = nn.functional.softplus(sign * logits) * asked
        return cost.sum(1) / np.log(2)

    @torch.no_grad()
    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the rounded weights, see `net_shapes`; without ``energies``."""
        stages, size = self.rank.shape
        shape = stages, self.leaves, -1
        nodes = self.own.weight.view(shape) + self.common.weight
        bias = self.bias.weight.view(shape) / CONSTANT
        # Codes stand relative to none, which so takes no row and no question.
        nothing = self.prev.weight[-1]
        exact = {
            "stage_bias": self.first.bias + self.stage.weight + self.previous(nothing),
            "first": self.first.weight.T,
            "second": nn.functional.pad(self.second.weight.T, (0, 1)),
            "second_bias": nn.functional.pad(self.second.bias, (0, 1), value=CONSTANT),
            "prev": (self.prev.weight[:-1] - nothing).view(stages, size, -1),
            "previous": self.previous.weight.T,
            "nodes": torch.cat([nodes, bias], dim=2),
        }
        found = {"rank": self.rank.to(torch.int16)}
        for name, x in exact.items():
            small = name in _SMALL
            scale = WEIGHT_ONE if small else ONE * WEIGHT_ONE
            scale = ONE if name == "prev" else scale
            limit = 2**15 - 1 if small else 2**31 - 1
            x = (x.double() * scale).round().clamp(-limit, limit)
            found[name] = x.to(torch.int16 if small else torch.int32).contiguous()
        return found


def _right_leaf(node, shift, leaves):
    """First leaf to the right of a turn that is ``shift`` turns from the leaves."""
    return ((2 * node + 1) << (shift - 1)) - leaves


@njit(cache=True)
def hidden_units(net, stage, before, last, features, first, second):
    """Fill in the hidden layers, [HIDDEN] and [UNITS], of a code.

    Arguments
    ---------
    net : CodeNet
    stage : int
    before, last : int
        The stage before in the same cell, and its code; -1 if there is none.
    features : np.ndarray
        See `code_context.cell_features`.
    first, second : np.ndarray
    """
    # Four rows at a time, so that sums are read and written a fourth as often, and
    # bounds that the compiler knows: a third of the time.
    for unit in range(HIDDEN):
        first[unit] = net.stage_bias[stage, unit]
    for index in range(0, FEATURES, 4):
        a, b = features[index], features[index + 1]
        c, d = features[index + 2], features[index + 3]
        for unit in range(HIDDEN):
            first[unit] += (
                a * net.first[index, unit] + b * net.first[index + 1, unit]
            ) + (c * net.first[index + 2, unit] + d * net.first[index + 3, unit])
    if last >= 0:
        for index in range(0, CODE_FEATURES, 4):
            a = float(net.prev[before, last, index])
            b = float(net.prev[before, last, index + 1])
            c = float(net.prev[before, last, index + 2])
            d = float(net.prev[before, last, index + 3])
            for unit in range(HIDDEN):
                first[unit] += (
                    a * net.previous[index, unit] + b * net.previous[index + 1, unit]
                ) + (
                    c * net.previous[index + 2, unit]
                    + d * net.previous[index + 3, unit]
                )
    activate(first)
    for unit in range(UNITS):
        second[unit] = net.second_bias[unit]
    for index in range(0, HIDDEN, 4):
        a, b, c, d = first[index], first[index + 1], first[index + 2], first[index + 3]
        for unit in range(UNITS):
            second[unit] += (
                a * net.second[index, unit] + b * net.second[index + 1, unit]
            ) + (c * net.second[index + 2, unit] + d * net.second[index + 3, unit])
    activate(second)


# Sums may be added up in any order, since they are integers and exact.
@njit(cache=True, fastmath={"reassoc"})
def turn_index(net, stage, node, units):
    """Logit of turning right at a node, as an index of `squash_table`."""
    total = 0.0
    for index in range(UNITS):
        total += units[index] * float(net.nodes[stage, node, index])
    value = np.floor(total / WEIGHT_ONE + 0.5)
    return int(min(max(value, float(-MOST_LOGIT)), float(MOST_LOGIT))) + MOST_LOGIT
