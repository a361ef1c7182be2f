"""Noises, loaders and small modules that the recipes are made of."""

from __future__ import annotations

import functools

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch import nn
from torch.utils.data import DataLoader

NUM_SPEAKERS, NUM_TOKENS, PER_BATCH = 3, 5, 3
TRAIN, VALID, TEST = sb.Stage.TRAIN, sb.Stage.VALID, sb.Stage.TEST


def utterances(count: int, seed: int = 0, prefix: str = "utt") -> list[dict]:
    """Make short noises with a speaker and a few tokens each."""
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.randint, generator=generator)
    made = []
    for index in range(count):
        length = int(rand(900, 1400, ()))
        made.append(
            {
                "id": f"{prefix}{index}",
                "wav": 0.1 * torch.randn(length, generator=generator),
                "spk": rand(0, NUM_SPEAKERS, (1,)),
                "tokens": rand(1, NUM_TOKENS, (int(rand(1, 4, ())),)),
            }
        )
    return made


def poisoned(seed: int = 99) -> list[dict]:
    """One batch, one sample of which is NaN."""
    bad = utterances(PER_BATCH, seed, prefix="bad")
    bad[1]["wav"][5] = torch.nan
    return bad


def dataset(items: list[dict]) -> DynamicItemDataset:
    """A data set as recipes make them: dynamic items, output keys."""
    made = DynamicItemDataset(
        {
            f"{place}-{item['id']}": {k: v for k, v in item.items() if k != "id"}
            for place, item in enumerate(items)
        }
    )
    made.add_dynamic_item(torch.clone, takes="wav", provides="sig")
    made.set_output_keys(["id", "sig", "spk", "tokens"])
    return made


def as_dicts(items: list[dict]) -> DataLoader:
    """The same batches as plain dicts."""
    made = []
    padded = dataset(items)
    for start in range(0, len(items), PER_BATCH):
        rows = [padded[i] for i in range(start, min(start + PER_BATCH, len(items)))]
        batch = PaddedBatch(rows)
        made.append({k: batch[k] for k in ("id", "sig", "spk", "tokens")})
    return DataLoader(made, batch_size=None)


def run(brain, items: list[dict], *, kind: str = "padded", epochs: int = 2):
    """Train, validate after each epoch, then test the best checkpoint."""
    loader = {"batch_size": PER_BATCH}
    train = dataset(items) if kind == "padded" else as_dicts(items)
    valid = utterances(2 * PER_BATCH, seed=50, prefix="valid")
    valid = dataset(valid) if kind == "padded" else as_dicts(valid)
    counter = getattr(getattr(brain, "hparams", None), "epoch_counter", None)
    if counter is not None:
        counter.limit = epochs
    brain.fit(
        range(1, epochs + 1) if counter is None else counter,
        train,
        valid,
        train_loader_kwargs=dict(loader),
        valid_loader_kwargs=dict(loader),
    )
    if brain.checkpointer is not None:
        brain.evaluate(valid, min_key="error", test_loader_kwargs=dict(loader))
    return brain


def here(batch, device):
    """Move a batch, if it is one that can be moved."""
    return batch.to(device) if hasattr(batch, "to") else batch


def make(cls, modules, opt_class, folder=None, hparams=None, save=(), **run_opts):
    """Build a Brain with what nearly every recipe has in its hparams."""
    hparams = dict(hparams or {})
    checkpointer = None
    if save:
        hparams["epoch_counter"] = sb.utils.epoch_loop.EpochCounter(limit=2)
        hparams["train_logger"] = sb.utils.train_logger.FileTrainLogger(
            str(folder / "train_log.txt"), precision=6
        )
        kept = {name: (modules | hparams)[name] for name in save}
        checkpointer = sb.utils.checkpoints.Checkpointer(
            folder / "save", {**kept, "counter": hparams["epoch_counter"]}
        )
    options = {"noprogressbar": True, "device": "cpu", **run_opts}
    return cls(modules, opt_class, hparams, options, checkpointer)


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-2)


def sgd(parameters):
    return torch.optim.SGD(parameters, 1e-2, momentum=0.9)


class Frames(nn.Module):
    """Filter banks, statistics in plain attributes, BatchNorm, dropout."""

    def __init__(self, size=8, mels=10):
        super().__init__()
        self.features = Fbank(n_mels=mels)
        self.normalize = InputNormalization(norm_type="global")
        self.net = nn.Sequential(nn.Linear(mels, size), nn.LeakyReLU())
        self.norm = nn.BatchNorm1d(size)
        self.drop = nn.Dropout(0.2)

    def forward(self, sig, lens):
        frames = self.net(self.normalize(self.features(sig), lens))
        return self.drop(self.norm(frames.transpose(1, 2)).transpose(1, 2))


class Pooled(nn.Module):
    """A speaker's scores from the mean frame."""

    def __init__(self, size=8):
        super().__init__()
        self.frames = Frames(size)
        self.last = nn.Linear(size, NUM_SPEAKERS)

    def forward(self, sig, lens):
        return self.last(self.frames(sig, lens).mean(1))


def short(base):
    """The two compulsory hooks, as in every tutorial; other recipes start from it."""

    class Short(base):
        def compute_forward(self, batch, stage):
            batch = here(batch, self.device)
            return self.modules.model(*batch["sig"])

        def compute_objectives(self, predictions, batch, stage):
            labels = here(batch, self.device)["spk"][0].squeeze(1)
            return nn.functional.cross_entropy(predictions, labels)

    return Short
