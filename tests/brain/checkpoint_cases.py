"""A small run's state, and the eight ways to spoil its newest checkpoint."""

import shutil
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import METAFNAME, Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_ext.brain.checkpoints.checkpoint import (
    VerifiedCheckpointer,
    guard_checkpointer,
)


def guarded(folder, *args, **kwargs):
    checkpointer = Checkpointer(folder, *args, **kwargs)
    guard_checkpointer(checkpointer)
    return checkpointer


KINDS = {"stock": Checkpointer, "ours": VerifiedCheckpointer, "guarded stock": guarded}


class Run:
    """A model with BatchNorm, its optimizer and an epoch counter."""

    def __init__(self, folder, kind=VerifiedCheckpointer, **kwargs):
        self.emb = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        self.optimizer = torch.optim.Adam(self.emb.parameters(), 0.1)
        self.counter = EpochCounter(100)
        self.folder = Path(folder)
        self.checkpointer = kind(
            folder,
            {"emb": self.emb, "optimizer": self.optimizer, "counter": self.counter},
            **kwargs,
        )

    def step(self, seed):
        """Move every part of the state."""
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        self.emb(inputs).square().sum().backward()
        self.optimizer.step()
        self.counter.current += 1

    def state(self):
        moments = self.optimizer.state_dict()["state"].values()
        return [
            *(x.clone() for x in self.emb.state_dict().values()),
            *(torch.as_tensor(x).clone() for m in moments for x in m.values()),
            torch.tensor(self.counter.current),
        ]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for x, y in zip(a, b, strict=True)
    )


def finite(state):
    return all(bool(torch.isfinite(x).all()) for x in state)


def _rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def _flip(path):
    weight = next(iter(torch.load(path).values()))
    data = bytearray(path.read_bytes())
    data[data.index(weight.numpy().tobytes()) + 2] ^= 64
    path.write_bytes(data)


def _poison(path):
    state = torch.load(path)
    next(iter(state.values())).view(-1)[0] = torch.nan
    torch.save(state, path)


def _half(data):
    return data[: len(data) // 2]


#: name -> what is done to the newest checkpoint's folder
CORRUPTIONS = {
    "emb.ckpt cut in half": lambda f: _rewrite(f / "emb.ckpt", _half),
    "emb.ckpt emptied": lambda f: _rewrite(f / "emb.ckpt", lambda data: b""),
    "emb.ckpt deleted": lambda f: (f / "emb.ckpt").unlink(),
    "one bit flipped": lambda f: _flip(f / "emb.ckpt"),
    "NaN weight inside": lambda f: _poison(f / "emb.ckpt"),
    "CKPT.yaml empty": lambda f: _rewrite(f / METAFNAME, lambda data: b""),
    "CKPT.yaml half": lambda f: _rewrite(f / METAFNAME, _half),
    "CKPT.yaml missing": lambda f: (f / METAFNAME).unlink(),
}


def outcome(folder, corruption, write, read):
    """Write two checkpoints, spoil the newer one, resume in a new object.

    Returns
    -------
    str
        ``"older one"`` if exactly the state of the older checkpoint was loaded.
    """
    shutil.rmtree(folder, ignore_errors=True)
    run = Run(folder, write)
    run.step(1)
    run.checkpointer.save_checkpoint({"loss": 2.0})
    older = run.state()
    run.step(2)
    newest = run.checkpointer.save_checkpoint({"loss": 1.0})
    newer = run.state()
    CORRUPTIONS[corruption](newest.path)
    fresh = Run(folder, read)
    try:
        fresh.checkpointer.recover_if_possible()
    except Exception as error:
        return f"crash: {type(error).__name__}"
    state = fresh.state()
    if same(state, older):
        return "older one"
    if same(state, newer):
        return "damage unseen"
    return "garbage loaded" if finite(state) else "NaN loaded"
