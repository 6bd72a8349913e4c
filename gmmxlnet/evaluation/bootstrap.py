"""95% intervals by resampling contexts.

Questions about one context share its difficulty, so they are drawn together: a cluster bootstrap with percentile limits
(Efron and Tibshirani 1993, ch. 13; Field and Welsh 2007). Every interval of a report uses the same draws, which pairs
the variants that it compares.
"""

import numpy as np

LEVEL = 0.95


class ContextBootstrap:
    """Draws contexts with replacement, `num_resamples` times, from a seeded generator.

    Args:
        context_index_D: (D,) the context of each of D questions.
    """

    def __init__(self, context_index_D: np.ndarray, num_resamples: int = 2000, seed: int = 0) -> None:
        contexts, self.context_D = np.unique(context_index_D, return_inverse=True)
        self.num_contexts, self.num_resamples, self.seed = len(contexts), num_resamples, seed
        equal = np.full(self.num_contexts, 1 / self.num_contexts)
        self.times_drawn_RC = np.random.default_rng(seed).multinomial(self.num_contexts, equal, size=num_resamples)

    def interval(self, scores_D: np.ndarray, group_D: np.ndarray | None = None) -> list[float] | None:
        """The limits [low, high] of the mean score of the questions in `group_D` (a bool mask; all when left out).

        None where the group lies within one context: there is nothing to resample.
        """
        group_D = np.ones(len(scores_D), bool) if group_D is None else group_D
        if len(np.unique(self.context_D[group_D])) < 2:
            return None
        context = self.context_D[group_D]
        sums_C = np.bincount(context, weights=scores_D[group_D], minlength=self.num_contexts)
        counts_C = np.bincount(context, minlength=self.num_contexts)
        counts_R = self.times_drawn_RC @ counts_C
        drawn_R = counts_R > 0  # a small group can be missing from a resample
        means = (self.times_drawn_RC[drawn_R] @ sums_C) / counts_R[drawn_R]
        return [float(limit) for limit in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
