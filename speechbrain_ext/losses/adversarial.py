"""Hinge losses of a generator and of its discriminators."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def _mean(terms: Sequence[torch.Tensor], who: str) -> torch.Tensor:
    """Mean over the discriminators of the means of their terms, float32."""
    if not terms:
        raise ValueError(f"{who}: no logits: at least one discriminator is needed")
    return torch.stack([term.mean() for term in terms]).mean()


def hinge_generator_loss(fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Loss of who wants to be taken for real (Defossez et al., 2022, sec. 3.4).

        1/K sum_k mean max(0, 1 - D_k(fake))

    Arguments
    ---------
    fake : sequence of torch.Tensor
        Logits of K discriminators on the generated signal, any shapes.

    Returns
    -------
    torch.Tensor
        Scalar, float32, >= 0; no gradient comes from logits above 1.

    Example
    -------
    >>> hinge_generator_loss([torch.tensor([0.0, 3.0]), torch.tensor([-1.0])])
    tensor(1.2500)
    """
    return _mean([(1 - x.float()).relu() for x in fake], "hinge_generator_loss")


def hinge_discriminator_loss(
    real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Loss of who tells real from generated (Defossez et al., 2022, sec. 3.4).

        1/K sum_k mean max(0, 1 - D_k(real)) + mean max(0, 1 + D_k(fake))

    Arguments
    ---------
    real, fake : sequence of torch.Tensor
        Logits of K discriminators on both signals, any shapes.

    Returns
    -------
    torch.Tensor
        Scalar, float32, >= 0; 2 for logits that say nothing.

    Raises
    ------
    ValueError
        If there are not as many of both, or none.
    """
    who = "hinge_discriminator_loss"
    if len(real) != len(fake):
        raise ValueError(f"{who}: {len(real)} logits of real, {len(fake)} of fake")
    return _mean([(1 - x.float()).relu() for x in real], who) + _mean(
        [(1 + x.float()).relu() for x in fake], who
    )


@torch.no_grad()
def discriminator_accuracy(
    real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of logits on the right side of 0, for real and for generated signals.

    Arguments
    ---------
    real, fake : sequence of torch.Tensor
        As for `hinge_discriminator_loss`.

    Returns
    -------
    tuple of torch.Tensor
        Two scalars in [0, 1], float32; a logit of 0 is right for neither.
    """
    who = "discriminator_accuracy"
    return (
        _mean([(x > 0).float() for x in real], who),
        _mean([(x < 0).float() for x in fake], who),
    )
