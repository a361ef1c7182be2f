"""Exact nearest-neighbour search in one codebook, in float32."""

from __future__ import annotations

import torch

#: Scores kept at a time. On a CPU one block (1 MB) stays in the second-level cache,
#: so that the maximum reads what the matrix product has just written; a GPU has no
#: such cache and wants few large launches.
SCORES_PER_BLOCK = {"cpu": 2**18, "cuda": 2**26}

#: Columns compared side by side in `_row_argmax`.
LANES = 32
#: With fewer scores one call of argmax is quicker than the five calls of the trick.
FEW_SCORES = 2**13
#: With fewer scores a search in bfloat16 first is not worth loading its compiler.
FEW_TO_SCREEN = 2**17


@torch.no_grad()
def half_square_norms(codebooks: torch.Tensor) -> torch.Tensor:
    """``||c||^2 / 2`` of the code vectors, [..., codebook_size, width] float32."""
    return torch.linalg.vector_norm(codebooks, dim=-1).square_().mul_(0.5)


@torch.no_grad()
def nearest_codes(
    rows: torch.Tensor,
    codebook: torch.Tensor,
    half_norms: torch.Tensor | None = None,
    *,
    screen: bool = False,
) -> torch.Tensor:
    r"""Index of the codebook row nearest to each row, in Euclidean distance.

    :math:`\arg\min_k \|x - c_k\|^2 = \arg\max_k\, x \cdot c_k - \|c_k\|^2 / 2`, so
    :math:`\|x\|^2` is never formed: it costs a pass and overflows first.

    Arguments
    ---------
    rows : torch.Tensor
        What to look up, [n, width], float32 and finite.
    codebook : torch.Tensor
        The code vectors, [codebook_size, width], float32 and finite.
    half_norms : torch.Tensor or None
        `half_square_norms` of the codebook, where the caller has them.
    screen : bool
        Whether processors that multiply bfloat16 may go by way of `screened_codes`. It
        takes half the time and is exact too, but of codes that are equally near but for
        rounding it may take another: for training, not for files.

    Returns
    -------
    torch.Tensor
        Codes, [n], int64.

    Example
    -------
    >>> book = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> nearest_codes(torch.tensor([[0.9, 0.8], [0.1, -3.0]]), book)
    tensor([1, 0])
    """
    if half_norms is None:
        half_norms = half_square_norms(codebook)
    num_rows, size = rows.shape[0], codebook.shape[0]
    screen = screen and num_rows * size >= FEW_TO_SCREEN
    if screen and multiplies_bfloat16(rows.device):
        from speechbrain_ext.quantization.screening import screened_codes

        return screened_codes(rows, codebook, half_norms)
    transposed = codebook.t()
    budget = SCORES_PER_BLOCK.get(rows.device.type, SCORES_PER_BLOCK["cuda"])
    block = max(1, budget // size)
    if num_rows <= block:
        return _row_argmax(torch.addmm(half_norms, rows, transposed, beta=-1))
    codes = torch.empty(num_rows, dtype=torch.int64, device=rows.device)
    scores = rows.new_empty(block, size)
    for start in range(0, num_rows, block):
        part = rows[start : start + block]
        found = scores[: part.shape[0]]
        torch.addmm(half_norms, part, transposed, beta=-1, out=found)
        codes[start : start + block] = _row_argmax(found)
    return codes


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a processor multiplies bfloat16 faster than float32."""
    knows = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return (
        device.type == "cpu"
        and knows is not None
        and torch.backends.mkldnn.is_available()
        and knows()
    )


def _row_argmax(scores: torch.Tensor) -> torch.Tensor:
    """Column of the largest score of each row, [n, size] -> [n].

    Of equals it takes the same one, however many rows there are: near silence scores
    are equal to the last bit, and a stream looks up few rows at a time.

    torch's CPU kernels that return an index are scalar, `amax` is vectorized. So the
    row is seen as a table of `LANES` columns: the column with the largest entry, then
    the entry in it. Twice as fast as argmax, and exact.
    """
    num_rows, size = scores.shape
    splits = size % LANES == 0 and size >= 4 * LANES
    if scores.device.type != "cpu" or not splits:
        return scores.argmax(1)
    table = scores.view(num_rows, size // LANES, LANES)
    if scores.numel() < FEW_SCORES:
        place = table.transpose(1, 2).reshape(num_rows, size).argmax(1)
        return place % (size // LANES) * LANES + place // (size // LANES)
    column = table.amax(1).argmax(1)
    picked = table.gather(2, column[:, None, None].expand(-1, table.shape[1], 1))
    return picked[..., 0].argmax(1) * LANES + column
