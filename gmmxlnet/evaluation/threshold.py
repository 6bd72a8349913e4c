"""Choosing the null odds above which a question counts as unanswerable, on documents that are reported nowhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.evaluation.squad_metric import raw_scores

TOLERANCE = 1e-9  # sums of F1 in another order differ by rounding; such candidates are equally good


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold, the metric it maximizes, how many questions chose it and their score (percent) with it."""

    value: float = 0.0
    metric: str | None = None
    num_questions: int = 0
    score: float | None = None

    def describe(self) -> dict[str, Any]:
        """As `reports/metrics.json` tells it."""
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
    """The threshold that maximizes `metric` (`f1` or `exact_match`) on these predictions.

    Between two neighboring odds every threshold gives the same score, so the middle of such a gap is taken: the widest
    one if several are as good, a distance of 1 beyond the outermost odds if answering all, or nothing, is best. Without
    predictions to choose from it is 0, where answering and not answering score alike.
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
    widths[[0, -1]] = 0  # the outer gaps have no width to speak of: an inner one that is as good is safer
    best = np.lexsort((-widths, totals < totals.max() - TOLERANCE))[0]
    return ThresholdChoice(
        value=float((edges[best] + edges[best + 1]) / 2),
        metric=metric,
        num_questions=len(golds),
        score=float(100 * totals[best] / len(golds)),
    )
