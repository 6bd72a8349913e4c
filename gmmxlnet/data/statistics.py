"""What a split holds and what was left out of it, in numbers for `reports/data.json`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.store import BuiltSplit

EXAMPLES = 20  # question ids listed for each reason; all are counted


def summarize(built: BuiltSplit, left_out: Mapping[str, list[str]]) -> dict[str, Any]:
    """Counts of a split: documents, segments, where the answers fall, what was cut or left out and why.

    `left_out` names the questions that were left out before the split was built, by reason.
    """
    if built.unlabeled_ids:
        left_out = {**left_out, "answer_is_no_token_span": built.unlabeled_ids}
    documents = Documents(built)
    num_segments_N = documents.num_segments()
    impossible = [not answers for answers in built.texts.answers]
    labeled_N, inside_N = documents.has_label(), documents.label_in_a_segment()
    num_answerable = len(impossible) - sum(impossible)
    return {
        "contexts": len(built.texts.contexts),
        "context_tokens": len(built.chunks.context_tokens),
        "question_tokens": len(built.chunks.question_tokens),
        "documents": len(documents),
        "answerable": num_answerable,
        "unanswerable": sum(impossible),
        "segments": int(num_segments_N.sum()),
        "segments_per_document": {
            "mean": round(float(num_segments_N.mean()), 4) if len(documents) else None,
            "max": int(num_segments_N.max(initial=0)),
            "histogram": _histogram(num_segments_N.tolist()),
        },
        "answers": {
            "inside_a_segment": int(inside_N.sum()),
            "inside_no_segment": int((labeled_N & ~inside_N).sum()),  # trained on as unanswerable
            "no_token_span": num_answerable - int(labeled_N.sum()),  # evaluated, never trained on
        },
        "by_question_type": _by_type(built.texts.question_types, impossible, num_segments_N),
        "cut_questions": built.num_cut_questions,
        "left_out": {reason: {"documents": len(ids), "first_ids": ids[:EXAMPLES]} for reason, ids in left_out.items()},
    }


def _histogram(values: Iterable[int]) -> dict[str, int]:
    """How often each value occurs, in rising order."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _by_type(types: list[str | None], impossible: list[bool], num_segments_N: np.ndarray) -> dict[str, dict[str, int]]:
    """Counts by question type; empty for sets whose questions carry none."""
    table: dict[str, dict[str, int]] = {}
    for name in sorted({name for name in types if name is not None}):
        rows = [row for row, other in enumerate(types) if other == name]
        table[name] = {
            "documents": len(rows),
            "unanswerable": sum(impossible[row] for row in rows),
            "segments": int(num_segments_N[rows].sum()),
        }
    return table
