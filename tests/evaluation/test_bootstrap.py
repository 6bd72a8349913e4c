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
