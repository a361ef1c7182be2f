"""The bootstrap over speakers is the one that copies people, without the copies."""

import itertools

import numpy as np
import pytest

from speechbrain_ext.scoring.intervals import STATISTICS, speaker_bootstrap
from speechbrain_ext.scoring.metrics import equal_error_rate, min_dcf
from speechbrain_ext.scoring.ranking import RankedScores


def trials(num_speakers=6, per_speaker=4, seed=0):
    generator = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), per_speaker)
    rows = np.array(list(itertools.combinations(range(speakers.size), 2))).T
    enroll, test = speakers[rows]
    labels = enroll == test
    ease = generator.normal(size=num_speakers)
    scores = generator.normal(size=labels.size) + 1.5 * labels + ease[enroll]
    return scores, labels, enroll, test


def with_copied_people(scores, labels, enroll, test, times):
    """Scores and labels of a world in which speaker s lives times[s] times."""
    rows = []
    for score, label, a, b in zip(scores, labels, enroll, test, strict=True):
        for copy_a, copy_b in itertools.product(range(times[a]), range(times[b])):
            if not label or copy_a == copy_b:
                rows.append((score, label))
    return (np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("name", ["eer", "min_dcf_0.05"])
def test_it_equals_a_bootstrap_that_copies_the_speakers(name):
    world = trials()
    low, high = speaker_bootstrap(*world, name, draws=12, level=0.8, seed=5)
    generator = np.random.default_rng(5)
    figure = {
        "eer": equal_error_rate,
        "min_dcf_0.05": lambda s, y: min_dcf(s, y, p_target=0.05),
    }[name]
    values = []
    while len(values) < 12:
        times = generator.multinomial(6, np.full(6, 1 / 6))
        values.append(figure(*with_copied_people(*world, times))[0])
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])))


@pytest.mark.parametrize("name", STATISTICS)
def test_an_interval_holds_the_figure_and_repeats_by_its_seed(name):
    scores, labels, enroll, test = trials(12)
    calls = []
    interval = speaker_bootstrap(
        scores, labels, enroll, test, name, draws=60, on_draw=lambda: calls.append(1)
    )
    assert len(calls) == 60
    as_text = [np.array([f"s{i:02}" for i in side]) for side in (enroll, test)]
    again = speaker_bootstrap(2 * scores, labels, *as_text, name, draws=60)
    other = speaker_bootstrap(scores, labels, enroll, test, name, draws=60, seed=1)
    assert interval == again != other
    point = STATISTICS[name](RankedScores(scores, labels), np.ones(scores.size))
    assert interval.low < point < interval.high


def test_more_speakers_give_a_shorter_interval():
    widths = []
    for count in (6, 40):
        low, high = speaker_bootstrap(*trials(count), draws=60)
        widths.append(high - low)
    assert widths[1] < 0.7 * widths[0]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_handful_of_speakers_has_no_interval(count):
    message = f"^{count} test speakers; 6 are needed$"
    with pytest.raises(ValueError, match=message):
        speaker_bootstrap(*trials(count))


def test_one_nan_never_lowers_an_end():
    scores, labels, enroll, test = trials()
    low, high = speaker_bootstrap(scores, labels, enroll, test, draws=40)
    for lost in range(0, scores.size, 29):
        broken = scores.copy()
        broken[lost] = np.nan
        found = speaker_bootstrap(broken, labels, enroll, test, draws=40)
        assert found.low >= low - 1e-12
        assert found.high >= high - 1e-12


def test_a_draw_without_targets_is_drawn_again():
    # One target, of speaker 0: a third of the draws of six are without that one.
    enroll, test = np.array([0, 0, 0, 1, 3, 4]), np.array([0, 1, 2, 2, 4, 5])
    labels = enroll == test
    interval = speaker_bootstrap(np.arange(6.0)[::-1], labels, enroll, test, draws=50)
    assert interval == (0.0, 0.0)
    nan = np.array([1.0, 0.0, 0.0, np.nan, np.nan, np.nan])
    assert speaker_bootstrap(nan, labels, enroll, test, draws=50, nan="filter") == (
        0.0,
        0.0,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": np.array([1, 1, 0])},
            "1 labels contradict the speakers, .* trial 1",
        ),
        ({"spk_test": np.array([0, 1])}, "must be of one length"),
        ({"draws": 0}, "draws >= 1"),
        ({"level": 1.0}, "level between 0 and 1"),
        ({"statistic": "accuracy"}, "must be one of eer"),
    ],
)
def test_what_can_not_be_drawn_is_refused(change, message):
    arguments = {
        "scores": np.array([1.0, 0.0, 0.5]),
        "labels": np.array([1, 0, 0]),
        "spk_enroll": np.zeros(3, int),
        "spk_test": np.array([0, 1, 2]),
    }
    with pytest.raises(ValueError, match=message):
        speaker_bootstrap(**(arguments | change))
