"""Chooses the null odds threshold for unanswerable questions on documents that are not used in reported scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.evaluation.squad_metric import raw_scores

TOLERANCE = 1e-9  # F1 sums that differ only by rounding are equally good


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold, the metric it maximizes, the number of questions used and their score (percent)."""

    value: float = 0.0
    metric: str | None = None
    num_questions: int = 0
    score: float | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the form used in `reports/metrics.json`."""
        if self.metric is None:
            return {"method": "not chosen from data"}
        return {
            "method": "maximizes the metric on the calibration split, which is never trained on nor reported; "
            "midpoint of the widest of equally good gaps between neighboring null odds",
            "split": "calibration",
            "metric": self.metric,
            "questions": self.num_questions,
            "score": self.score,
        }


def choose_threshold(calibration: Predictions, metric: str = "f1") -> ThresholdChoice:
    """Returns the threshold that maximizes `metric` (`f1` or `exact_match`) on these predictions.

    All thresholds between two adjacent odds give the same score, so the midpoint of the gap is used: that of the widest
    gap in case of ties, or a distance of 1 beyond the outermost odds if answering everything or nothing is best.
    Without predictions the threshold is 0, where the best span and no answer have equal scores.
    """
    golds = calibration.golds()
    if not golds:
        return ThresholdChoice()
    best_texts = dict(zip(calibration.question_ids, calibration.best_texts, strict=True))
    exact, f1 = raw_scores(golds, best_texts)
    answered = np.array(list((f1 if metric == "f1" else exact).values()), float)
    silent = np.array([not answers for answers in golds.values()], float)
    odds, group = np.unique(calibration.null_odds, return_inverse=True)  # equal odds are answered together
    gains = np.bincount(group, weights=answered - silent)
    totals = silent.sum() + np.concatenate([[0.0], np.cumsum(gains)])  # totals[i]: the i lowest odds answered
    edges = np.concatenate([[odds[0] - 2], odds, [odds[-1] + 2]])
    widths = np.diff(edges)
    widths[[0, -1]] = 0  # the outer gaps are unbounded: prefer an equally good inner one
    best = np.lexsort((-widths, totals < totals.max() - TOLERANCE))[0]
    return ThresholdChoice(
        value=float((edges[best] + edges[best + 1]) / 2),
        metric=metric,
        num_questions=len(golds),
        score=float(100 * totals[best] / len(golds)),
    )
