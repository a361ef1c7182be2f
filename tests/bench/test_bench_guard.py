"""The guard is measured alone: nothing is computed or learned around it."""

import speechbrain
import torch

from speechbrain_ext.bench import guard
from speechbrain_ext.bench.command import as_markdown
from speechbrain_ext.brain import NaNSafeBrain

TINY = guard.Size("speaker", 8, 2, 1600)


def test_the_stubbed_epoch_learns_nothing_and_commits_every_batch(monkeypatch):
    monkeypatch.setattr(guard, "BATCHES", 3)
    made = []
    brain_of = guard._brain

    def remember(*args):
        made.append(brain_of(*args))
        return made[-1]

    monkeypatch.setattr(guard, "_brain", remember)
    for base in (speechbrain.Brain, NaNSafeBrain):
        run = guard.make_surroundings(base, TINY)
        before = {k: v.clone() for k, v in made[-1].modules.state_dict().items()}
        run()
        after = made[-1].modules.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert made[-1].optimizer_step == 3
    assert (made[-1].health.committed, made[-1].health.rejected) == (3, 0)


def test_cost_is_told_in_microseconds_and_per_cent_of_a_step(monkeypatch):
    monkeypatch.setattr(guard, "BATCHES", 2)
    result = guard.measure(2, {"tiny": TINY})
    row = result["subjects"]["tiny"]
    assert row["milliseconds"]["median"] > 0
    assert row.keys() == {"milliseconds", "guard_microseconds", "per_cent"}
    report = {
        "command": "bench",
        "measured": "now",
        "load_before": 0.0,
        "environment": {"versions": {}, "processor": "one", "platform": "here"},
        "results": {"guard": result},
    }
    text = as_markdown(report)
    share = row["per_cent"]
    cell = f"{share['median']} ({share['lower_quartile']} - {share['upper_quartile']})"
    assert f"| {cell} |" in text
    assert "times as fast |" not in text
