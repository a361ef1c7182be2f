"""A batch that steps more than once is undone to the bit."""

import copy

import pytest
import torch
from torch import nn

from speechbrain_ext.brain.memory.transaction import Transaction


def moved(optimizer):
    """All state of an optimizer and of its parameters, as bytes and numbers."""
    found = []

    def walk(value, depth=0):
        if isinstance(value, torch.Tensor):
            grad = getattr(value, "grad", None) if value.is_leaf else None
            found.append((value.detach().contiguous().numpy().tobytes(), grad is None))
            if grad is not None:
                found.append(grad.numpy().tobytes())
        elif isinstance(value, dict):
            found.append(len(value))
            for key, item in value.items():
                walk(item)
                found.append(str(key) if not isinstance(key, torch.Tensor) else "")
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)
        elif isinstance(value, (int, float, str, bool, type(None))):
            found.append(value)

    walk(optimizer.param_groups)
    walk(dict(optimizer.state))
    walk(getattr(optimizer, "counter", None))
    return found


class Counting(torch.optim.SGD):
    """Keeps numbers of its own beside ``state``, as Lookahead and SAM do."""

    counter = 0

    def step(self, closure=None):
        self.counter += 1
        return super().step(closure)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 0.1, foreach=True),
    "tensor lr": lambda p: torch.optim.Adam(p, torch.tensor(0.1)),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1.0),
    "own numbers": lambda p: Counting(p, 0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_steps_of_a_shielded_batch_are_undone(name, steps_before, steps):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    stranger = nn.Parameter(torch.ones(2))  # optimized, but in no module
    optimizer = OPTIMIZERS[name]([*net.parameters(), stranger])
    transaction = Transaction(net)

    def train(value=1.0):
        def closure():
            optimizer.zero_grad()
            loss = net(torch.randn(5, 3) * value).square().mean()
            loss = loss + stranger.square().sum()
            loss.backward()
            return loss

        closure()
        optimizer.step(closure)
        optimizer.param_groups[0]["lr"] *= 0.9

    for _ in range(steps_before):
        transaction.begin()
        transaction.shield_optimizers([optimizer])
        train()
    before, buffers = moved(optimizer), copy.deepcopy(list(net.buffers()))
    transaction.begin()
    transaction.shield_optimizers({"all": optimizer})
    for _ in range(steps):
        train(float("nan"))
    assert moved(optimizer) != before
    transaction.rollback()
    assert moved(optimizer) == before
    assert all(map(torch.equal, net.buffers(), buffers))


def test_without_a_shield_steps_stay_and_a_shield_lasts_one_batch():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    transaction = Transaction(net)
    for _ in range(2):
        transaction.begin()
    transaction.shield_optimizers([optimizer])
    transaction.begin()
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    after = net.weight.detach().clone()
    transaction.rollback()
    assert torch.equal(net.weight, after)


def gan_step(nets, optimizers, x, *, bad=None):
    """One HiFiGAN-like batch: discriminator first, then generator."""
    generator, discriminator = nets
    fake = generator(torch.randn_like(x))
    loss = discriminator(fake.detach()).square().mean() + (
        (discriminator(x) - 1).square().mean()
    )
    (loss * (float("nan") if bad == "discriminator" else 1)).backward()
    optimizers["d"].step()
    optimizers["d"].zero_grad()
    loss = (discriminator(fake) - 1).square().mean()
    (loss * (float("nan") if bad == "generator" else 1)).backward()
    optimizers["g"].step()
    optimizers["g"].zero_grad()
    optimizers["d"].zero_grad()


@pytest.mark.parametrize("bad", ["discriminator", "generator"])
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_gan_that_never_saw_the_bad_batch_has_the_same_bits(bad, place):
    def trained(kinds):
        torch.manual_seed(2)
        nets = nn.ModuleList(
            [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Linear(3, 1)]
        )
        optimizers = {
            "g": torch.optim.Adam(nets[0].parameters(), 0.01),
            "d": torch.optim.AdamW(nets[1].parameters(), 0.01),
        }
        data = torch.Generator().manual_seed(4)
        transaction = Transaction(nets)
        for kind in kinds:
            x = torch.randn(4, 3, generator=data) if kind is None else torch.ones(4, 3)
            transaction.begin()
            transaction.shield_optimizers(optimizers)
            gan_step(nets, optimizers, x, bad=kind)
            if kind:
                transaction.rollback()
        state = [*map(moved, optimizers.values())], list(nets.state_dict().values())
        return state, torch.get_rng_state()

    clean = trained([None] * 5)
    dirty = trained([None] * place + [bad, bad] + [None] * (5 - place))
    assert clean[0][0] == dirty[0][0]
    assert all(map(torch.equal, clean[0][1], dirty[0][1]))
    assert torch.equal(clean[1], dirty[1])


def test_the_memory_of_the_undo_is_used_again():
    net = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(net.parameters())
    transaction = Transaction(net)
    blocks = []
    for _ in range(4):
        transaction.begin()
        transaction.shield_optimizers([optimizer])
        shadow = transaction._undo._memory._shadow
        blocks.append({key: b.data_ptr() for key, b in shadow.blocks.items()})
        net(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert blocks[1] == blocks[2] == blocks[3]
    # Parameters, two moments each, and a step counter each, four bytes an element.
    assert transaction._undo.nbytes == (20 * 3 + 2) * 4
