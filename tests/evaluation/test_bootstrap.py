"""Intervals over contexts: deterministic, honest about clusters and at the edge, None for a single context."""

import numpy as np
import pytest

from gmmxlnet.evaluation.bootstrap import ContextBootstrap


def test_same_seed_same_interval():
    scores = 100 * np.random.default_rng(0).random(50)
    intervals = [ContextBootstrap(np.arange(50), seed=seed).interval(scores) for seed in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_agrees_with_the_normal_approximation_when_contexts_are_single_questions():
    scores = 100 * np.random.default_rng(0).random(400)
    low, high = ContextBootstrap(np.arange(400)).interval(scores)
    error = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - error, scores.mean() + error), abs=0.15 * error)


def test_questions_that_share_their_contexts_fate_are_no_new_evidence():
    """Ten copies of each question in its context leave the interval as it was."""
    scores = 100.0 * np.random.default_rng(0).integers(0, 2, 100)
    once = ContextBootstrap(np.arange(100)).interval(scores)
    assert ContextBootstrap(np.repeat(np.arange(100), 10)).interval(np.repeat(scores, 10)) == pytest.approx(once)


def test_group_is_averaged_over_its_own_questions():
    context, scores = np.repeat(np.arange(40), 2), np.tile([30.0, 90.0], 40) + np.repeat(np.arange(40) % 5, 2)
    low, high = ContextBootstrap(context).interval(scores, np.tile([False, True], 40))
    assert 90 < low < 92 < high < 94


@pytest.mark.parametrize("contexts", [2, 30, 120])
def test_where_all_contexts_agree_the_limits_are_wilsons(contexts):
    """Against the textbook form of the Wilson interval, for C of C and for 0 of C."""
    z2 = 1.959964**2
    half = np.sqrt(z2) * np.sqrt(z2 / (4 * contexts**2)) / (1 + z2 / contexts)
    lowest = (1 + z2 / (2 * contexts)) / (1 + z2 / contexts) - half
    bootstrap = ContextBootstrap(np.repeat(np.arange(contexts), 3))
    assert bootstrap.interval(np.full(3 * contexts, 100.0)) == pytest.approx([100 * lowest, 100], abs=1e-4)
    assert bootstrap.interval(np.zeros(3 * contexts)) == pytest.approx([0, 100 - 100 * lowest], abs=1e-4)


def test_only_the_contexts_of_the_group_count_at_the_edge():
    scores, group = np.full(100, 100.0), np.arange(100) < 10
    few, many = (ContextBootstrap(np.arange(100)).interval(scores, chosen) for chosen in (group, ~group))
    assert few[0] == pytest.approx(100 * 10 / (10 + 1.959964**2), abs=1e-4)
    assert few[0] < many[0] < 100


def test_a_difference_that_no_context_shows_may_go_either_way():
    low, high = ContextBootstrap(np.arange(120)).interval(np.zeros(120), bounds=(-100.0, 100.0))
    assert low == -high
    assert high == pytest.approx(100 * 1.959964**2 / (120 + 1.959964**2), abs=1e-4)


def test_last_bits_are_no_difference():
    scores = np.array([0.1 + 0.2, 0.3, 0.3]) * 100
    low, high = ContextBootstrap(np.arange(3)).interval(scores)
    assert high - low > 10


def test_one_context_has_no_interval():
    bootstrap = ContextBootstrap(np.array([4, 4, 9]))
    assert bootstrap.interval(np.ones(3), np.array([True, True, False])) is None


def test_limits_are_the_percentiles_of_the_drawn_contexts_means():
    """In plain Python, from the same draws: contexts of unequal size, of which a small group is in few resamples."""
    context = np.repeat([7, 3, 5, 9], [1, 4, 2, 3])
    scores = np.array([90.0, 10, 20, 30, 0, 55, 65, 40, 100, 70])
    group = np.isin(np.arange(10), [0, 1, 5, 6])  # contexts 7, 3 and 5
    bootstrap = ContextBootstrap(context, num_resamples=300, seed=4)
    means = []
    for times in bootstrap.times_drawn_RC:  # in the order of the contexts: 3, 5, 7, 9
        drawn = dict(zip((3, 5, 7, 9), times.tolist(), strict=True))
        chosen = [scores[i] for i in range(10) if group[i] for _ in range(drawn[context[i]])]
        if chosen:
            means.append(sum(chosen) / len(chosen))
    assert 0 < 300 - len(means) < 30
    assert bootstrap.interval(scores, group) == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist())


def test_contexts_of_one_mean_agree_however_many_questions_they_have():
    context, scores = np.array([0, 0, 1]), np.array([40.0, 60.0, 50.0])
    low, high = ContextBootstrap(context).interval(scores)
    assert low < 50 < high
    assert ContextBootstrap(context).interval(np.array([40.0, 60.0, 100.0]))[1] == 100


def test_two_thousand_resamples_are_drawn_by_default():
    drawn = ContextBootstrap(np.arange(3)).times_drawn_RC
    assert drawn.shape == (2000, 3)
    assert np.array_equal(drawn, ContextBootstrap(np.arange(3), 2000, 0).times_drawn_RC)


@pytest.mark.parametrize("bounds", [(0.0, 100.0), (-100.0, 100.0)])
def test_what_counts_as_equal_grows_with_the_scale(bounds):
    scores = np.array([0.0, 2e-8, 0.0])
    low, high = ContextBootstrap(np.arange(3)).interval(scores, bounds=bounds)
    assert high - low > 10
