"""Detection figures equal those of scikit-learn, and no NaN ever improves one."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import log_loss, roc_curve

from speechbrain_ext.scoring import metrics
from speechbrain_ext.scoring.metrics import cllr, equal_error_rate, min_cllr, min_dcf
from speechbrain_ext.scoring.ranking import RankedScores

FIGURES = {
    "eer": lambda s, y, **kw: equal_error_rate(s, y, **kw)[0],
    "min_dcf": lambda s, y, **kw: min_dcf(s, y, **kw)[0],
    "min_dcf 0.5": lambda s, y, **kw: min_dcf(s, y, p_target=0.5, **kw)[0],
    "cllr": cllr,
    "min_cllr": min_cllr,
}
#: Few values, so that ties are common, and the largest and smallest there are.
VALUES = st.sampled_from([-np.inf, -1e300, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, np.inf])


def trials(seed, size=300, decimals=None, dtype=np.float64, share=0.3):
    generator = np.random.default_rng(seed)
    labels = generator.random(size) < share
    labels[:2] = True, False
    scores = generator.normal(size=size) + 1.5 * labels
    return (scores if decimals is None else scores.round(decimals)).astype(
        dtype
    ), labels


def sklearn_rates(scores, labels, weights=None):
    return roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)


def sklearn_eer(scores, labels, weights=None):
    far, tpr, _ = sklearn_rates(scores, labels, weights)
    return brentq(lambda x: 1 - x - interp1d(far, tpr)(x), 0.0, 1.0, xtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_those_of_scikit_learn_with_and_without_ties(
    seed, decimals, dtype
):
    scores, labels = trials(seed, decimals=decimals, dtype=dtype)
    eer, _ = equal_error_rate(scores, labels)
    assert eer == pytest.approx(sklearn_eer(scores, labels), abs=1e-9)
    far, tpr, _ = sklearn_rates(scores, labels)
    for p_target in (0.01, 0.05, 0.5):
        costs = p_target * (1 - tpr) + (1 - p_target) * far
        expected = costs.min() / min(p_target, 1 - p_target)
        assert min_dcf(scores, labels, p_target=p_target)[0] == pytest.approx(
            expected, abs=1e-9
        )


@pytest.mark.parametrize("seed", range(3))
def test_weighted_figures_equal_those_of_scikit_learn_and_of_repeated_trials(seed):
    scores, labels = trials(seed, decimals=1)
    weights = np.random.default_rng(seed).integers(0, 4, size=scores.size)
    ranked = RankedScores(scores, labels)
    eer = ranked.equal_error_rate(weights)[0]
    assert eer == pytest.approx(sklearn_eer(scores, labels, weights), abs=1e-9)
    repeated = np.repeat(scores, weights), np.repeat(labels, weights)
    assert eer == pytest.approx(FIGURES["eer"](*repeated), abs=1e-12)
    assert ranked.min_dcf(weights=weights)[0] == pytest.approx(
        min_dcf(*repeated)[0], abs=1e-12
    )
    assert ranked.min_cllr(weights) == pytest.approx(min_cllr(*repeated), abs=1e-12)
    assert cllr(scores, labels, weights=weights) == pytest.approx(cllr(*repeated))


def test_cllr_is_the_log_loss_of_scikit_learn_at_equal_priors():
    scores, labels = trials(5)
    balance = np.where(labels, 1 / labels.sum(), 1 / (~labels).sum())
    posterior = 1 / (1 + np.exp(-scores))
    expected = log_loss(labels, posterior, sample_weight=balance) / np.log(2)
    assert cllr(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_min_cllr_is_below_every_monotone_map_and_at_most_one():
    scores, labels = trials(6)
    least = min_cllr(scores, labels)
    for scale in (0.3, 1.0, 1.5, 3.0):
        for offset in (-2.0, -0.75, 0.0):
            assert least <= cllr(scale * scores + offset, labels)
    assert least == pytest.approx(min_cllr(np.exp(scores), labels), abs=1e-12)
    assert 0 < least < min_cllr(-scores, labels) <= 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(VALUES, st.booleans()), min_size=2, max_size=12).filter(
        lambda rows: len({label for _, label in rows}) == 2
    ),
    st.data(),
)
def test_no_figure_improves_when_scores_become_nan(rows, data):
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    lost = data.draw(st.sets(st.integers(0, scores.size - 1), min_size=1))
    broken = scores.copy()
    broken[list(lost)] = np.nan
    ranked, ranked_broken = RankedScores(scores, labels), RankedScores(broken, labels)
    assert ranked_broken.num_nan == len(lost)
    for name, figure in FIGURES.items():
        assert figure(broken, labels) >= figure(scores, labels) - 1e-12, name
    for far in (0.0, 0.1, 0.5):
        assert (
            ranked_broken.thresholds_at_far([far])[0].frr
            >= ranked.thresholds_at_far([far])[0].frr - 1e-12
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_one_nan_among_real_scores_never_improves_a_figure(seed, dtype):
    scores, labels = trials(seed, size=60, decimals=1, dtype=dtype)
    broken = scores.copy()
    broken[seed % scores.size] = np.nan
    for name, figure in FIGURES.items():
        assert figure(broken, labels) >= figure(scores, labels) - 1e-12, name


@pytest.mark.parametrize("name", FIGURES)
def test_nan_policies_count_filter_and_raise(name):
    figure = FIGURES[name]
    scores, labels = trials(7, decimals=1)
    broken = scores.copy()
    broken[[0, 1]] = np.nan  # a target and a non-target
    as_errors = scores.copy()
    as_errors[[0, 1]] = -np.inf, np.inf
    assert figure(broken, labels) == figure(as_errors, labels)
    assert figure(broken, labels, nan="filter") == figure(scores[2:], labels[2:])
    with pytest.raises(ValueError, match="2 of 300 scores are NaN, the first is of"):
        figure(broken, labels, nan="raise")
    assert figure(scores, labels, nan="raise") == figure(scores, labels)
    with pytest.raises(ValueError, match="nan must be one of count, filter, raise"):
        figure(scores, labels, nan="ignore")


def test_all_nan_is_the_worst_there_is():
    labels = np.array([True, False, False])
    scores = np.full(3, np.nan)
    assert FIGURES["eer"](scores, labels) == 1.0
    assert FIGURES["min_dcf"](scores, labels) == 1.0
    assert cllr(scores, labels) == np.inf
    with pytest.raises(ValueError, match="0 targets and 0 non-targets after 3 NaN"):
        equal_error_rate(scores, labels, nan="filter")


@pytest.mark.parametrize("value", [0.0, -np.inf, np.inf, 1e38, np.float32(0.3)])
def test_constant_scores_have_an_equal_error_rate_of_one_half(value):
    scores, labels = np.full(10, value), np.arange(10) < 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal_error_rate(scores, labels) == (0.5, value)
        assert min_dcf(scores, labels)[0] == 1.0
        assert min_cllr(scores, labels) == pytest.approx(1.0)


def test_infinite_scores_are_scores():
    scores, labels = np.array([np.inf, 1.0, 0.0, -np.inf]), np.array([1, 1, 0, 0])
    assert equal_error_rate(scores, labels) == (0.0, 1.0)
    assert min_dcf(scores, labels) == (0.0, 1.0)
    assert cllr(np.array([np.inf, -np.inf]), np.array([1, 0])) == 0.0
    swapped = np.array([0, 0, 1, 1])
    assert FIGURES["eer"](scores, swapped) == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_a_threshold_does_what_the_rates_say_when_scores_are_compared_with_it(dtype):
    generator = np.random.default_rng(0)
    labels = generator.random(200) < 0.3
    scores = (3 * generator.normal(size=200) + 4 * labels).astype(dtype)
    ranked = RankedScores(scores, labels)
    rates = ranked.rates()
    for far, frr, threshold in zip(*rates, strict=True):
        accepted = scores >= threshold
        assert far == pytest.approx(accepted[~labels].mean(), abs=1e-12)
        assert frr == pytest.approx((~accepted)[labels].mean(), abs=1e-12)
    assert (np.diff(rates.thresholds) > 0).all()


@pytest.mark.parametrize("wanted", [0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
def test_threshold_at_a_far_is_the_lowest_that_keeps_it(wanted):
    scores, labels = trials(8, decimals=1)
    (point,) = metrics.thresholds_at_far(scores, labels, [wanted])
    far = np.mean(scores[~labels] >= point.threshold)
    assert point.far == pytest.approx(far)
    assert point.far <= wanted
    assert point.frr == pytest.approx(np.mean(scores[labels] < point.threshold))
    lower = scores[scores < point.threshold]
    if lower.size:
        assert np.mean(scores[~labels] >= lower.max()) > wanted


@pytest.mark.parametrize("num_nontargets", [300, 100_000, 1_000_000, 3_000_000])
def test_a_far_that_a_whole_number_of_trials_has_is_met_exactly(num_nontargets):
    # 1 - (n - 1) / n is not 1 / n to the last bit.
    scores = np.arange(num_nontargets + 1.0)
    labels = scores == num_nontargets
    for count in (1, 3, num_nontargets // 100):
        wanted = count / num_nontargets
        (point,) = metrics.thresholds_at_far(scores, labels, [wanted])
        assert np.count_nonzero(scores[~labels] >= point.threshold) == count


def test_thinned_det_curve_has_both_ends_and_lies_on_the_whole_curve():
    scores, labels = trials(9, size=20000)
    whole = metrics.det_curve(scores, labels, max_points=10**6)
    thin = metrics.det_curve(scores, labels, max_points=200)
    assert whole.far.size == 20001
    assert 100 < thin.far.size <= 200
    for values, chosen in zip(whole, thin, strict=True):
        assert chosen[0] == values[0]
        assert chosen[-1] == values[-1]
    assert set(zip(*thin, strict=True)) <= set(zip(*whole, strict=True))
    gaps = np.interp(whole.far[::-1], thin.far[::-1], thin.frr[::-1])[::-1] - whole.frr
    assert np.abs(gaps).max() < 0.02


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "0 targets and 0 non-targets"),
        ([1.0], [1], "1 targets and 0 non-targets"),
        ([1.0, 2.0], [0, 0], "0 targets and 2 non-targets"),
        ([1.0, 2.0], [1, 2], "labels must be 0 or 1, trial 1 has"),
        ([1.0, 2.0], [1.0, np.nan], "labels must be 0 or 1, trial 1 has"),
        ([1.0, 2.0], [1], r"of one length, got \[2\] and \[1\]"),
        ([[1.0, 2.0]], [[1, 0]], r"must be \[num_trials\]"),
    ],
)
@pytest.mark.parametrize("name", FIGURES)
def test_what_has_no_figure_is_refused_with_the_reason(name, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        FIGURES[name](np.array(scores), np.array(labels))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(2), "weights must be"),
        (np.array([1.0, -1.0, 1.0]), "finite and not negative"),
        (np.array([1.0, np.nan, 1.0]), "finite and not negative"),
        (np.array([0.0, 1.0, 1.0]), "leave no target"),
    ],
)
def test_impossible_weights_are_refused(weights, message):
    ranked = RankedScores(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 0]))
    with pytest.raises(ValueError, match=message):
        ranked.equal_error_rate(weights)


def test_cllr_refuses_impossible_weights_too():
    with pytest.raises(ValueError, match="weights must be"):
        cllr(np.zeros(3), np.array([1, 0, 0]), weights=np.ones(2))


def test_impossible_costs_and_rates_are_refused():
    scores, labels = trials(0)
    with pytest.raises(ValueError, match="p_target=1.0"):
        min_dcf(scores, labels, p_target=1.0)
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        metrics.thresholds_at_far(scores, labels, [2])


def test_a_million_trials_need_less_than_150_mb():
    import tracemalloc

    scores, labels = trials(0, size=1_000_000)
    tracemalloc.start()
    ranked = RankedScores(scores, labels)
    ranked.equal_error_rate()
    ranked.min_dcf()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
