"""Evaluation: from logits to answers, the official metric, and what the memory has to do with them.

`QAEvaluator` is imported when it is first asked for, so that the metric can be had without a model.
"""

from typing import Any

__all__ = ["QAEvaluator"]


def __getattr__(name: str) -> Any:
    if name != "QAEvaluator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gmmxlnet.evaluation.evaluator import QAEvaluator

    return QAEvaluator
