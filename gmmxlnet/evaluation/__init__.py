"""Evaluation: extracts answers from logits, computes the official metric, and ablates the memory.

`QAEvaluator` is imported lazily, so that the metric can be used without importing a model.
"""

from typing import Any

__all__ = ["QAEvaluator"]


def __getattr__(name: str) -> Any:
    if name != "QAEvaluator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gmmxlnet.evaluation.evaluator import QAEvaluator

    return QAEvaluator
