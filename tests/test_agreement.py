"""Alpha and ICC(2,k): published examples, the package krippendorff, and sums for a bootstrap."""

import krippendorff
import numpy as np
import pytest
from expertchat.reliability.agreement import alpha, alpha_terms, icc, icc_terms

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", part D: four observers, twelve units
_ = np.nan
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
).T
# Shrout and Fleiss 1979, table 2: six targets, four judges
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def alpha_of(values) -> float:
    return float(alpha(alpha_terms(values).sum(0)))


def test_alpha_of_krippendorffs_example():
    assert alpha_of(KRIPPENDORFF) == pytest.approx(0.849, abs=5e-4)


def test_icc_of_shrout_and_fleiss_example():
    assert float(icc(icc_terms(SHROUT_FLEISS).sum(0))) == pytest.approx(0.62, abs=5e-3)


@pytest.mark.parametrize("seed", range(5))
def test_alpha_equals_the_packages_with_gaps_and_continuous_scores(seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(30, 1)) + generator.normal(size=(30, 4))
    values[generator.random(values.shape) < 0.4] = np.nan
    theirs = krippendorff.alpha(reliability_data=values.T, level_of_measurement="interval")
    assert alpha_of(values) == pytest.approx(theirs)


def test_perfect_agreement_is_one_and_chance_is_about_zero():
    same = np.repeat(np.arange(10.0)[:, None], 3, axis=1)
    assert alpha_of(same) == pytest.approx(1)
    assert float(icc(icc_terms(same).sum(0))) == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=(5000, 2))
    assert abs(alpha_of(noise)) < 0.05


def test_a_lenient_rater_costs_agreement():
    scores = np.random.default_rng(0).normal(size=(50, 1)) + np.array([0.0, 0.0])
    shifted = scores + np.array([0.0, 2.0])
    assert alpha_of(shifted) < 0.5 < alpha_of(scores)
    assert float(icc(icc_terms(shifted).sum(0))) < 0.7


def test_scores_that_do_not_vary_have_neither_coefficient():
    constant = np.full((5, 3), 4.0)
    with np.errstate(invalid="ignore"):
        assert np.isnan(alpha_of(constant - 4)) and np.isnan(float(icc(icc_terms(constant - 4).sum(0))))


def test_units_drawn_twice_count_twice():
    terms, weights = alpha_terms(SHROUT_FLEISS), np.array([2, 0, 1, 1, 0, 2])
    drawn = np.repeat(SHROUT_FLEISS, weights, axis=0)
    assert float(alpha(weights @ terms)) == pytest.approx(alpha_of(drawn))
    again = icc(weights @ icc_terms(SHROUT_FLEISS))
    assert float(again) == pytest.approx(float(icc(icc_terms(drawn).sum(0))))
