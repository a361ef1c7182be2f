"""A rejected batch can be read again, and names its file and its layer."""

import json

import pytest
import torch
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from tests.brain.test_transaction import batches, deliver, make, poisoned


def dumped(tmp_path, data, **policy):
    guard = NonFinitePolicy(dump_folder=str(tmp_path), **policy)
    brain = make(NaNSafeBrain, extra={"nan_guard": guard})
    brain.fit(range(1), deliver(data))
    return brain


def test_dump_loads_with_weights_only_and_holds_the_batch(tmp_path):
    bad = poisoned("nan sample")
    dumped(tmp_path, [*batches(2), bad, *batches(1)])
    dump = torch.load(tmp_path / "nan_batch_3_epoch_0.pt", weights_only=True)
    assert dump["utt_ids"] == bad["id"]
    assert torch.equal(dump["items"]["x"], bad["x"]) is False  # NaN is not itself
    assert torch.equal(dump["items"]["x"].isnan(), bad["x"].isnan())
    facts = json.loads((tmp_path / "nan_batch_3_epoch_0.json").read_text())
    assert facts["cause"] == "loss"
    assert facts["loss"] == "nan"
    assert facts["statistics"]["x"]["nan"] == 1
    assert facts["inputs"] == ["x of utterance 'utt0_2' holds 1 NaN and 0 Inf"]


def test_report_names_the_first_bad_layer(caplog):
    class Broken(nn.Module):
        def forward(self, x):
            return x.sum() * torch.inf * 0 + x if (x > 50).any() else x

    brain = make(NaNSafeBrain)
    brain.modules.net.last = nn.Sequential(brain.modules.net.last, Broken())
    spike = batches(1, seed=5)[0]
    with torch.no_grad():
        brain.modules.net.last[0].weight.mul_(0.01)
    brain.modules.net.drop = nn.Identity()
    brain.modules.net.norm = nn.Identity()
    spike["x"] = spike["x"] * 1e5
    brain.fit(range(1), deliver([*batches(1), spike]))
    assert brain.health.rejected == 1
    assert "first bad layer: net.last.1 (Broken)" in caplog.text


def test_number_of_dumps_is_bounded(tmp_path):
    data = [*batches(2), poisoned("nan"), *batches(2), poisoned("nan"), *batches(1)]
    brain = dumped(tmp_path, data, max_dumps=1)
    assert brain.health.rejected == 2
    assert len(list(tmp_path.glob("nan_batch_*.pt"))) == 1


def test_a_large_batch_is_dumped_without_its_tensors_and_says_so(tmp_path):
    dumped(tmp_path, [*batches(1), poisoned("nan")], max_dump_megabytes=1e-6)
    facts = json.loads((tmp_path / "nan_batch_2_epoch_0.json").read_text())
    assert ["limit" in line for line in facts["left_out"]] == [True, True]
    assert facts["statistics"]["x"]["shape"] == [5, 6]


def test_an_unwritable_dump_folder_does_not_end_the_run(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    brain = dumped(blocked / "debug_nan", [*batches(1), poisoned("nan")])
    assert brain.health.rejected == 1
    assert "could not be dumped" in caplog.text


class Staged(nn.Module):
    """A module that learns by statistics, as a quantizer does."""

    statistics_mode = "forward"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("staged", torch.zeros(()))
        self.register_buffer("learned", torch.zeros(()))

    def forward(self, x):
        self.staged += x.detach().mean()
        return x * self.scale

    def commit_statistics(self):
        self.learned += self.staged
        self.staged.zero_()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_staged_statistics_commit_with_the_step_and_only_then(accumulation):
    def learned(data):
        brain = make(NaNSafeBrain, grad_accumulation_factor=accumulation)
        brain.modules.net.first = nn.Sequential(Staged(), brain.modules.net.first)
        brain.fit(range(1), deliver(data))
        assert brain.modules.net.first[0].statistics_mode == "forward"
        return brain.modules.net.first[0].learned

    data = batches(4)
    clean = learned(data)
    assert clean != 0
    assert torch.equal(clean, learned([*data[:1], poisoned("nan sample"), *data[1:]]))
