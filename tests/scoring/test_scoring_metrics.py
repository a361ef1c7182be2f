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
    return (scores if decimals is None else scores.round(decimals)).astype(dtype), labels


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
