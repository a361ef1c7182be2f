"""Batches of any make are dumped, named and counted; evidence never ends a run."""

import json
import math

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.checkpoints import Checkpointer
from torch import nn
from torch.utils.data import DataLoader

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from speechbrain_ext.brain.batches import utterance_ids
from speechbrain_ext.brain.forensics.suspects import bad_inputs
from tests.brain.test_transaction import batches, make, poisoned

NAN = float("nan")


def as_is(data):
    """Hand over the batches as they are, whatever they are."""
    return DataLoader(data, batch_size=None, collate_fn=lambda batch: batch)


class Sum(NaNSafeBrain):
    """Any batch: the loss is a linear layer on the tensor that ``pick`` returns."""

    def compute_forward(self, batch, stage):
        return self.modules.net(self.hparams.pick(batch))

    def compute_objectives(self, predictions, batch, stage):
        return predictions.square().mean()


def rejected(folder, batch, pick, **options):
    policy = NonFinitePolicy(quarantine=False, dump_folder=str(folder), **options)
    brain = Sum(
        {"net": nn.Linear(2, 1)},
        lambda p: torch.optim.SGD(p, 0.1),
        hparams={"nan_guard": policy, "pick": pick},
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    brain.fit(range(1), as_is([batch]))
    assert brain.health.rejected == 1
    return brain


def read(folder):
    dump = torch.load(folder / "nan_batch_1_epoch_0.pt", weights_only=True)
    return dump, json.loads((folder / "nan_batch_1_epoch_0.json").read_text())


BAD = torch.tensor([[1.0, 2.0], [NAN, 1.0]])
ODD = {
    "tensor": (BAD, lambda b: b),
    "tuple": ((BAD, torch.ones(2)), lambda b: b[0]),
    "nested": (((BAD, torch.ones(2)), ["a", "b"]), lambda b: b[0][0]),
    "padded": (
        PaddedBatch([{"id": "a", "x": BAD[0]}, {"id": "b", "x": BAD[1]}]),
        lambda b: b.x.data,
    ),
    "none": ({"id": ["a", "b"], "x": BAD, "text": None}, lambda b: b["x"]),
    "numpy scalars": (
        {"x": BAD, "seconds": [np.float64(1.5)] * 2, "who": np.str_("a"), "n": 3},
        lambda b: b["x"],
    ),
    "odd keys": ({("x", 1): BAD, 7: "seven"}, lambda b: b["x", 1]),
    "empty": (
        {"x": BAD, "none": torch.zeros(0, 5), "flat": torch.zeros(2, 0)},
        lambda b: b["x"],
    ),
    "complex": (
        {"x": BAD, "spec": torch.full((2, 3), NAN, dtype=torch.complex64)},
        lambda b: b["x"],
    ),
    "sparse": ({"x": BAD, "graph": torch.eye(2).to_sparse()}, lambda b: b["x"]),
    "scalar": ({"x": BAD, "gain": torch.tensor(NAN)}, lambda b: b["x"]),
}


@pytest.mark.parametrize("name", ODD)
def test_a_batch_of_any_make_is_dumped_and_read_back(tmp_path, name):
    batch, pick = ODD[name]
    rejected(tmp_path, batch, pick)
    dump, facts = read(tmp_path)
    held = [t for t in dump["items"].values() if isinstance(t, torch.Tensor)]
    assert any(t.shape == BAD.shape and torch.isnan(t).any() for t in held)
    assert any("holds 1 NaN" in line for line in facts["inputs"])


def test_the_size_of_a_dump_is_that_of_the_batch_not_of_what_it_was_cut_from(tmp_path):
    whole = torch.zeros(1000, 2000)
    whole[0, 0] = NAN
    rejected(tmp_path, (whole[:2, :2],), lambda b: b[0])
    assert (tmp_path / "nan_batch_1_epoch_0.pt").stat().st_size < 100_000


def test_a_dump_that_cannot_be_written_does_not_end_the_run(
    tmp_path, monkeypatch, caplog
):
    def full(*args):
        raise RuntimeError("PytorchStreamWriter failed writing file")  # a full disk

    monkeypatch.setattr(torch, "save", full)
    rejected(tmp_path, (BAD,), lambda b: b[0])
    assert "could not be dumped" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_only_rows_that_are_utterances_get_their_names():
    batch = {"id": ["a", "b"], "x": BAD, "weights": torch.tensor([1.0, NAN, 1.0])}
    assert bad_inputs(batch) == [
        "x of utterance 'b' holds 1 NaN and 0 Inf",
        "weights of row 1 holds 1 NaN and 0 Inf",
    ]


def test_a_batch_of_nothing_but_nan_is_told_in_few_lines():
    lines = bad_inputs({"x": torch.full((5000,), NAN)})
    assert len(lines) <= 51
    assert "4950 more" in lines[-1]


def test_a_lone_utterance_is_named():
    assert utterance_ids({"id": "a", "x": BAD}) == ["a"]


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_the_loss_told_is_the_loss_of_the_batch(tmp_path, accumulation, scale):
    policy = NonFinitePolicy(quarantine=False, dump_folder=str(tmp_path))
    brain = make(
        NaNSafeBrain,
        extra={"nan_guard": policy},
        grad_accumulation_factor=accumulation,
    )
    if scale:
        brain.scaler = torch.GradScaler("cpu", init_scale=scale)
    losses = []
    stock = type(brain).compute_objectives

    def remembered(self, predictions, batch, stage):
        losses.append(stock(self, predictions, batch, stage))
        self.modules.net.glob_mean = self.modules.net.glob_mean * torch.nan
        return losses[-1]

    type(brain).compute_objectives = remembered
    brain.fit(range(1), as_is(batches(1)))
    facts = json.loads((tmp_path / "nan_batch_1_epoch_0.json").read_text())
    assert facts["cause"] == "buffer"
    assert math.isclose(facts["loss"], losses[0].item(), rel_tol=1e-6)


def test_a_batch_may_be_fitted_outside_of_fit():
    brain = make(NaNSafeBrain)
    brain.init_optimizers()
    assert torch.isfinite(brain.fit_batch(batches(1)[0]))
    assert torch.isnan(brain.fit_batch(poisoned("nan sample")))


def test_debug_mode_leaves_no_dump_behind(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    brain = Sum(
        {"net": nn.Linear(2, 1)},
        lambda p: torch.optim.SGD(p, 0.1),
        hparams={"pick": lambda b: b[0]},
        run_opts={"noprogressbar": True, "device": "cpu", "debug": True},
        checkpointer=Checkpointer(tmp_path / "save"),
    )
    brain.fit(range(1), as_is([(BAD,)]))
    brain.checkpointer.tempdir.cleanup()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert list((tmp_path / "save").iterdir()) == []


def test_jit_modules_may_be_rejected_too():
    brain = make(NaNSafeBrain)
    brain.modules = nn.ModuleDict({"net": torch.jit.script(nn.Linear(6, 1))})
    brain._guard.transaction.forward_state._modules = brain.modules
    data = [*batches(1), poisoned("nan sample"), *batches(1)]
    brain.fit(range(1), as_is(data))
    assert (brain.health.committed, brain.health.rejected) == (2, 1)
