"""The guard is measured part by part, and inside whole steps that learn."""

import speechbrain
import torch

from speechbrain_ext.bench import guard
from speechbrain_ext.bench.command import as_markdown

TINY = guard.Size("speaker", 8, 2, 1600)


def test_the_parts_leave_weights_and_counts_of_rejects_alone(monkeypatch):
    monkeypatch.setattr(guard, "CALLS", 3)
    made = []
    trained = guard._trained

    def remember(size):
        made.append(trained(size))
        return made[-1]

    monkeypatch.setattr(guard, "_trained", remember)
    parts = guard.make_parts(TINY)
    brain = made[-1][0]
    before = {k: v.clone() for k, v in brain.modules.state_dict().items()}
    for part in parts.values():
        part()
    after = brain.modules.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert brain.health.rejected == 0
    assert len(brain._guard.recovery.journal) == 0


def test_a_run_learns_what_stock_learns():
    run = guard.Run(TINY)
    stock = guard._brain(speechbrain.Brain, TINY)
    stock.init_optimizers()
    stock.modules.train()
    stock.step = 1
    for batch in guard._batches(TINY, 4) * 2 + guard._batches(TINY, guard.STEPS):
        stock.fit_batch(batch)
    run()
    assert len(run.seconds) == 1
    assert run.seconds[0] > 0
    ours = run.brain.modules.state_dict()
    for key, value in stock.modules.state_dict().items():
        assert torch.equal(ours[key], value)


def test_cost_is_told_in_microseconds_and_per_cent_of_a_step(monkeypatch):
    monkeypatch.setattr(guard, "CALLS", 2)
    result = guard.measure(2, {"tiny": TINY})
    ((name, row),) = result["subjects"].items()
    step = row["milliseconds"]["median"]
    assert name == f"tiny, {step:.0f} ms"
    parts = ("state", "journal", "verdict", "frame", "snapshot")
    assert all(row[f"{part}_us"] >= 0 for part in parts)
    assert row["isolated_us"]["median"] > row["state_us"]
    met = row["isolated_per_cent"]["median"] <= guard.GOAL
    assert row["goal"] == ("met" if met else "not met")
    report = {
        "command": "bench",
        "measured": "now",
        "load_before": 0.0,
        "environment": {"versions": {}, "processor": "one", "platform": "here"},
        "results": {"guard": result},
    }
    text = as_markdown(report)
    share = row["isolated_per_cent"]
    cell = f"{share['median']} ({share['lower_quartile']} - {share['upper_quartile']})"
    assert f"| {cell} |" in text
    assert "times as fast |" not in text
