"""`reports/metrics.json`: the official metrics and the figures needed to interpret them.

These are the floor (always answering "no answer"), 95% intervals, scores by question type and by number of segments,
and the scores of the same model without its memory. Scores are in percent.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from gmmxlnet.evaluation.bootstrap import LEVEL, ContextBootstrap
from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.evaluation.squad_metric import Scores, apply_threshold, raw_scores, squad_v2_metrics
from gmmxlnet.evaluation.threshold import ThresholdChoice
from gmmxlnet.models.memories.routing_ablation import LEARNED

OFFICIAL_NAMES = {"exact": "exact_match"}  # official script's name -> our name
GROUPS = ("HasAns", "NoAns")
SAME_WITHOUT_MEMORY = "the model has no memory: every ablation is the plain score, not computed again"
ONE_CONTEXT = "all documents share one context: no other document's memory could be handed over"


class ScoredQuestions:
    """Exact match and F1 (0 to 1) of every question at a threshold, with group averages and intervals."""

    def __init__(self, predictions: Predictions, threshold: float, bootstrap: ContextBootstrap) -> None:
        golds, odds = predictions.golds(), predictions.odds_by_id()
        scores = raw_scores(golds, predictions.answers(threshold))
        exact, f1 = (apply_threshold(each, odds, golds, threshold) for each in scores)
        self.scores: dict[str, Scores] = {"exact_match": exact, "f1": f1}
        self.bootstrap = bootstrap

    def values(self, metric: str) -> np.ndarray:
        """(D,) float64 scores in percent, in the order of the documents."""
        return 100.0 * np.array(list(self.scores[metric].values()), float)

    def summary(self, group_D: np.ndarray | None = None) -> dict[str, Any]:
        """Averages over a group of questions (a bool mask; all by default) with their intervals."""
        summary: dict[str, Any] = {}
        for metric, scores in self.scores.items():
            chosen = [score for i, score in enumerate(scores.values()) if group_D is None or group_D[i]]
            summary[metric] = 100.0 * sum(chosen) / len(chosen)  # same summation as the official script
            summary[f"{metric}_interval"] = self.bootstrap.interval(self.values(metric), group_D)
        return {**summary, "total": len(chosen)}

    def loss_to(self, other: "ScoredQuestions") -> dict[str, Any]:
        """Score differences to `other`, with intervals paired by question; an interval above 0 is a real loss."""
        loss: dict[str, Any] = {}
        for metric in self.scores:
            difference_D = self.values(metric) - other.values(metric)
            loss[f"{metric}_loss"] = float(difference_D.mean())
            certain = other is self  # a model without memory loses nothing, by construction
            interval = [0.0, 0.0] if certain else self.bootstrap.interval(difference_D, bounds=(-100.0, 100.0))
            loss[f"{metric}_loss_interval"] = interval
        return loss


def official_figures(predictions: Predictions, choice: ThresholdChoice) -> dict[str, Any]:
    """Figures of the official script for the prediction files; keys of absent groups are null."""
    odds = predictions.odds_by_id()
    golds, answers = predictions.golds(), predictions.answers(choice.value)
    figures: dict[str, Any] = dict(squad_v2_metrics(golds, answers, odds, choice.value))
    for group in GROUPS:
        if f"{group}_total" not in figures:
            figures |= {f"{group}_exact": None, f"{group}_f1": None, f"{group}_total": 0}
    return {OFFICIAL_NAMES.get(name, name): value for name, value in figures.items()}


def _oracle(predictions: Predictions) -> dict[str, Any]:
    """Scores with a threshold chosen on the evaluated questions; `best_*` stops at the threshold in use."""
    odds, best_texts = predictions.odds_by_id(), predictions.best_texts
    answers = dict(zip(predictions.question_ids, best_texts, strict=True))
    figures = squad_v2_metrics(predictions.golds(), answers, odds)
    return {
        "exact_match": figures["best_exact"],
        "exact_match_threshold": figures["best_exact_thresh"],
        "f1": figures["best_f1"],
        "f1_threshold": figures["best_f1_thresh"],
        "note": "chosen on the set it is reported on: a bound, not a result",
    }


def _always_answering(predictions: Predictions, bootstrap: ContextBootstrap) -> dict[str, Any] | None:
    """Scores of the best spans on the answerable questions, whatever their null odds; None without such questions."""
    answerable_D = np.array([bool(answers) for answers in predictions.golds().values()])
    if not answerable_D.any():
        return None
    return ScoredQuestions(predictions, float("inf"), bootstrap).summary(answerable_D)


def _by_label(scored: ScoredQuestions, labels: Sequence[str | int | None]) -> dict[str, Any]:
    """Summaries by label, in sorted order; questions without a label are skipped."""
    label_D = np.array(labels, dtype=object)
    return {str(label): scored.summary(label_D == label) for label in sorted({x for x in labels if x is not None})}


def _ablations(
    scored: ScoredQuestions,
    normal: Predictions,
    ablations: Mapping[str, Predictions | None],
    threshold: float,
    unchanged: str,
) -> dict[str, Any]:
    """Scores of each ablation, and of the unmodified model under the name `unchanged`."""
    types = normal.question_types()
    table = {unchanged: {**scored.summary(), "by_question_type": _by_label(scored, types)}}
    for name, predictions in ablations.items():
        if predictions is None:
            table[name] = dict.fromkeys(table[unchanged])
            continue
        other = scored if predictions is normal else ScoredQuestions(predictions, threshold, scored.bootstrap)
        table[name] = {**other.summary(), **scored.loss_to(other), "by_question_type": _by_label(other, types)}
    return table


def assemble_metrics(
    normal: Predictions,
    choice: ThresholdChoice,
    ablations: Mapping[str, Predictions | None],
    routing_ablations: Mapping[str, Predictions | None] = MappingProxyType({}),
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the contents of `reports/metrics.json`.

    Args:
        ablations: predictions for the same documents by ablation (`QAEvaluator.ablate`); empty to omit the table.
        routing_ablations: the same by routing (`QAEvaluator.ablate_routing`).
        seed: bootstrap seed.
    """
    bootstrap = ContextBootstrap(normal.context_indices(), seed=seed)
    scored = ScoredQuestions(normal, choice.value, bootstrap)
    overall = scored.summary()
    floor = 100.0 * sum(not answers for answers in normal.golds().values()) / overall["total"]
    metrics = {
        **official_figures(normal, choice),
        "null_score_diff_threshold": choice.value,
        "null_score_diff_threshold_choice": choice.describe(),
        "oracle_threshold": _oracle(normal),
        "always_no_answer": {"exact_match": floor, "f1": floor},
        "always_answering": _always_answering(normal, bootstrap),
        "intervals": {
            "exact_match": overall["exact_match_interval"],
            "f1": overall["f1_interval"],
            "level": LEVEL,
            "resampled": "contexts",
            "contexts": bootstrap.num_contexts,
            "resamples": bootstrap.num_resamples,
            "seed": bootstrap.seed,
        },
        "by_question_type": _by_label(scored, normal.question_types()),
        "by_segments": _by_label(scored, normal.documents.num_segments().tolist()),
    }
    if ablations:
        metrics["memory_ablation"] = _ablations(scored, normal, ablations, choice.value, "normal")
        if None in ablations.values():
            metrics["memory_ablation_note"] = ONE_CONTEXT
        elif all(predictions is normal for predictions in ablations.values()):
            metrics["memory_ablation_note"] = SAME_WITHOUT_MEMORY
    if routing_ablations:
        metrics["routing_ablation"] = _ablations(scored, normal, routing_ablations, choice.value, LEARNED)
    return metrics
