"""Utilities: atomic files, routing analysis, plots. What needs matplotlib or a model is imported lazily."""

from importlib import import_module
from typing import Any

_HOMES = {
    "GMMAnalyzer": "analyzer",
    "plot_entropy_timeline": "plots",
    "plot_expert_similarity": "plots",
    "plot_expert_utilization": "plots",
    "plot_memory_ablation": "plots",
    "plot_routing_by_question_type": "plots",
    "plot_routing_heatmap": "plots",
    "plot_scores_by_segments": "plots",
    "plot_training_curves": "plots",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"gmmxlnet.analysis.{_HOMES[name]}"), name)
