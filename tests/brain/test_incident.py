"""The report says what happened in its first line, and fits on a screen."""

import math
from pathlib import Path

import pytest
import torch

from speechbrain_ext.brain.forensics.causes import CAUSES, recommend
from speechbrain_ext.brain.forensics.diagnose import Diagnosis
from speechbrain_ext.brain.forensics.incident import describe
from speechbrain_ext.brain.verdict import Verdict

NAN = math.nan


def full(cause="input non-finite"):
    names = [f"spk_{i:03d}_with_a_long_name" for i in range(40)]
    found = Diagnosis(
        cause,
        "wav of utterance 'spk_000' holds 3 NaN and 0 Inf",
        utt_ids=names,
        rows=list(range(40)),
        paths=[f"/data/{name}.wav" for name in names],
        proven=True,
        module="net.encoder.0 (Conv1d)",
        operation="aten.convolution",
        phase="forward",
        source="model.py:87: return self.conv(x)",
        loss_terms={f"term{i}": NAN for i in range(30)},
    )
    found.recommendation = recommend(cause, {"paths": found.paths})
    return found


def batch():
    return {
        "id": ["a", "b"],
        "wav": torch.tensor([[0.5, NAN, 1.0], [0.0, -0.5, 0.25]]),
        "spk": torch.tensor([3, 7]),
        **{f"more{i}": torch.zeros(2, 2) for i in range(20)},
    }


def report(found=None, **given):
    facts = {
        "place": "batch 7 of epoch 3",
        "actions": ["put back", "quarantined 'a'", "rolled back, replayed 10"],
        "dump": Path("exp/debug_nan/nan_batch_7_epoch_3.pt"),
        "batch": batch(),
        "gradients": [f"net.{i}.weight" for i in range(200)],
    }
    verdict = Verdict("loss", NAN, 3.0)
    return describe(verdict, found or full(), **{**facts, **given}).splitlines()


def test_the_first_line_alone_says_what_happened():
    assert report()[0] == (
        "rejected batch 7 of epoch 3: input non-finite: wav of utterance 'spk_000' "
        "holds 3 NaN and 0 Inf"
    )


def test_everything_that_is_known_is_in_it():
    text = "\n".join(report())
    for part in (
        "loss nan, gradient norm 3",
        "spk_000_with_a_long_name, spk_001_with_a_long_name",
        "and 36 more (without: fine)",
        "/data/spk_000_with_a_long_name.wav",
        "forward, net.encoder.0 (Conv1d), aten.convolution",
        "model.py:87: return self.conv(x)",
        "term0 nan",
        "wav: float32 [2, 3], -0.5 to 1, mean 0.25, 1 NaN, 0 Inf",
        "200, net.0.weight, net.1.weight and 198 more",
        "put back; quarantined 'a'; rolled back, replayed 10",
        "command: speechbrain-ext analyze-nan exp/debug_nan/nan_batch_7_epoch_3.pt",
    ):
        assert part in text, part


@pytest.mark.parametrize("cause", CAUSES)
def test_it_is_short_and_plain_whatever_the_cause(cause):
    lines = report(full(cause))
    assert len(lines) <= 25
    assert all(line.isascii() for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])


def test_labels_are_told_as_labels():
    lines = report(batch={"wav": torch.zeros(2, 4), "spk": torch.tensor([3, 7])})
    assert "  spk: int64 [2], 3 to 7, 2 different" in lines


def test_little_knowledge_makes_a_short_report():
    lines = describe(
        Verdict("spike", 5.0, 9.0), Diagnosis("loss spike", "loss 5"), place="batch 1"
    ).splitlines()
    assert lines == [
        "rejected batch 1: loss spike: loss 5",
        "  seen as: spike; loss 5, gradient norm 9",
    ]


def test_what_was_only_observed_is_not_called_rejected():
    found = Diagnosis("loss spike", "loss 5")
    assert describe(Verdict("accepted", 5.0, 9.0), found, place="x").startswith(
        "noticed at x"
    )


def test_a_detail_of_many_lines_stays_on_its_line():
    found = Diagnosis("exception", "RuntimeError: first\nsecond")
    lines = describe(Verdict("exception", NAN, NAN), found, place="x").splitlines()
    assert lines[0] == "rejected x: exception: RuntimeError: first second"


@pytest.mark.parametrize("odd", [None, torch.zeros(0), {"x": torch.tensor(NAN)}, "a"])
def test_any_batch_can_be_told(odd):
    assert report(batch=odd)
