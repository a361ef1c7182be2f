"""Ours and the peers' scoring give the same figures before their speeds are told."""

import pytest

from speechbrain_ext.bench import scoring
from speechbrain_ext.bench.command import as_markdown

TINY = scoring.Sizes(
    trials=500,
    utterances=20,
    cohort=40,
    metric_trials=100,
    cosine_trials=20,
    norm_trials=10,
    norm_utterances=5,
)


def test_every_part_is_measured_and_compared(monkeypatch):
    monkeypatch.setattr(scoring, "peak_step_mib", lambda call: 0.5)  # slow
    result = scoring.measure(1, TINY)
    assert len(result["comparisons"]) == 4
    assert len(result["subjects"]) == 10
    assert all(row["peak_mib"] >= 0 for row in result["subjects"].values())
    table = as_markdown(
        {
            "environment": {"versions": {}, "processor": "", "platform": ""},
            "results": {"scoring": result},
            "command": "",
            "measured": "",
            "load_before": 0,
        }
    )
    assert "| ours, AS-norm, 40 x 20 utterances |" in table


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("_eer_and_min_dcf", "EER and minDCF differ"),
        ("cosine_scores", "the cosines differ"),
    ],
)
def test_a_wrong_figure_has_no_speed(monkeypatch, name, message):
    right = getattr(scoring, name)

    def wrong(*arguments):
        found = right(*arguments)
        return (0.0, 0.0) if isinstance(found, tuple) else found + 0.1

    monkeypatch.setattr(scoring, name, wrong)
    with pytest.raises(ArithmeticError, match=message):
        scoring.measure(1, TINY)
