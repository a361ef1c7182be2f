"""Additive angular margin softmax: classes are directions, kept apart by an angle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# Angles below this (in radians, to 0 or to pi) have a constant sine in the margin's
# formula, because the slope of sqrt(1 - cos^2) is infinite there.
_MIN_SINE = 1e-3


def unit_rows(rows: torch.Tensor, min_norm: float) -> torch.Tensor:
    """Divide each row by its length, or by ``min_norm`` where it is shorter.

    The gradient with respect to a row is at most ``1 / min_norm`` times the incoming
    one, for the zero row too. Components near the largest float do not overflow: the
    row is scaled by its largest component before it is squared.

    Arguments
    ---------
    rows : torch.Tensor
        [row, dim], float32 or float64.
    min_norm : float
        At least this is divided by (0 < min_norm <= 1).

    Returns
    -------
    torch.Tensor
        [row, dim]; NaN or Inf in a row is NaN in it, never hidden.

    Example
    -------
    >>> unit_rows(torch.tensor([[3e30, 4e30], [0.03, 0.04]]), min_norm=0.1)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    largest = rows.detach().abs().amax(-1, keepdim=True).clamp(min=1.0)
    return F.normalize(rows / largest, dim=-1, eps=min_norm)


class AAMSoftmax(nn.Module):
    """Cross-entropy of scaled cosines, with a margin on the target's angle.

    ArcFace, Deng et al., 2019, https://arxiv.org/abs/1801.07698, eq. 3; sub-centers by
    Deng et al., 2020 (ECCV, "Sub-center ArcFace"). With theta the angle between an
    embedding and its class:

        loss = -log(e^(s cos(theta + m)) / (e^(s cos(theta + m)) + sum_other e^(s cos)))

    Where theta + m would pass pi, and the cosine rise again, ``cos(theta) - m sin(m)``
    stands in its place, so that the target's logit falls with the angle everywhere.

    Values and gradients are finite for all finite embeddings: at cosines of +-1 and
    what rounding puts beyond, for zero, tiny and huge embeddings, for float16 and
    bfloat16. All is computed in float32 (float64 for float64), also inside autocast.
    A NaN in an embedding is a NaN in the loss: it is not hidden.

    Arguments
    ---------
    embedding_dim : int
        Length of an embedding.
    num_classes : int
        Number of speakers, or of speakers times speeds (>= 2).
    margin : float
        Angle m in radians, 0 to pi/2; `set_margin` changes it at run time.
    scale : float
        Factor s of all cosines (> 0).
    easy_margin : bool
        Only demand the margin where the cosine is positive already.
    sub_centers : int
        Directions of each class; the nearest one counts (>= 1).
    label_smoothing : float
        Share of the target given to all classes evenly, in [0, 1).
    min_norm : float
        Embeddings shorter than this are divided by it and not by their length. So the
        gradient with respect to one embedding is at most about
        ``2 * scale / min_norm / batch``, also at zero (0 < min_norm <= 1).

    Attributes
    ----------
    weight : torch.nn.Parameter
        [num_classes * sub_centers, embedding_dim]; the rows of a class follow each
        other. Drawn with an expected length of 1, whatever the number of classes.
    margin : float
        The margin of the coming forward.

    Raises
    ------
    ValueError
        If a setting is out of its range.

    Example
    -------
    >>> classifier = AAMSoftmax(8, num_classes=3)
    >>> loss, logits = classifier(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))
    >>> logits.shape, loss.shape
    (torch.Size([4, 3]), torch.Size([]))
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: float = 0.2,
        scale: float = 30.0,
        *,
        easy_margin: bool = False,
        sub_centers: int = 1,
        label_smoothing: float = 0.0,
        min_norm: float = 0.1,
    ):
        super().__init__()
        rules = {
            "embedding_dim": (embedding_dim, embedding_dim >= 1, ">= 1"),
            "num_classes": (num_classes, num_classes >= 2, ">= 2: one has no rival"),
            "scale": (scale, 0 < scale < math.inf, "> 0 and finite"),
            "sub_centers": (sub_centers, sub_centers >= 1, ">= 1"),
            "label_smoothing": (label_smoothing, 0 <= label_smoothing < 1, "in [0, 1)"),
            "min_norm": (min_norm, 0 < min_norm <= 1, "in (0, 1]"),
        }
        faults = [
            f"{name} must be {rule}, got {value}"
            for name, (value, is_right, rule) in rules.items()
            if not is_right
        ]
        if faults:
            raise ValueError("AAMSoftmax: " + "; ".join(faults))
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.scale = float(scale)
        self.easy_margin = easy_margin
        self.sub_centers = sub_centers
        self.label_smoothing = float(label_smoothing)
        self.min_norm = float(min_norm)
        self.set_margin(margin)
        self.weight = nn.Parameter(
            torch.empty(num_classes * sub_centers, embedding_dim)
        )
        # Not Xavier: its rows get shorter the more classes there are.
        nn.init.normal_(self.weight, std=embedding_dim**-0.5)

    def set_margin(self, margin: float) -> None:
        """Change the margin, in radians, from the next forward on.

        Raises
        ------
        ValueError
            If it is not in [0, pi/2]: beyond, the logit would not fall with the angle.
        """
        if not 0 <= margin <= math.pi / 2:
            raise ValueError(
                f"AAMSoftmax: margin must be an angle in [0, pi/2], got {margin}"
            )
        self.margin = float(margin)

    def extra_repr(self) -> str:
        """Name the settings in ``print(module)``."""
        return (
            f"{self.embedding_dim}, num_classes={self.num_classes}, "
            f"margin={self.margin:g}, scale={self.scale:g}, "
            f"sub_centers={self.sub_centers}"
        )

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        utt_ids: Sequence[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss of a batch.

        Arguments
        ---------
        embeddings : torch.Tensor
            [batch, embedding_dim], of any length and floating dtype.
        labels : torch.Tensor
            Class indices, [batch], integer.
        utt_ids : Sequence of str, optional
            Names for the message about a wrong label.

        Returns
        -------
        loss : torch.Tensor
            Mean over the batch, scalar.
        logits : torch.Tensor
            ``scale * cos`` without the margin, [batch, num_classes]: the largest one
            is the class that is recognised.

        Raises
        ------
        ValueError
            If shapes don't fit, the batch is empty, or a label is out of range. Labels
            on a GPU are not read, which would make it wait; one that is out of range
            makes the loss NaN and not the device fail.
        """
        self._check(embeddings, labels, utt_ids)
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = self.cosines(embeddings)
            labels = labels.long()
            # The index is clamped: a wrong one would end the process of a GPU.
            index = labels.clamp(0, self.num_classes - 1)
            loss = self._loss(cosines, index)
            if not self._is_on_host(labels):
                is_wrong = (labels != index).any()
                # A factor, not a choice, so that the gradient is NaN too.
                loss = loss * torch.where(is_wrong, math.nan, 1.0)
            return loss, self.scale * cosines

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosine to each class (its nearest sub-center), [batch, num_classes]."""
        dtype = torch.promote_types(embeddings.dtype, self.weight.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        cosines = F.linear(
            unit_rows(embeddings.to(dtype), self.min_norm),
            unit_rows(self.weight.to(dtype), self.min_norm),
        )
        if self.sub_centers > 1:
            cosines = cosines.unflatten(1, (self.num_classes, -1)).amax(-1)
        return cosines

    def _loss(self, cosines: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        column = labels.unsqueeze(1)
        moved = self._with_margin(cosines.gather(1, column))
        return F.cross_entropy(
            self.scale * cosines.scatter(1, column, moved),
            labels,
            label_smoothing=self.label_smoothing,
        )

    def _with_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        """cos(theta + m), or what stands in its place; elementwise."""
        cos_m, sin_m = math.cos(self.margin), math.sin(self.margin)
        # A product of differences, since 1 - cos^2 cancels. Clamped under the root:
        # outside, the infinite slope would meet a zero and be NaN.
        square = ((1 - cosine) * (1 + cosine)).clamp(min=_MIN_SINE**2)
        moved = cosine * cos_m - square.sqrt() * sin_m
        if self.easy_margin:
            return torch.where(cosine > 0, moved, cosine)
        return torch.where(cosine > -cos_m, moved, cosine - self.margin * sin_m)

    def _is_on_host(self, labels: torch.Tensor) -> bool:
        return labels.device.type == "cpu"

    def _check(self, embeddings, labels, utt_ids) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(
                f"AAMSoftmax: embeddings must be [batch, {self.embedding_dim}], got "
                f"{list(embeddings.shape)}"
            )
        if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"AAMSoftmax: labels must be integers [{len(embeddings)}], got "
                f"{labels.dtype} {list(labels.shape)}"
            )
        if not len(embeddings):
            raise ValueError("AAMSoftmax: the batch is empty; there is no mean loss")
        if not self._is_on_host(labels):
            return
        low, high = (int(edge) for edge in labels.aminmax())
        if low < 0 or high >= self.num_classes:
            is_wrong = (labels < 0) | (labels >= self.num_classes)
            row = int(is_wrong.nonzero()[0])
            name = f"row {row}" if utt_ids is None else utt_ids[row]
            raise ValueError(
                f"AAMSoftmax: {name}: label {int(labels[row])} is not in [0, "
                f"{self.num_classes - 1}], there are {self.num_classes} classes; was "
                "the classifier built from another manifest?"
            )
