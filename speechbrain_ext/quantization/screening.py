r"""Nearest codes from products in bfloat16, made exact: half the time of float32.

Processors that multiply bfloat16 do so twice as fast as float32. Such products are too
coarse to tell the nearest code, but how coarse is known,
:math:`|x \cdot c - \hat x \cdot \hat c| \le
\|x - \hat x\| \|c\| + \|\hat x\| \|c - \hat c\|` (Cauchy and Schwarz), and the result
is rounded once more. Only codes that can still be the nearest, often one or two of a
thousand, are looked at again in float32: what is found is what a search in float32
finds.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

#: Rows at a time: their products (1 MB) stay in the second-level cache.
_BLOCK = 512
#: Columns whose best score is kept, so that most need no second look.
_CHUNK = 64
#: Relative errors of rounding to bfloat16, and of a sum of products in float32.
_ROUNDING, _SUMMING = np.float32(2.0**-8), np.float32(2.0**-22)
_LEAST, _MOST = np.int32(-(2**31)), np.int32(2**31 - 1)


@torch.no_grad()
def screened_codes(
    rows: torch.Tensor,
    codebook: torch.Tensor,
    half_norms: torch.Tensor,
) -> torch.Tensor:
    """Index of the codebook row nearest to each row, as `nearest_codes`.

    Arguments
    ---------
    rows, codebook, half_norms : torch.Tensor
        As there, on the CPU; the last is not left out.

    Returns
    -------
    torch.Tensor
        Codes, [n], int64.

    Example
    -------
    >>> book = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> rows = torch.tensor([[0.9, 0.8], [0.1, -3.0]])
    >>> screened_codes(rows, book, book.square().sum(1) / 2)
    tensor([1, 0])
    """
    num_rows, size = rows.shape[0], codebook.shape[0]
    rows, codebook = rows.contiguous(), codebook.contiguous()
    coarse_rows, coarse_book = rows.bfloat16(), codebook.bfloat16()
    norms = (2 * half_norms).sqrt()
    rounding = torch.linalg.vector_norm(codebook - coarse_book, dim=1)
    # Of a zero vector nothing is rounded.
    relative = (rounding / norms.clamp(min=1e-30)).numpy().max()
    codes = np.empty(num_rows, np.int64)
    products = torch.empty(min(_BLOCK, num_rows), size, dtype=torch.bfloat16)
    transposed = coarse_book.t()
    tables = half_norms.contiguous().numpy(), norms.numpy(), codebook.numpy()
    for start in range(0, num_rows, _BLOCK):
        stop = min(start + _BLOCK, num_rows)
        found = products[: stop - start]
        torch.mm(coarse_rows[start:stop], transposed, out=found)
        _decide(
            *(found.view(torch.uint16).numpy(), rows[start:stop].numpy()),
            *(coarse_rows[start:stop].view(torch.uint16).numpy(), *tables),
            *(relative, codes[start:stop]),
        )
    return torch.from_numpy(codes)


@njit(cache=True, inline="always")
def _widen(bits):
    """Return the number that the bits of a bfloat16 mean."""
    return np.float32(np.uint32(np.uint32(bits) << 16).view(np.float32))


@njit(cache=True, inline="always")
def _key(value):
    """Integer in the order of float32; it undoes itself, see `_number`."""
    bits = np.float32(value).view(np.int32)
    return np.int32(bits ^ np.int32(np.int32(bits >> 31) & _MOST))


@njit(cache=True, inline="always")
def _number(key):
    """Float32 of a `_key`."""
    return np.int32(key ^ np.int32(np.int32(key >> 31) & _MOST)).view(np.float32)


@njit(cache=True)
def _most(products, half_norms, norms, slack):
    """Key of the most that a score may be."""
    # The compiler uses all lanes of a processor for the maximum of integers only, and
    # where it sees that no index is negative.
    best = np.int32(_LEAST)
    for code in range(len(half_norms)):
        score = _widen(products[code]) - half_norms[code]
        key = _key(score + slack * norms[code])
        if key > best:
            best = key
    return best


# The order of sums is left to the compiler, so that it may use all lanes.
@njit(cache=True, fastmath={"reassoc", "nsz", "contract"})
def _score(row, code_vector, half_norm):
    """Score of a code in float32."""
    total = np.float32(0)
    for index in range(len(row)):
        total += row[index] * code_vector[index]
    return total - half_norm


@njit(cache=True, fastmath={"reassoc", "nsz", "contract"})
def _slack(row, coarse, relative):
    """How far off a product of a row may be, by the norm of the code vector."""
    energy, rounding = np.float32(0), np.float32(0)
    for index in range(len(row)):
        value = _widen(coarse[index])
        energy += value * value
        rounding += (row[index] - value) * (row[index] - value)
    energy, rounding = np.sqrt(energy), np.sqrt(rounding)
    summing = _SUMMING * np.float32(len(row))
    total = rounding + energy * (relative + _ROUNDING + summing)
    return np.float32(np.float32(1.01) * total)


@njit(cache=True)
def _decide(products, rows, coarse_rows, half_norms, norms, codebook, relative, codes):
    """Fill in codes, [n], from products, [n, codebook_size], and from float32."""
    size = len(half_norms)
    most = np.empty(-(-size // _CHUNK), np.int32)
    for index in range(len(rows)):
        slack = _slack(rows[index], coarse_rows[index], relative)
        first = 0
        for chunk in range(len(most)):
            part = slice(chunk * _CHUNK, min((chunk + 1) * _CHUNK, size))
            most[chunk] = _most(
                products[index, part], half_norms[part], norms[part], slack
            )
            if most[chunk] > most[first]:
                first = chunk
        # The likeliest chunk first: what its best has, others must be able to have.
        best, score = 0, np.float32(-np.inf)
        for turn in range(len(most)):
            chunk = turn if turn else first
            if turn == first:
                chunk = 0
            if _number(most[chunk]) < score:
                continue
            for code in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, size)):
                high = _widen(products[index, code]) - half_norms[code]
                if high + slack * norms[code] < score:
                    continue
                found = _score(rows[index], codebook[code], half_norms[code])
                if found > score or (found == score and code < best):
                    best, score = code, found
        codes[index] = best
