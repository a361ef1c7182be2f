"""Take rows out of what `speechbrain.dataio.batch.PaddedBatch` has collated.

The rest is what its collate function makes of the remaining examples, bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.utils.data_utils import mod_default_collate


def like_pinned(original: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Pin the tensor's memory if the original's is."""
    return tensor.pin_memory() if original.is_pinned() else tensor


def take_rows(tensor: torch.Tensor, keep: list[int]) -> torch.Tensor:
    """Copy rows of a tensor [batch, ...] on its device."""
    index = torch.tensor(keep, dtype=torch.long, device=tensor.device)
    return like_pinned(tensor, tensor.index_select(0, index))


def restack(values: list) -> Any:
    """Stack values as PaddedBatch does; the same list where that is not possible."""
    try:
        return mod_default_collate(values)
    except (TypeError, ValueError, RuntimeError):
        return values


def take_padded(
    data: torch.Tensor, lengths: torch.Tensor, keep: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take rows of padded data and cut the padding back to the longest of them.

    Arguments
    ---------
    data : torch.Tensor
        Padded on the right, [batch, time, ...].
    lengths : torch.Tensor
        Relative lengths, the longest is 1, [batch].
    keep : list of int
        Rows.

    Returns
    -------
    tuple of torch.Tensor
        Data [len(keep), longest, ...] and lengths relative to the longest. Where
        samples can't be counted exactly, or padding is no constant, the rows are
        neither cut nor scaled.
    """
    counts = _counts(data, lengths)
    new_lengths = take_rows(lengths, keep)
    if counts is not None:
        counts = counts[keep]
        longest = int(counts.max())
        if longest < data.shape[1] and _ends_in_constant(data, keep, counts):
            data = data.narrow(1, 0, longest)
            scaled = _relative(counts, longest, lengths)
            new_lengths = like_pinned(lengths, scaled)
    return take_rows(data, keep), new_lengths


def _relative(counts: torch.Tensor, longest: int, like: torch.Tensor) -> torch.Tensor:
    # Python's division, then torch.tensor() of it, then .to(): three roundings, as in
    # batch_pad_right. A batch of one has length 1 even if it is empty.
    values = [count / longest if longest else 1.0 for count in counts.tolist()]
    return torch.tensor(values).to(device=like.device, dtype=like.dtype)


def _counts(data: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor | None:
    """Count the samples of each row [batch], on the host; None if not exact."""
    if data.ndim < 2 or lengths.ndim != 1 or not lengths.is_floating_point():
        return None
    time = data.shape[1]
    found = lengths.detach().cpu()
    if not time or not bool(torch.isfinite(found).all()):
        return None
    counts = (found.double() * time).round().long()
    if counts.min() < 0 or counts.max() != time:
        return None
    exact = torch.equal(_relative(counts, time, found), found)
    coarse = any(
        bool((_relative(counts + one, time, found) == found).any()) for one in (-1, 1)
    )
    return counts if exact and not coarse else None


def _ends_in_constant(
    data: torch.Tensor, keep: list[int], counts: torch.Tensor
) -> bool:
    """Whether all rows to keep hold one and the same value behind their samples."""
    if not int(counts.max()) and len(keep) > 1:
        return False  # nothing but empty utterances has no relative lengths
    places = torch.arange(data.shape[1])[None] >= counts[:, None]
    padding = take_rows(data, keep)[places.to(data.device)]
    return bool((padding == padding.flatten()[:1]).all())
