"""Which part of the latent each quantizer sees: a band of it, or a few directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from speechbrain_ext.quantization.arguments import check_arguments


def make_subspaces(
    dim: int,
    num_stages: int,
    codebook_dim: int | None,
    group_sizes: Sequence[int] | None,
    stage_groups: Sequence[int] | None,
) -> Bands | PrincipalDirections:
    """Check the arguments of `ResidualVectorQuantizer` and make what they ask for.

    Raises
    ------
    ValueError
        If an argument is out of range, or both kinds are asked for.
    """
    owner = "ResidualVectorQuantizer"
    if codebook_dim is not None:
        rules = [
            (
                group_sizes is None and stage_groups is None,
                "codebook_dim",
                codebook_dim,
                "given without group_sizes and stage_groups: choose one of the two",
            ),
            (
                1 <= codebook_dim <= dim,
                "codebook_dim",
                codebook_dim,
                f"between 1 and dim = {dim}",
            ),
        ]
        check_arguments(owner, rules)
        return PrincipalDirections(dim, codebook_dim, num_stages)
    sizes = [dim] if group_sizes is None else list(group_sizes)
    groups = None if stage_groups is None else list(stage_groups)
    rules = [
        (
            sum(sizes) == dim and min(sizes) >= 1,
            "group_sizes",
            sizes,
            f"positive and add up to dim = {dim}",
        ),
        (
            groups is None
            or len(groups) == num_stages
            and all(0 <= group < len(sizes) for group in groups),
            "stage_groups",
            groups,
            f"{num_stages} numbers from 0 to {len(sizes) - 1}",
        ),
    ]
    check_arguments(owner, rules)
    return Bands(sizes, groups, num_stages)


class Bands(nn.Module):
    """Contiguous groups of dimensions; each stage refines one of them.

    Arguments
    ---------
    group_sizes : Sequence[int]
        Widths of the groups, in order; they add up to the latent's dimension.
    stage_groups : Sequence[int] or None
        Group of each stage. None: undecided; stages take turns until `decide`.
    num_stages : int
        Number of stages.
    """

    def __init__(
        self,
        group_sizes: Sequence[int],
        stage_groups: Sequence[int] | None,
        num_stages: int,
    ) -> None:
        super().__init__()
        self.group_sizes = tuple(int(size) for size in group_sizes)
        self.undecided = stage_groups is None and len(self.group_sizes) > 1
        if stage_groups is None:
            stage_groups = [i % len(self.group_sizes) for i in range(num_stages)]
        starts = [sum(self.group_sizes[:g]) for g in range(len(self.group_sizes))]
        self._slices = [
            slice(start, start + size)
            for start, size in zip(starts, self.group_sizes, strict=True)
        ]
        self.register_buffer("stage_groups", torch.tensor(stage_groups))
        self.groups = tuple(int(group) for group in stage_groups)

    @property
    def width(self) -> int:
        """Width of the widest stage."""
        return max(self.group_sizes)

    def width_of(self, stage: int) -> int:
        """Return the dimensions that one stage codes."""
        return self.group_sizes[self.groups[stage]]

    def decide(self, stage: int, residual: torch.Tensor) -> None:
        """Before a stage is initialised: give it the group with most energy left."""
        if self.undecided:
            energies = [residual[:, s].square().sum() for s in self._slices]
            group = int(torch.stack(energies).argmax())
            self.stage_groups[stage] = group
            self.refresh()

    def refresh(self) -> None:
        """Read the groups back from the buffer, after it was loaded or received."""
        self.groups = tuple(self.stage_groups.tolist())

    def project(self, stage: int, residual: torch.Tensor) -> torch.Tensor:
        """View of what the stage codes, [n, width_of(stage)]."""
        return residual[:, self._slices[self.groups[stage]]]

    def subtract_(
        self, stage: int, residual: torch.Tensor, part: torch.Tensor, code: torch.Tensor
    ) -> torch.Tensor:
        """Take code vectors off the residual in place; return what is left of part."""
        return part.sub_(code)  # part is a view of the residual

    def add_(
        self,
        stage: int,
        target: torch.Tensor,
        code: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> None:
        """Add (scaled) code vectors to the stage's part of target, [n, dim]."""
        part = target[:, self._slices[self.groups[stage]]]
        if scale is None:
            part.add_(code)
        else:
            part.addcmul_(code, scale)  # without a copy

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ) -> None:
        loaded = state_dict.get(prefix + "stage_groups")
        if loaded is not None and loaded.numel():
            highest = int(loaded.max())
            if highest >= len(self.group_sizes):
                errors.append(
                    f"{prefix}stage_groups: the checkpoint refines group {highest}, but"
                    f" group_sizes has {len(self.group_sizes)} groups; load it into a "
                    "quantizer with the same group_sizes"
                )
                return
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        self.refresh()


class PrincipalDirections(nn.Module):
    """Low-dimensional codes: each stage codes the residual's principal directions.

    The factorised codes of Yu et al., 2021 (https://arxiv.org/abs/2110.04627) as used
    by DAC, with one difference: the projection is orthonormal and found by `decide`
    (a PCA of the residual that reaches the stage), not learned by gradient. So it can't
    collapse, the search is exact in the plane that is coded, and the cost of the
    search falls by ``dim / codebook_dim``. What lies outside the plane stays in the
    residual, for the next stage.

    Arguments
    ---------
    dim : int
        Dimensions of the latent.
    codebook_dim : int
        Dimensions that each stage codes.
    num_stages : int
        Number of stages.
    """

    undecided = False

    def __init__(self, dim: int, codebook_dim: int, num_stages: int) -> None:
        super().__init__()
        self.width = codebook_dim
        random = torch.randn(num_stages, dim, codebook_dim)
        self.register_buffer("directions", torch.linalg.qr(random).Q.contiguous())

    def width_of(self, stage: int) -> int:
        """Return the dimensions that one stage codes."""
        return self.width

    def decide(self, stage: int, residual: torch.Tensor) -> None:
        """Before a stage is initialised: take the directions with most energy."""
        # About zero, not about the mean: a stage subtracts directions, not an offset.
        second_moment = residual.t() @ residual
        vectors = torch.linalg.eigh(second_moment.double()).eigenvectors
        self.directions[stage] = vectors[:, -self.width :].to(residual.dtype)

    def refresh(self) -> None:
        """Nothing is kept outside the buffers."""

    def project(self, stage: int, residual: torch.Tensor) -> torch.Tensor:
        """Coordinates of the residual in the stage's directions, [n, codebook_dim]."""
        return residual @ self.directions[stage]

    def subtract_(
        self, stage: int, residual: torch.Tensor, part: torch.Tensor, code: torch.Tensor
    ) -> torch.Tensor:
        """Take code vectors off the residual in place; return what is left of part."""
        residual.addmm_(code, self.directions[stage].t(), alpha=-1)
        return part.sub_(code)

    def add_(self, stage: int, target: torch.Tensor, code: torch.Tensor, scale=None):
        """Add (scaled) code vectors to target, [n, dim], in place."""
        code = code if scale is None else code * scale
        target.addmm_(code, self.directions[stage].t())
