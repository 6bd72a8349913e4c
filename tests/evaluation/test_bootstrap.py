"""Intervals by resampling contexts: deterministic, honest about clusters, silent where there is nothing to resample."""

import numpy as np
import pytest

from gmmxlnet.evaluation.bootstrap import ContextBootstrap


def test_same_seed_same_interval():
    scores = np.random.default_rng(0).random(50)
    intervals = [ContextBootstrap(np.arange(50), seed=seed).interval(scores) for seed in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_agrees_with_the_normal_approximation_when_contexts_are_single_questions():
    scores = np.random.default_rng(0).random(400)
    low, high = ContextBootstrap(np.arange(400)).interval(scores)
    error = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - error, scores.mean() + error), abs=0.15 * error)


def test_questions_that_share_their_contexts_fate_are_no_new_evidence():
    """Ten copies of each question in its context leave the interval as it was."""
    scores = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    once = ContextBootstrap(np.arange(100)).interval(scores)
    assert ContextBootstrap(np.repeat(np.arange(100), 10)).interval(np.repeat(scores, 10)) == pytest.approx(once)


def test_group_is_averaged_over_its_own_questions():
    context, scores = np.array([0, 0, 1, 1, 2, 2]), np.array([1.0, 0, 1, 0, 1, 0])
    assert ContextBootstrap(context).interval(scores, scores == 1) == [1.0, 1.0]


def test_one_context_has_no_interval():
    bootstrap = ContextBootstrap(np.array([4, 4, 9]))
    assert bootstrap.interval(np.ones(3), np.array([True, True, False])) is None
