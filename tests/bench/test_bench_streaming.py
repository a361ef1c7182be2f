"""The benchmark of streams measures both ends of each, and what packets cost."""

from speechbrain_ext.bench import streaming
from speechbrain_ext.bench.command import BENCHMARKS, as_markdown


def test_both_ends_of_every_stream_are_measured():
    assert "streaming" in BENCHMARKS
    result = streaming.measure(1, seconds=0.4, steps=2)
    subjects = result["subjects"]
    assert len(subjects) == 16
    for subject in subjects.values():
        assert subject["milliseconds"]["median"] > 0
        assert subject["kbps"] > 0
    # Smaller packets cost more, and save latency.
    rows = [subjects[f"WaveCodec, packets of {n}: encode"] for n in streaming.PACKETS]
    costs = [row["of that packets"] for row in rows]
    assert costs == sorted(costs, reverse=True)
    assert all(cost > 0 for cost in costs)
    assert [row["latency ms"] for row in rows] == [47.9, 127.9, 1023.9]
    environment = {"versions": {}, "processor": "", "platform": ""}
    report = {"environment": environment, "results": {"streaming": result}}
    report |= {"command": "", "measured": "", "load_before": 0}
    assert "| WaveCodec, packets of 1: encode |" in as_markdown(report)
