"""Rows of codes as bits: places, contexts, turns; and the choice of codes by both.

An encoder that has the latents chooses each code by the error that it leaves and the
bits that it takes (Chou, Lookabaugh & Gray, 1989, "Entropy-constrained vector
quantization"); the decoder need not know how.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from speechbrain_ext.codec import arithmetic
from speechbrain_ext.codec.code_context import (
    FEATURES,
    PARTS,
    add_code,
    cell_features,
    new_cells,
)
from speechbrain_ext.codec.code_net import hidden_units, turn_index
from speechbrain_ext.codec.exact import MOST_LOGIT
from speechbrain_ext.codec.symbols import DECODE, ENCODE, answer_bits, code_answer
from speechbrain_ext.quantization.places import new_walk, next_places, update_places

#: A code takes no more bytes than this, however unlikely: 16 turns of 12 bits.
MOST_BYTES = 24
#: Parts of a tree whose bits are known before a code is looked at.
_BOUNDS = 8
#: Cells of a row whose distances to all codes are computed at a time.
_BLOCK = 256


class Search(NamedTuple):
    """What codes are chosen from.

    Attributes
    ----------
    books : np.ndarray
        Code vectors, float32 [stages, width, codebook_size], filled up with zeros to
        the widest and to a multiple of four.
    half_norms : np.ndarray
        Half their energies, float32 [stages, codebook_size].
    start, width : np.ndarray
        Of each stage's part of the latents, int64 [stages].
    price : np.ndarray
        Half of the energy that a bit may cost after each last code, float32 [stages,
        codebook_size]; see `codes.prices`.
    first_price : np.ndarray
        The same for first stages, by the opening code, float32 [groups,
        codebook_size].
    """

    books: np.ndarray
    half_norms: np.ndarray
    start: np.ndarray
    width: np.ndarray
    price: np.ndarray
    first_price: np.ndarray


class Record(NamedTuple):
    """Where what is known of each code is written down, to learn from it.

    Attributes
    ----------
    features : np.ndarray
        int16, [codes, FEATURES]; [0, FEATURES]: nothing is.
    stage, prev, code : np.ndarray
        int32, [codes]; ``prev`` is stage * codebook_size + code of the cell's last
        code, -1 where there is none.
    """

    features: np.ndarray
    stage: np.ndarray
    prev: np.ndarray
    code: np.ndarray


def new_record(count: int) -> Record:
    """Return room for so many codes."""
    columns = (np.zeros(count, np.int32) for _ in range(3))
    return Record(np.zeros((count, FEATURES), np.int16), *columns)


def nothing_to_search() -> Search:
    """Return what stands for no search."""
    table = np.zeros((0, 0), np.float32)
    places = np.zeros(0, np.int64)
    return Search(np.zeros((0, 0, 0), np.float32), table, places, places, table, table)


@njit(cache=True)
def _code_turns(mode, coder, buffer, net, stage, code, units):
    """Count, write or read a code; returns it and its bits."""
    size = net.rank.shape[1]
    leaves = net.nodes.shape[1]
    leaf = leaves + net.rank[stage, code]
    node, half, bits = 1, leaves >> 1, 0.0
    while node < leaves:
        turn = 0
        # Where there is nothing on the right, nothing is asked.
        if (2 * node + 1) * half - leaves < size:
            index = turn_index(net, stage, node, units)
            turn = 1 if leaf & half else 0
            turn = code_answer(mode, coder, buffer, turn, index)
            bits += answer_bits(index, turn)
        node = 2 * node + turn
        half >>= 1
    return net.code[stage, node - leaves], bits


@njit(cache=True)
def _bits_of(net, stage, code, units, turns, width=1):
    """Bits of a code, or of the turns to the ``width`` leaves that it is among.

    ``turns`` keeps the logits of turns, -1 where not yet known.
    """
    size = net.rank.shape[1]
    leaves = net.nodes.shape[1]
    leaf = leaves + net.rank[stage, code]
    node, half, bits = 1, leaves >> 1, 0.0
    while half >= width:
        turn = 1 if leaf & half else 0
        if (2 * node + 1) * half - leaves < size:
            if turns[node] < 0:
                turns[node] = turn_index(net, stage, node, units)
            bits += answer_bits(turns[node], turn)
        node = 2 * node + turn
        half >>= 1
    return bits


@njit(cache=True)
def _least_bits(net, stage, units, turns, bounds):
    """Find about how few bits codes can have, by the first turns to them.

    Arguments
    ---------
    net, stage, units
        As in `_bits_of`.
    turns : np.ndarray
        As in `_bits_of`; forgets all it knew.
    bounds : np.ndarray
        Filled in with the bits of the first turns, and what the likeliest further turns
        take where they take least, float64 [2 ** first turns].

    Returns
    -------
    int
        Code that the likelier turns lead to.
    """
    size = net.rank.shape[1]
    leaves = net.nodes.shape[1]
    turns[:] = -1
    width = leaves // len(bounds)
    for part in range(len(bounds)):
        code = net.code[stage, min(part * width, size - 1)]
        bounds[part] = _bits_of(net, stage, code, units, turns, width)
    part = np.argmin(bounds)
    node, half, rest = len(bounds) + part, width >> 1, 0.0
    while node < leaves:
        turn = 0
        if (2 * node + 1) * half - leaves < size:
            turns[node] = turn_index(net, stage, node, units)
            turn = 1 if turns[node] > MOST_LOGIT else 0
            rest += answer_bits(turns[node], turn)
        node = 2 * node + turn
        half >>= 1
    bounds += rest
    return net.code[stage, node - leaves]


@njit(cache=True)
def _distances(search, latents, frames, stages, scores):
    """Fill in half the distances to all codes, less the latents' own half energy.

    Stage by stage: a codebook is read into the processor's cache once for all cells
    that it serves, which takes longer than to compute with it.

    Arguments
    ---------
    search : Search
    latents : np.ndarray
        See `code_rows`.
    frames, stages : np.ndarray
        int64 [cells].
    scores : np.ndarray
        float32 [cells, codebook_size].
    """
    size = scores.shape[1]
    for slot in np.argsort(stages):
        frame, stage = frames[slot], stages[slot]
        start = search.start[stage]
        for code in range(size):
            scores[slot, code] = search.half_norms[stage, code]
        # Four at a time; where the part ends before, the books hold zeros.
        for index in range(0, search.width[stage], 4):
            a, b = latents[frame, start + index], latents[frame, start + index + 1]
            c, d = latents[frame, start + index + 2], latents[frame, start + index + 3]
            for code in range(size):
                scores[slot, code] -= (
                    a * search.books[stage, index, code]
                    + b * search.books[stage, index + 1, code]
                ) + (
                    c * search.books[stage, index + 2, code]
                    + d * search.books[stage, index + 3, code]
                )


@njit(cache=True)
def _choose(net, stage, price, units, scores, turns, bounds):
    """Code of least error and bits, by its distances (see `_distances`)."""
    size = len(scores)
    best, least = 0, scores[0]
    for code in range(1, size):
        if scores[code] < least:
            best, least = code, scores[code]
    if price <= 0:
        return best
    likely = _least_bits(net, stage, units, turns, bounds)
    among = net.nodes.shape[1] // len(bounds)
    least += price * _bits_of(net, stage, best, units, turns)
    found = scores[likely] + price * _bits_of(net, stage, likely, units, turns)
    if found < least:
        best, least = likely, found
    for code in range(size):
        # Two looks before the bits are known: most codes are far away.
        if scores[code] < least:
            bound = price * bounds[net.rank[stage, code] // among]
            if scores[code] + bound < least:
                bits = _bits_of(net, stage, code, units, turns)
                if scores[code] + price * bits < least:
                    best, least = code, scores[code] + price * bits
    return best


@njit(cache=True)
def code_rows(
    mode, coder, buffer, net, order, codes, latents, search, most, trace, record
):
    """Code rows, one after the other.

    Arguments
    ---------
    mode, coder, buffer
        See `symbols` and `arithmetic`.
    net : CodeNet
    order : Order
    codes : np.ndarray
        int64 [rows, frames]; filled in when decoding or choosing.
    latents : np.ndarray
        What to choose codes for, float32 [frames, dim + 3] with zeros at the end; used
        up. [0, 0]: codes are as given.
    search : Search
    most : int
        Bytes; when encoding, the row that needs more is the last that is looked at.
    trace : np.ndarray
        float64 [rows, FIELDS + 1]: the coder after each row, and the row's bits.
    record : Record

    Returns
    -------
    int
        Rows that are whole and fit; -1 if what is read can't have been written.
    """
    rows, num_frames = codes.shape
    size = net.rank.shape[1]
    priority, allowance = new_walk(order, num_frames)
    cells = new_cells(num_frames, order.group.max() + 1)
    levels = np.zeros(priority.shape, np.int64)
    frames = np.empty(num_frames, np.int64)
    stages = np.empty(num_frames, np.int64)
    features = np.zeros(FEATURES)
    hidden = np.empty(net.first.shape[1])
    units = np.empty(net.second.shape[1])
    scores = np.empty((_BLOCK, search.books.shape[2]), np.float32)
    turns = np.empty(net.nodes.shape[1], np.int64)
    bounds = np.empty(min(_BOUNDS, net.nodes.shape[1]))
    lasts = cells[3]
    recorded = 0
    for row in range(rows):
        count = next_places(order, row, priority, levels, frames, stages)
        total = 0.0
        for index in range(count):
            if len(latents) and index % _BLOCK == 0:
                block = slice(index, min(index + _BLOCK, count))
                _distances(search, latents, frames[block], stages[block], scores)
            frame, stage = frames[index], stages[index]
            group, before = order.group[stage], order.before[stage]
            last = lasts[frame, group]
            energy = net.energies[before, last, PARTS] if last >= 0 else 0
            found = priority[frame, group] if order.adaptive else 0
            cell_features(cells, row, frame, group, energy, found, features)
            hidden_units(net, stage, before, last, features, hidden, units)
            if len(latents):
                if last >= 0:
                    price = search.price[before, last]
                else:
                    price = search.first_price[group, max(lasts[frame, 0], 0)]
                best = _choose(
                    net, stage, price, units, scores[index % _BLOCK], turns, bounds
                )
                start = search.start[stage]
                for part in range(search.width[stage]):
                    latents[frame, start + part] -= search.books[stage, part, best]
                codes[row, index] = best
            code = codes[row, index] if mode != DECODE else 0
            code, spent = _code_turns(mode, coder, buffer, net, stage, code, units)
            codes[row, index] = code
            total += spent
            if len(record.stage):
                record.features[recorded] = features
                record.stage[recorded] = stage
                record.prev[recorded] = before * size + last if last >= 0 else -1
                record.code[recorded] = code
                recorded += 1
            add_code(cells, frame, group, code, net.energies[stage, code])
            if order.adaptive:
                levels[frame, group] += 1
        codes[row, count:] = 0
        update_places(
            *(order, row, frames[:count], stages[:count], codes[row, :count]),
            *(priority, allowance),
        )
        for field in range(arithmetic.FIELDS):
            trace[row, field] = coder[field]
        trace[row, arithmetic.FIELDS] = total
        place = coder[arithmetic.PLACE]
        if mode == DECODE and place > len(buffer) + arithmetic.LOOK_AHEAD:
            return -1
        if mode == ENCODE and place + arithmetic.LOOK_AHEAD > most:
            return row
    return rows
