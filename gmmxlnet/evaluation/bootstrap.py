"""95% confidence intervals of mean scores, over contexts.

Questions about the same context share its difficulty, so whole contexts are resampled: a cluster bootstrap with
percentile limits (Efron and Tibshirani 1993, ch. 13; Field and Welsh 2007). All intervals of a report use the same
draws, so that variants are compared in pairs.

If every context has the same mean, so has every resample, and the bootstrap interval collapses to a point, as if 100
of 100 contexts were a certainty. In this case the share of unseen contexts that may differ is bounded by the Wilson
score interval (Wilson 1927) for 0 differing contexts out of C: at most z² / (C + z²).
"""

from statistics import NormalDist

import numpy as np

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
SAME = 1e-9  # context means closer than this are equal (floating-point rounding)


class ContextBootstrap:
    """Draws contexts with replacement, `num_resamples` times, from a seeded generator.

    Args:
        context_index_D: (D,) context index of each of D questions.
    """

    def __init__(self, context_index_D: np.ndarray, num_resamples: int = 2000, seed: int = 0) -> None:
        contexts, self.context_D = np.unique(context_index_D, return_inverse=True)
        self.num_contexts, self.num_resamples, self.seed = len(contexts), num_resamples, seed
        equal = np.full(self.num_contexts, 1 / self.num_contexts)
        self.times_drawn_RC = np.random.default_rng(seed).multinomial(self.num_contexts, equal, size=num_resamples)

    def interval(
        self, scores_D: np.ndarray, group_D: np.ndarray | None = None, *, bounds: tuple[float, float] = (0.0, 100.0)
    ) -> list[float] | None:
        """Computes the limits [low, high] of a mean score.

        Args:
            scores_D: (D,) a score for each question, within `bounds`.
            group_D: (D,) bool, the questions to average over; all by default.
            bounds: the lowest and the highest possible score; (-100, 100) for a difference of two percentages.

        Returns:
            None if the group has a single context and cannot be resampled.
        """
        group_D = np.ones(len(scores_D), bool) if group_D is None else group_D
        context = self.context_D[group_D]
        counts_C = np.bincount(context, minlength=self.num_contexts)
        present_C = counts_C > 0
        if present_C.sum() < 2:
            return None
        sums_C = np.bincount(context, weights=scores_D[group_D], minlength=self.num_contexts)
        means_C = sums_C[present_C] / counts_C[present_C]
        if np.ptp(means_C) <= SAME * (bounds[1] - bounds[0]):
            return _wilson(float(means_C.mean()), len(means_C), bounds)
        counts_R = self.times_drawn_RC @ counts_C
        drawn_R = counts_R > 0  # a resample may contain none of a small group
        means_R = (self.times_drawn_RC[drawn_R] @ sums_C) / counts_R[drawn_R]
        return [float(limit) for limit in np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def _wilson(mean: float, num_contexts: int, bounds: tuple[float, float]) -> list[float]:
    """Computes the limits if all contexts have the same `mean`; differing contexts may be anywhere in `bounds`."""
    share = Z**2 / (num_contexts + Z**2)
    mean = min(max(mean, bounds[0]), bounds[1])
    return [mean - share * (mean - bounds[0]), mean + share * (bounds[1] - mean)]
