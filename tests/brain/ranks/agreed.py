"""Every fault that can be agreed, on either rank; `everything.py` runs them."""

import hashlib
import math
import os

import torch
from speechbrain import Stage
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from speechbrain_ext.brain.quarantine_file import write_quarantine
from speechbrain_ext.quantization import ResidualVectorQuantizer

RANK = int(os.environ["RANK"])
STEPS, BAD = 8, 5
CLASSES = 4


class Net(nn.Module):
    """A frame encoder with an EMA codebook whose statistics are reduced at commit."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.quantizer = ResidualVectorQuantizer(
            8, num_quantizers=2, codebook_size=4, init="normal"
        )
        self.last = nn.Linear(8, CLASSES)
        self.explode = False

    def forward(self, frames):
        hidden = self.first(frames).tanh()
        if self.explode:
            raise ValueError("inside the forward of the wrapped module")
        result = self.quantizer(hidden)
        return self.last(hidden + result.quantized).mean(1)


class Toy(NaNSafeBrain):
    """Names its faults by a word that travels in the batch."""

    def compute_forward(self, batch, stage):
        if batch["fault"] == "data error":
            raise RuntimeError("utterance too short")
        return self.modules.net(batch["frames"])

    def compute_objectives(self, logits, batch, stage):
        loss = nn.functional.cross_entropy(logits, batch["label"])
        if batch["fault"] == "loss only":
            loss = loss + torch.tensor(math.nan)
        if batch["fault"] == "spike":
            loss = loss * 1e4
        if batch["fault"] == "objective error":
            raise RuntimeError("a loss that raises")
        return loss


class OwnStep(Toy):
    """As many recipes write it: a fit_batch of its own."""

    def fit_batch(self, batch):
        loss = self.compute_objectives(
            self.compute_forward(batch, Stage.TRAIN), batch, Stage.TRAIN
        )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach().cpu()


def batches(rank, fault=None, *, scale=1.0):
    made = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(100 * rank + step)
        bad = fault is not None and step == BAD
        frames = torch.randn(4, 5, 6, generator=generator)
        label = torch.randint(CLASSES, (4,), generator=generator)
        if bad and fault == "nan":
            frames[1, 2, 3] = math.nan
        if bad and fault == "label":
            label[2] = CLASSES
        made.append(
            {
                "id": [f"r{rank}s{step}u{u}" for u in range(4)],
                "frames": frames * scale,
                "label": label,
                "fault": fault if bad else "",
            }
        )
    return made


def train(kind, data, *, corrupt=None, **policy):
    torch.manual_seed(7)
    brain = kind(
        {"net": Net()},
        lambda p: torch.optim.Adam(p, 1e-2),
        hparams={
            "nan_guard": NonFinitePolicy(
                snapshot_every=3,
                max_dumps=0,
                spike_warmup=3,
                **{"collective_timeout": 15, **policy},
            )
        },
        run_opts={
            "distributed_launch": True,
            "distributed_backend": "gloo",
            "device": "cpu",
            "noprogressbar": True,
        },
    )

    def feed():
        for step, batch in enumerate(data):
            if corrupt is not None and step == BAD:
                corrupt(brain)
            yield batch

    class Feed(torch.utils.data.IterableDataset):
        def __iter__(self):
            return feed()

    brain.fit([1], torch.utils.data.DataLoader(Feed(), batch_size=None))
    return brain


def digest(brain):
    state = hashlib.sha256()
    for name, tensor in sorted(brain.modules.state_dict().items()):
        state.update(name.encode() + tensor.numpy().tobytes())
    for entry in brain.optimizer.state.values():
        for value in entry.values():
            state.update(value.numpy().tobytes())
    return state.hexdigest()


def corrupt_here(where):
    def corrupt(brain):
        if where == RANK:
            with torch.no_grad():
                next(brain.modules.parameters())[0, 0] = math.nan

    return corrupt


def scenarios(folder):
    """Run all; scenario -> what this rank saw."""
    seen = {}

    def note(name, brain):
        seen[name] = {
            "state": digest(brain),
            "finite": all(
                bool(torch.isfinite(t).all())
                for t in brain.modules.state_dict().values()
                if t.is_floating_point()
            ),
            "rejected": brain.health.rejected,
            "replayed": brain.health.replayed,
            "causes": [incident["cause"] for incident in brain.incidents],
            "step": brain.optimizer_step,
        }

    clean = batches(RANK)
    without = [batch for step, batch in enumerate(clean) if step != BAD]
    for kind in (Toy, OwnStep):
        note(f"{kind.__name__} clean", train(kind, clean))
        note(f"{kind.__name__} without", train(kind, without))
    for where in (0, 1):
        for fault in (
            "nan",
            "spike",
            "data error",
            "loss only",
            "label",
            "objective error",
        ):
            for kind in (Toy, OwnStep):
                if kind is OwnStep and fault in ("objective error", "spike"):
                    continue
                data = batches(RANK, fault if where == RANK else None)
                ranges = {"label": CLASSES}
                note(
                    f"{kind.__name__} {fault} on {where}",
                    train(kind, data, spike="reject", label_ranges=ranges),
                )
        entry = {
            "reason": "bad",
            "cause": "exception",
            "epoch": 1,
            "batch": 1,
            "dump": None,
        }
        listed = {f"r{where}s{BAD}u{u}": dict(entry) for u in range(4)}
        path = folder / f"quarantine_{where}_{RANK}.json"
        write_quarantine(path, listed, {})
        brain = train(Toy, clean, quarantine_file=str(path))
        note(f"Toy quarantine on {where}", brain)
        note(f"Toy state on {where}", train(Toy, clean, corrupt=corrupt_here(where)))
    return seen
