"""`coverage` is quiet on stock parts and names what a transaction can't put back."""

import threading

import pytest
import speechbrain
import torch
from speechbrain.nnet.schedulers import NewBobScheduler, NoamScheduler
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.metric_stats import ErrorRateStats
from speechbrain.utils.train_logger import FileTrainLogger
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.brain.memory.coverage import coverage


def brain_of(net=None, *, folder=None, base=NaNSafeBrain, **hparams):
    checkpointer = None
    if folder is not None:
        checkpointer = Checkpointer(folder, {"counter": EpochCounter(3)})
        hparams["train_logger"] = FileTrainLogger(str(folder / "train_log.txt"))
    brain = base(
        {"net": net or nn.BatchNorm1d(2)},
        lambda p: torch.optim.Adam(p, 1e-3),
        hparams=hparams,
        run_opts={"noprogressbar": True, "device": "cpu"},
        checkpointer=checkpointer,
    )
    brain.init_optimizers()
    return brain


@pytest.mark.parametrize("base", [speechbrain.Brain, NaNSafeBrain])
def test_a_brain_of_stock_parts_has_nothing_to_report(tmp_path, base):
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.processing.features import InputNormalization

    net = nn.Sequential(
        InputNormalization(), ECAPA_TDNN(4, channels=[8] * 4 + [24], lin_neurons=4)
    )
    brain = brain_of(
        net,
        folder=tmp_path,
        base=base,
        annealing=NewBobScheduler(0.1),
        noam=NoamScheduler(0.1, 5),
        wers=ErrorRateStats,
        channels=[1, 2],
        opt=lambda p: None,
        path=tmp_path,
    )
    brain.wer_metric = ErrorRateStats()
    result = coverage(brain)
    assert result.unprotected == []
    text = str(result)
    for part in ("EpochCounter", "ErrorRateStats", "NewBobScheduler", "Adam", "NumPy"):
        assert part in text


class Foreign:
    """Of a package that nobody here knows."""

    def __init__(self):
        self.count = 0


Foreign.__module__ = "somewhere.else"


def numbers():
    yield from range(5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: (folder / "x").open("w"), "an open file"),
        (lambda folder: Foreign(), "an object of somewhere.else.Foreign"),
        (lambda folder: numbers(), "an iterator"),
        (lambda folder: threading.Thread(), "a thread"),
        (lambda folder: torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
        (lambda folder: torch.zeros(1).expand(4), "expanded"),
        (lambda folder: [1, (2, {"a": Foreign()})], "holds an object of somewhere"),
    ],
)
def test_what_cannot_be_put_back_is_named_with_its_reason(tmp_path, make, said):
    net = nn.Sequential(nn.BatchNorm1d(2))
    net.odd = make(tmp_path)
    result = coverage(brain_of(net))
    assert len(result.unprotected) == 1
    assert result.unprotected[0].startswith("modules.net.odd: ")
    assert said in result.unprotected[0]


def test_objects_of_the_brain_and_its_hparams_are_looked_at_too():
    class Beside:
        """Defined where the Brain is: its attributes are put back."""

        count = 0

    class Own(NaNSafeBrain):
        pass

    brain = brain_of(base=Own, foreign=Foreign(), beside=Beside())
    brain.other = Foreign()
    lines = coverage(brain).unprotected
    assert sorted(line.split(":")[0] for line in lines) == [
        "Own.other",
        "hparams.foreign",
    ]


def test_a_registered_recoverable_counts_as_protected(tmp_path):
    brain = brain_of(folder=tmp_path)
    brain.known = Foreign()
    brain.checkpointer.add_recoverable("known", brain.known, lambda *a: 0, lambda *a: 0)
    assert coverage(brain).unprotected == []
    brain._guard.transaction.begin()
    brain.known.count += 1
    brain._guard.transaction.rollback()
    assert brain.known.count == 0


def test_optimized_parameters_outside_of_the_modules_are_named():
    brain = brain_of()
    brain.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert "1 of its parameters are in no module" in coverage(brain).unprotected[0]


def test_lazy_modules_are_named_until_their_first_batch():
    brain = brain_of(nn.Sequential(nn.Linear(2, 2)))
    brain.modules.net.append(nn.LazyLinear(2))
    assert any("lazy" in line for line in coverage(brain).unprotected)


def test_a_very_long_table_is_noted():
    brain = brain_of(lexicon=dict.fromkeys(range(20_000)))
    assert "a table of 20000 entries" in coverage(brain).notes[0]
