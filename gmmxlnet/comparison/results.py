"""`Result`: the scores of one variant with one seed, and its columns in a comparison.

Scores are in percent with 95% intervals, as the evaluate stage wrote them. None stands for a value that does not exist
(a model without experts has no routing) or was not measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ALL = "all"  # the group of all questions
CROSS = "cross"  # type of the questions that only a memory can answer, in datasets that label them
ABLATIONS = ("normal", "zeroed", "shuffled", "reset")
Column = dict[str, str | float | None]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score in percent and its 95% interval, which is None for a single context."""

    value: float | None
    low: float | None
    high: float | None

    def clear_of(self, other: "Score") -> bool:
        """Whether both intervals exist and do not overlap."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low > other.high or self.high < other.low


@dataclass(frozen=True, kw_only=True)
class Result:
    """One variant with one seed.

    Args:
        metrics: the contents of `reports/metrics.json`.
        routing: the contents of `reports/routing.json`.
        cost: of the training, as far as it is known: `parameters`, `tokens_per_second`, `peak_memory_mib`,
            `peak_gpu_memory_mib`, `training_seconds`, `threads`, `device`.
    """

    variant: str
    seed: int
    metrics: Mapping[str, Any]
    routing: Mapping[str, Any]
    cost: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """All questions, then the types of question that the dataset labels."""
        return [ALL, *self.metrics["by_question_type"]]

    @property
    def telling_group(self) -> str:
        """The questions that need a memory most: `cross` where the dataset labels them, else all."""
        return CROSS if CROSS in self.metrics["by_question_type"] else ALL

    @property
    def floor(self) -> float:
        """Exact match of always answering "no answer", in percent."""
        return self.metrics["always_no_answer"]["exact_match"]

    def measured_cost(self, name: str) -> float | None:
        """A cost that is a number; None if it is not known."""
        value = self.cost.get(name)
        return None if value is None else float(value)

    def score(self, metric: str, group: str = ALL, ablation: str = "normal") -> Score:
        """`exact_match` or `f1` of a group of questions, under a memory ablation."""
        summary = self.metrics["memory_ablation"][ablation]
        if group != ALL and summary["by_question_type"] is not None:
            summary = summary["by_question_type"][group]
        low, high = summary[f"{metric}_interval"] or (None, None)
        return Score(value=summary[metric], low=low, high=high)

    def loss(self, ablation: str) -> Score:
        """Points of exact match lost under a memory ablation, over all questions, paired by question."""
        summary = self.metrics["memory_ablation"][ablation]
        low, high = summary.get("exact_match_loss_interval") or (None, None)
        return Score(value=summary.get("exact_match_loss"), low=low, high=high)

    @property
    def has_memory(self) -> bool:
        """Whether the variant has a memory that can be ablated."""
        return self.variant != "none"

    @property
    def above_floor(self) -> bool:
        """Whether the interval of exact match lies above the floor."""
        return (self.score("exact_match").low or 0.0) > self.floor

    @property
    def loses_without_memory(self) -> bool:
        """Whether some memory ablation costs exact match beyond chance (interval above zero)."""
        losses = [self.loss(name) for name in ABLATIONS[1:]]
        return self.has_memory and any(loss.low is not None and loss.low > 0 for loss in losses)

    @property
    def reads_memory(self) -> bool:
        """Whether the model loses answers without its memory; at the floor, a loss only concerns “no answer”."""
        return self.loses_without_memory and self.above_floor

    @property
    def utilization(self) -> tuple[float, float] | None:
        """The least and the largest mean routing probability of an expert."""
        shares = self.routing["expert_utilization"]
        return (min(shares), max(shares)) if shares else None

    @property
    def information(self) -> Mapping[str, float] | None:
        """Mutual information of top expert and document condition, if the dataset labels conditions."""
        return self.routing.get("condition_information")


def columns(result: Result) -> Column:
    """All values of a result, flat, for `comparison.csv`; the names do not depend on the variant."""
    row: Column = {"variant": result.variant, "seed": result.seed, "floor_exact_match": result.floor}
    row["questions"] = result.metrics["total"]
    for group in result.groups:
        for ablation in ABLATIONS:
            for metric in ("exact_match", "f1"):
                score = result.score(metric, group, ablation)
                name = f"{group}_{metric}" if ablation == "normal" else f"{group}_{metric}_memory_{ablation}"
                row |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    for ablation in ABLATIONS[1:]:
        loss = result.loss(ablation)
        name = f"all_exact_match_loss_memory_{ablation}"
        row |= {name: loss.value, f"{name}_low": loss.low, f"{name}_high": loss.high}
    least, most = result.utilization or (None, None)
    row |= {"utilization_min": least, "utilization_max": most, "routing_entropy_nats": result.routing["mean_entropy"]}
    information = result.information or {}
    for ours, theirs in (
        ("condition_bits", "bits"),
        ("condition_bits_by_chance", "chance_bits"),
        ("condition_bits_by_chance_95", "chance_bits_95"),
        ("condition_p_value", "p_value"),
    ):
        row[ours] = information.get(theirs)
    names = ("parameters", "tokens_per_second", "peak_memory_mib", "peak_gpu_memory_mib", "training_seconds")
    return row | {name: result.cost.get(name) for name in (*names, "threads", "device")}


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each variant, in the order in which variants first appear."""
    table: dict[str, list[Result]] = {}
    for result in results:
        table.setdefault(result.variant, []).append(result)
    return table


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if a value is missing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
