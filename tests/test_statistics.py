"""Intervals that respect topics, and other known answers."""

import tracemalloc

import numpy as np
import pytest
from expertchat import statistics
from expertchat.statistics import (
    Z,
    accuracy_interval,
    bootstrap_sums,
    calibration_error,
    cluster_bootstrap,
    difference_interval,
    holm,
    mcnemar,
    mean_stderr,
    paired_bootstrap,
    pooled_stderr,
    spearman,
    tango_interval,
    wilson_interval,
    win_rate,
)


def test_an_interval_by_topic_is_wider_than_one_that_ignores_topics():
    values = [1.0] * 50 + [0.0] * 50  # two topics; all values of a topic are equal
    mean, low, high = cluster_bootstrap(values, ["a"] * 50 + ["b"] * 50)
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    _, low, high = cluster_bootstrap(values, [str(i) for i in range(100)])
    assert 0.38 < low < 0.43 and 0.57 < high < 0.62


def test_an_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        effects = generator.normal(size=40)
        values = np.repeat(effects, 3) + generator.normal(size=120)
        _, low, high = cluster_bootstrap(values, np.repeat(np.arange(40).astype(str), 3), draws=500)
        covered += low <= 0 <= high
    assert covered >= 87  # 95 expected; fewer in 1 of 1000 runs, and the seed is fixed


def test_ties_count_half_in_a_win_rate():
    assert win_rate([1, 2], [1, 0]) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_spearman_of_known_ranks():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert np.isnan(spearman([1, 1], [1, 2]))


def test_calibration_error_by_hand():
    # bin 0.9: mean 0.95, half right; bin 0.5: mean 0.55, all right
    error = calibration_error([0.95, 0.95, 0.55, 0.55], [True, False, True, True])
    assert error == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)


def test_a_statistic_of_sums_has_the_interval_of_its_mean():
    values, clusters = [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50
    terms = np.stack([values, np.ones(100)], 1)
    found = bootstrap_sums(terms, clusters, lambda sums: sums[..., 0] / sums[..., 1])
    assert found == (0.5, 0.0, 1.0)


def test_one_cluster_has_a_value_and_no_interval():
    value, low, high = bootstrap_sums(np.ones((3, 1)), ["a"] * 3, lambda sums: sums[..., 0])
    assert value == 3 and np.isnan(low) and np.isnan(high)


def test_draws_in_blocks_give_the_same_intervals(monkeypatch):
    generator = np.random.default_rng(0)
    values, clusters = generator.normal(size=90), np.arange(90) % 30
    terms = np.stack([values, np.ones(90)], 1)

    def both() -> list[float]:
        plain = cluster_bootstrap(values, clusters, seed=3, draws=500)
        return [*plain, *bootstrap_sums(terms, clusters, lambda sums: sums[..., 0] / sums[..., 1], 3)]

    whole = both()
    monkeypatch.setattr(statistics, "BLOCK", 30 * 7)
    assert both() == pytest.approx(whole, rel=1e-12)
    monkeypatch.setattr(statistics, "CACHED", 0)
    assert both() == pytest.approx(whole, rel=1e-12)


def test_memory_does_not_grow_with_draws_times_clusters(monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK", 2**16)
    monkeypatch.setattr(statistics, "CACHED", 0)
    values, clusters = np.arange(4_000.0), np.arange(4_000)  # all different
    tracemalloc.start()
    cluster_bootstrap(values, clusters, draws=500)  # 500 times 4,000 numbers have 16 MB
    bootstrap_sums(values[:, None], clusters, lambda sums: sums[..., 0], draws=500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


def test_draws_in_which_a_statistic_does_not_exist_are_left_out():
    # 1 over how often b and c were drawn: infinite if neither was
    terms = np.array([[0.0], [1.0], [1.0]])
    value, low, high = bootstrap_sums(terms, ["a", "b", "c"], lambda sums: 1 / sums[..., 0])
    assert value == 0.5 and 1 / 3 <= low <= 0.5 <= high <= 1


def test_equal_clusters_drawn_as_one_give_the_same_interval():
    """The mean of n right or wrong answers is drawn from the binomial distribution."""
    from scipy.stats import binom

    right = np.arange(400) < 100
    mean, low, high = cluster_bootstrap(right, np.arange(400), draws=100_000)
    expected = binom.ppf([0.025, 0.975], 400, 0.25) / 400
    assert mean == 0.25 and np.allclose([low, high], expected, atol=1 / 400)
    jitter = np.random.default_rng(0).normal(scale=1e-9, size=400)  # now all clusters differ
    assert np.allclose(cluster_bootstrap(right + jitter, np.arange(400))[1:], [low, high], atol=2 / 400)


def test_one_cluster_has_a_mean_and_no_width():
    assert cluster_bootstrap([0.0, 1.0], ["a", "a"]) == (0.5, 0.5, 0.5)


def test_a_paired_difference_is_second_minus_first():
    first, second = np.arange(100) < 40, np.arange(100) < 50  # the second gains 10 and loses none
    difference, low, high = paired_bootstrap(first, second, np.arange(100))
    assert difference == pytest.approx(0.1) and 0.03 < low < 0.06 and 0.14 < high < 0.18
    _, left, right = paired_bootstrap(second, first, np.arange(100))
    assert -0.18 < left < -0.14 and -0.06 < right < -0.03


def test_pairs_narrow_the_interval():
    generator = np.random.default_rng(0)
    first = generator.random(300) < 0.5
    second = first ^ (generator.random(300) < 0.02)
    _, low, high = paired_bootstrap(first, second, np.arange(300))
    alone = cluster_bootstrap(first, np.arange(300))
    assert high - low < 0.5 * (alone[2] - alone[1])


def test_a_paired_difference_in_one_cluster_has_no_interval():
    difference, low, high = paired_bootstrap([0, 1], [1, 1], ["a", "a"])
    assert difference == 0.5 and np.isnan(low) and np.isnan(high)
    with pytest.raises(ValueError, match="same items"):
        paired_bootstrap([0, 1], [1], ["a", "a"])


def test_mcnemar_by_hand():
    # 1 gained, 4 lost: 2 * (C(5,0) + C(5,1)) / 2^5
    first = [True] * 4 + [False] + [True] * 7 + [False] * 3
    second = [False] * 4 + [True] + [True] * 7 + [False] * 3
    assert mcnemar(first, second) == pytest.approx(2 * 6 / 32)
    assert mcnemar(second, first) == pytest.approx(2 * 6 / 32)
    assert mcnemar([True, False], [False, True]) == 1  # as many gained as lost
    assert mcnemar([True, False], [True, False]) == 1  # nothing changed
    assert mcnemar([False] * 6, [True] * 6) == pytest.approx(2 / 64)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_standard_errors_by_hand():
    assert mean_stderr([1, 0, 0, 1]) == pytest.approx((1 / 3) ** 0.5 / 2)
    assert np.isnan(mean_stderr([1]))
    one, two = mean_stderr([1, 0, 0, 1]), mean_stderr([1, 0])
    # pooled variance ((4 - 1) * 1/3 + (2 - 1) * 1/2) / (6 - 2), over 6 items
    assert pooled_stderr([one, two], [4, 2]) == pytest.approx((1.5 / 4 / 6) ** 0.5)
    assert pooled_stderr([one], [4]) == pytest.approx(one)


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_intervals_as_published(successes, trials, expected):
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=5e-5)
    high, low = (1 - end for end in wilson_interval(trials - successes, trials))
    assert (low, high) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("gained", "lost", "pairs", "expected", "digits"),
    [
        # Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33:2850): airway
        # hyper-responsiveness before and after stem cell transplantation
        (1, 7, 21, (-0.517, -0.026), 3),
        # Fagerland, Lydersen and Laake 2017 (Statistical Analysis of Contingency Tables, chapter 8):
        # complete response before and after consolidation therapy
        (6, 16, 161, (-0.1240, -0.0054), 4),
    ],
)
def test_tango_intervals_as_published(gained, lost, pairs, expected, digits):
    assert tango_interval(gained, lost, pairs) == pytest.approx(expected, abs=0.51 * 10**-digits)
    high, low = (-end for end in tango_interval(lost, gained, pairs))
    assert (low, high) == pytest.approx(expected, abs=0.51 * 10**-digits)


def test_tango_intervals_by_hand():
    # without discordant pairs the score is -n d / sqrt(n d (1 - d)), which is -Z at d = Z^2 / (n + Z^2)
    edge = Z**2 / (100 + Z**2)
    assert tango_interval(0, 0, 100) == pytest.approx((-edge, edge))
    # if all pairs are gained, P(lost) is estimated as (1 - d) / 2, so that the score is
    # sqrt(n (1 - d) / (1 + d)), which is Z at d = (n - Z^2) / (n + Z^2)
    assert tango_interval(10, 0, 10) == pytest.approx(((10 - Z**2) / (10 + Z**2), 1))


def test_the_score_at_a_tango_limit_is_the_normal_quantile():
    """The estimated variance is that of the trinomial likelihood's maximum on a grid, at the limit."""
    gained, lost, pairs = 9, 4, 40
    for limit in tango_interval(gained, lost, pairs):
        q = np.linspace(max(0, -limit), (1 - limit) / 2, 2_000_001)[1:-1]  # probability of `lost`
        likelihood = gained * np.log(q + limit) + lost * np.log(q)
        likelihood += (pairs - gained - lost) * np.log(1 - 2 * q - limit)
        best = q[likelihood.argmax()]
        score = (gained - lost - pairs * limit) / np.sqrt(pairs * (2 * best + limit - limit**2))
        assert abs(score) == pytest.approx(Z, abs=1e-4)


def test_impossible_counts_have_no_interval():
    for counts in ((-1, 3), (4, 3), (0, 0)):
        with pytest.raises(ValueError, match="trials"):
            wilson_interval(*counts)
    for counts in ((-1, 0, 3), (2, 2, 3), (0, 0, 0)):
        with pytest.raises(ValueError, match="pairs"):
            tango_interval(*counts)


def test_a_bootstrap_interval_without_width_becomes_a_score_interval():
    subjects = ["a"] * 5 + ["b"] * 5
    right, wrong = [True] * 10, [False] * 10
    assert accuracy_interval(right, subjects) == (1, *wilson_interval(10, 10))
    assert difference_interval(right, right, subjects) == (0, *tango_interval(0, 0, 10))
    assert difference_interval(wrong, right, subjects) == (1, *tango_interval(10, 0, 10))
    thirds = [True, False, False] * 3  # three subjects of equal accuracy
    by_three = ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert accuracy_interval(thirds, by_three) == (1 / 3, *wilson_interval(3, 9))
    mixed = [True] * 7 + [False] * 3
    assert accuracy_interval(mixed, subjects) == cluster_bootstrap(mixed, subjects)
    assert difference_interval(wrong, mixed, subjects) == paired_bootstrap(wrong, mixed, subjects)
    assert np.isnan(difference_interval(right, right, ["a"] * 10)[1:]).all()
