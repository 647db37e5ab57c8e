"""Intervals that respect topics, and other known answers."""

import tracemalloc

import numpy as np
import pytest
from expertchat import statistics
from expertchat.statistics import (
    bootstrap_sums,
    calibration_error,
    cluster_bootstrap,
    spearman,
    win_rate,
)


def test_an_interval_by_topic_is_wider_than_one_that_ignores_topics():
    values = [1.0] * 50 + [0.0] * 50  # two topics, each of one mind
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
    monkeypatch.setattr(statistics, "KEPT", 0)
    assert both() == pytest.approx(whole, rel=1e-12)


def test_memory_does_not_grow_with_draws_times_clusters(monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK", 2**16)
    monkeypatch.setattr(statistics, "KEPT", 0)
    values, clusters = np.ones(4_000), np.arange(4_000)
    tracemalloc.start()
    cluster_bootstrap(values, clusters, draws=500)  # 500 times 4,000 numbers have 16 MB
    bootstrap_sums(values[:, None], clusters, lambda sums: sums[..., 0], draws=500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


def test_draws_in_which_a_statistic_does_not_exist_are_left_out():
    # 1 over the number of clusters "b" drawn: infinite where it was not drawn
    terms = np.array([[0.0], [1.0], [1.0]])
    value, low, high = bootstrap_sums(terms, ["a", "b", "c"], lambda sums: 1 / sums[..., 0])
    assert value == 0.5 and 1 / 3 <= low <= 0.5 <= high <= 1
