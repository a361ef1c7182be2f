"""k-means for codebooks: centroids with the counts that belong to them."""

from __future__ import annotations

import torch

from speechbrain_ext.quantization.codebook import CodebookBank
from speechbrain_ext.quantization.search import nearest_codes
from speechbrain_ext.quantization.subspaces import Bands, PrincipalDirections


@torch.no_grad()
def kmeans(
    frames: torch.Tensor,
    num_clusters: int,
    *,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's algorithm from randomly chosen frames.

    Each centroid returned is the mean of the ``count`` frames it was made of, so
    ``centroid * count`` is their sum: what an EMA codebook has to start from. (The
    code of EnCodec starts the sums at the bare centroids, which pulls every code
    towards zero at the first update.)

    Arguments
    ---------
    frames : torch.Tensor
        Training vectors, [n, width], finite.
    num_clusters : int
        Number of centroids, at most n.
    iterations : int
        Rounds of assignment and averaging.
    generator : torch.Generator or None
        Source of the start and of the frames given to clusters that stay empty, on
        the CPU; None takes torch's global CPU generator.

    Returns
    -------
    centroids : torch.Tensor
        [num_clusters, width], float32. A cluster still empty at the end (fewer
        distinct frames than clusters) holds some frame, with count 0.
    counts : torch.Tensor
        Frames per centroid, [num_clusters], float32, adding up to n.

    Raises
    ------
    ValueError
        If there are fewer frames than clusters.

    Example
    -------
    >>> frames = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
    >>> centroids, counts = kmeans(frames, 2)
    >>> [round(value, 2) for value in sorted(centroids.flatten().tolist())]
    [0.1, 5.1]
    """
    frames = frames.detach().float()
    num_frames = frames.shape[0]
    if num_frames < num_clusters:
        raise ValueError(
            f"kmeans: {num_clusters} clusters need at least as many frames, got "
            f"{num_frames}; give more frames or take a smaller codebook_size"
        )
    order = torch.randperm(num_frames, generator=generator).to(frames.device)
    centroids = frames[order[:num_clusters]]
    ones = frames.new_ones(num_frames)
    for round_index in range(iterations):
        codes = nearest_codes(frames, centroids)
        counts = frames.new_zeros(num_clusters).index_add_(0, codes, ones)
        sums = torch.zeros_like(centroids).index_add_(0, codes, frames)
        # Another part of the order each round: a start that found no frame of its
        # own (a copy of another start) is not tried twice.
        shift = (round_index + 1) * num_clusters
        spare = frames[order.roll(-shift)[:num_clusters]]
        empty = counts[:, None] == 0
        centroids = torch.where(empty, spare, sums / counts.clamp(min=1)[:, None])
    return centroids, counts


@torch.no_grad()
def fit_codebooks(
    bank: CodebookBank,
    subspaces: Bands | PrincipalDirections,
    frames: torch.Tensor,
    iterations: int,
    generator: torch.Generator | None,
) -> None:
    """Fill the codebooks stage after stage, each from what the ones before leave.

    Arguments
    ---------
    bank : CodebookBank
        Codebooks to fill; their sums start at centroid times count.
    subspaces : Bands or PrincipalDirections
        What each stage codes; asked to `decide` it before the stage is filled.
    frames : torch.Tensor
        Training vectors, [n, dim], float32 and finite; used up.
    iterations : int
        Rounds of k-means per stage.
    generator : torch.Generator or None
        As in `kmeans`.
    """
    for stage in range(bank.codebooks.shape[0]):
        subspaces.decide(stage, frames)
        part = subspaces.project(stage, frames)
        centroids, counts = kmeans(
            part, bank.codebooks.shape[1], iterations=iterations, generator=generator
        )
        bank.fill(stage, centroids, counts)
        vectors = centroids.index_select(0, nearest_codes(part, centroids))
        subspaces.subtract_(stage, frames, part, vectors)
