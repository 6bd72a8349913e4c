"""The figures by which experiments are compared: `reports/summary.json`, and a table that DVC plots."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

DIGITS = 4  # enough for comparison; the reports have them all


def summarize_experiment(metrics: Mapping[str, Any], routing: Mapping[str, Any]) -> dict[str, Any]:
    """Scores (percent), floor, score without memory, and routing (nats, shares) of one experiment.

    Args:
        metrics, routing: the contents of `reports/metrics.json` and `reports/routing.json`.
    """
    without = {name: row["exact_match"] for name, row in metrics["memory_ablation"].items() if name != "normal"}
    by_type = {name: group["exact_match"] for name, group in metrics["by_question_type"].items()}
    summary: dict[str, Any] = {
        "exact_match": metrics["exact_match"],
        "f1": metrics["f1"],
        "always_no_answer": metrics["always_no_answer"]["exact_match"],
        **{f"exact_match_memory_{name}": value for name, value in without.items()},
        **{f"exact_match_{name}": value for name, value in by_type.items()},
    }
    if routing["expert_utilization"]:
        summary["routing_entropy"] = routing["mean_entropy"]
        summary["least_used_expert"] = min(routing["expert_utilization"])
        summary["most_used_expert"] = max(routing["expert_utilization"])
    return {name: None if value is None else round(value, DIGITS) for name, value in summary.items()}


def ablation_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each memory and group of questions: exact match (percent) with its interval."""
    rows = []
    for memory, overall in metrics["memory_ablation"].items():
        if overall["exact_match"] is None:
            continue
        for questions, group in {"all": overall, **overall["by_question_type"]}.items():
            value = group["exact_match"]
            low, high = group["exact_match_interval"] or (value, value)
            names = {"memory": memory, "questions": questions, "memory_questions": f"{questions}: {memory}"}
            rows.append({**names, "exact_match": value, "low": low, "high": high})
    return pd.DataFrame(rows).round(DIGITS)
