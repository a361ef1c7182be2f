"""Learning the networks of the entropy coder from signals that are quantised."""

from __future__ import annotations

import numpy as np
import torch

from speechbrain_ext.codec.unary_net import UnaryNet, survival_loss


def fit_unary_net(
    features: np.ndarray,
    symbols: np.ndarray,
    places: torch.Tensor,
    num_symbols: int,
    *,
    at: np.ndarray | None = None,
    hidden: int,
    steps: int,
    seed: int,
    batch_size: int = 4096,
    learning_rate: float = 8e-3,
    progress=None,
) -> tuple[dict[str, torch.Tensor], float]:
    """Fit a network to what is likely.

    Arguments
    ---------
    features : np.ndarray
        float32, [examples, features].
    symbols : np.ndarray
        [examples].
    places : torch.Tensor
        What places tell, [places, place features].
    at : np.ndarray or None
        Places of the examples, [examples]; None: one after the other, again and again.
    num_symbols : int
        Questions of the network.
    hidden, steps, batch_size : int
    seed : int
        Of first weights and batches; the global streams are left alone.
    learning_rate : float
        Peak of the one cycle.
    progress : callable or None
        Called after each step.

    Returns
    -------
    (dict, float)
        Rounded weights, and bits per symbol over the last tenth of the steps.
    """
    x, y = torch.from_numpy(features), torch.from_numpy(symbols)
    at = np.arange(len(features)) % len(places) if at is None else at
    place = torch.from_numpy(np.asarray(at, np.int64))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UnaryNet(x.shape[1], places, num_symbols, hidden)
    optimizer = torch.optim.AdamW(net.parameters(), learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps
    )
    found = []
    for _ in range(steps):
        chosen = torch.randint(len(x), (batch_size,), generator=generator)
        loss = survival_loss(net(x[chosen], place[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        found.append(loss.item())
        if progress is not None:
            progress()
    return net.tensors(), float(np.mean(found[-max(steps // 10, 1) :]))
