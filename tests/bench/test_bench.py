"""The benchmark compares what it says, in turn, and says so when it can't."""

import itertools
import json

import pytest
import torch
from click.testing import CliRunner

from speechbrain_ext.bench import command, quantizer, timing
from speechbrain_ext.errors import UserError


def test_every_round_calls_each_once_in_rotating_order():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = timing.time_interleaved(
        calls, 4, warm_up=1, clock=itertools.count().__next__
    )
    assert ["".join(order[i : i + 3]) for i in range(0, 15, 3)] == [
        "abc",
        "bca",
        "cab",
        "abc",
        "bca",
    ]
    assert times == {name: [1] * 4 for name in "abc"}


def test_ratio_is_of_the_same_round_so_that_a_slow_second_cancels():
    times = {"ours": [1.0, 10.0, 1.0], "peer": [3.0, 30.0, 3.0]}
    row = timing.compare(times, "ours", "peer", goal=2.0)
    assert row["median"] == row["lower_quartile"] == row["upper_quartile"] == 3.0
    assert row["goal"] == 2.0


def test_peak_counts_what_is_held_at_a_time_not_what_passes_through():
    def call():
        for _ in range(10):
            torch.empty(2**18)  # 1 MiB, freed at once
        kept = torch.empty(2**20)
        return kept.add_(1)

    assert timing.peak_step_mib(call) == pytest.approx(4.0, abs=0.1)


def test_missing_package_is_told_with_the_command_that_installs_it():
    with pytest.raises(UserError, match="python -m pip install no-such-codec"):
        timing.import_peer("no_such_codec", "no-such-codec")


def test_command_writes_json_and_the_same_numbers_as_a_table(tmp_path, monkeypatch):
    result = {
        "title": "Thing",
        "setting": "small",
        "peers": {"peer": "1.0"},
        "subjects": {
            "ours": {"milliseconds": timing.spread([1.0, 2.0]), "step_mib": 8.25}
        },
        "comparisons": [timing.compare({"a": [1.0], "b": [2.5]}, "a", "b", 2.2)],
    }
    monkeypatch.setattr(quantizer, "measure", lambda repeats: result)
    output = tmp_path / "bench.json"
    arguments = ["--only", "quantizer", "--output", str(output)]
    run = CliRunner().invoke(command.bench, arguments, catch_exceptions=False)
    assert run.exit_code == 0
    report = json.loads(output.read_text())
    assert report["results"] == {"quantizer": result}
    assert report["environment"]["processor"]
    table = (tmp_path / "bench.md").read_text()
    assert "| a | b | **2.50** | 2.50 - 2.50 | 2.2 |" in table
    assert "| ours | 1.5 | 1.2 - 1.8 | 8.25 |" in table
    assert table in run.output


def test_an_output_that_the_tables_would_overwrite_is_refused(tmp_path):
    arguments = ["--only", "quantizer", "--output", str(tmp_path / "bench.md")]
    run = CliRunner().invoke(command.bench, arguments)
    assert run.exit_code == 2
    assert "must end in .json" in run.output
    assert not list(tmp_path.iterdir())


def test_quantizers_compared_have_one_bit_rate_and_ours_holds_least_memory():
    pytest.importorskip("encodec")
    pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    modules, steps = quantizer.make_subjects(2, 100, 8, 256)
    assert modules.keys() == steps.keys()
    peaks = {}
    for name, module in modules.items():
        peaks[name] = timing.state_mib(module) + timing.peak_step_mib(steps[name])
        codes = []
        module.register_forward_hook(lambda m, i, out, codes=codes: codes.append(out))
        steps[name]()
        out = codes[0]
        found = out.codes if hasattr(out, "codes") else out[1]
        assert found.numel() == 2 * 100 * 8, name
        assert 0 <= found.min() <= found.max() < 256
    assert peaks[quantizer.OURS_BANDS] < peaks[quantizer.LUCIDRAINS_BANDS]
    assert {pair[:2] for pair in quantizer.COMPARISONS} <= {
        (ours, peer) for ours in modules for peer in modules
    }
