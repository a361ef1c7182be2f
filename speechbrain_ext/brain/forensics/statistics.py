"""What is known of data, labels and gradients in a few numbers: taken on an event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

#: Elements that are widened to double precision at a time: 32 MB.
_CHUNK = 1 << 22
#: Distinct labels and bad parameters that are listed at most.
_MAX_LISTED = 50


def tensor_statistics(tensor: torch.Tensor) -> dict[str, Any]:
    """Shape, dtype, counts of NaN and Inf, and min, max, mean, std of the rest.

    Arguments
    ---------
    tensor : torch.Tensor
        Any shape, dtype and device. Complex values count as two real ones, of a sparse
        tensor the stored ones. It is read in pieces, so that a large batch does not
        ask for several times its memory.

    Returns
    -------
    dict
        ``shape``, ``dtype``; ``nan`` and ``inf`` (floating point only); ``min``,
        ``max``, ``mean``, ``std`` (population) if any value is finite; for whole
        numbers ``unique`` (how many) and ``counts`` (text of a value -> how often, the
        50 most frequent).

    Example
    -------
    >>> tensor_statistics(torch.tensor([1.0, 3.0, float("nan")]))["mean"]
    2.0
    >>> tensor_statistics(torch.tensor([7, 7, 2]))["counts"]
    {'7': 2, '2': 1}
    """
    values = tensor.detach()
    statistics: dict[str, Any] = {
        "shape": list(values.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
    }
    if values.layout is not torch.strided:
        values = values.coalesce().values()
    if values.is_complex():
        values = torch.view_as_real(values)
    floating = values.is_floating_point()
    chunks = values.reshape(-1).split(_CHUNK)
    if floating:
        statistics["nan"] = sum(int(chunk.isnan().sum()) for chunk in chunks)
        statistics["inf"] = sum(int(chunk.isinf().sum()) for chunk in chunks)
    finite = [chunk[chunk.isfinite()] if floating else chunk for chunk in chunks]
    finite = [chunk for chunk in finite if chunk.numel()]
    if finite:
        count = sum(chunk.numel() for chunk in finite)
        mean = sum(chunk.double().sum().item() for chunk in finite) / count
        spread = sum((chunk.double() - mean).square().sum().item() for chunk in finite)
        statistics["min"] = min(chunk.double().min().item() for chunk in finite)
        statistics["max"] = max(chunk.double().max().item() for chunk in finite)
        statistics["mean"] = mean
        statistics["std"] = (spread / count) ** 0.5
        if not floating:
            statistics |= _label_statistics(torch.cat(finite))
    return statistics


def _label_statistics(values: torch.Tensor) -> dict[str, Any]:
    found, counts = values.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:_MAX_LISTED]
    return {
        "unique": found.numel(),
        "counts": {
            str(int(found[index])): int(counts[index]) for index in order.tolist()
        },
    }


@torch.no_grad()
def gradient_statistics(
    named: Iterable[tuple[str, torch.nn.Parameter]],
) -> dict[str, Any]:
    """Which parameters have a non-finite gradient, and which the largest one.

    Costly (some transfers a tensor): for events only, before the gradients are put
    back.

    Arguments
    ---------
    named : Iterable[tuple[str, torch.nn.Parameter]]
        ``modules.named_parameters()``.

    Returns
    -------
    dict
        ``parameters``, ``with_gradient``, ``nonfinite`` (counts of tensors),
        ``bad`` (up to 50 dicts ``name, shape, nan, inf`` in the order of the model),
        ``largest`` (up to 10 dicts ``name, max_abs, norm`` of finite gradients).
    """
    parameters, with_gradient, nonfinite = 0, 0, 0
    bad: list[dict] = []
    finite: list[dict] = []
    for name, parameter in named:
        parameters += 1
        if parameter.grad is None:
            continue
        with_gradient += 1
        grad = parameter.grad.detach()
        grad = grad.coalesce().values() if grad.is_sparse else grad
        nan, inf = int(grad.isnan().sum()), int(grad.isinf().sum())
        if nan or inf:
            nonfinite += 1
            place = {"name": name, "shape": list(grad.shape)}
            bad.append({**place, "nan": nan, "inf": inf})
        elif grad.numel():
            # Scaled by the largest value, so that the norm itself can't overflow.
            largest = grad.abs().max().double().item()
            norm = largest and largest * (grad.double() / largest).norm().item()
            finite.append({"name": name, "max_abs": largest, "norm": norm})
    finite.sort(key=lambda entry: -entry["max_abs"])
    return {
        "parameters": parameters,
        "with_gradient": with_gradient,
        "nonfinite": nonfinite,
        "bad": bad[:_MAX_LISTED],
        "largest": finite[:10],
    }
