"""Statistics of a split and of what was dropped from it, for `reports/data.json`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.store import SPLITS, BuiltSplit

EXAMPLES = 20  # question ids listed for each reason; all are counted
NO_TOKEN_SPAN = "answer_is_no_token_span"
NOTICEABLE = 0.01  # warn if this share of a split's answers has no label
FEW_CALIBRATION = 30  # questions: a threshold chosen on fewer is unreliable


def summarize(built: BuiltSplit, left_out: Mapping[str, list[str]]) -> dict[str, Any]:
    """Counts of a split: documents, segments, positions of answers, what was truncated or dropped and why.

    `left_out` lists the questions that were dropped before the split was built, by reason.
    """
    if built.unlabeled_ids:
        left_out = {**left_out, NO_TOKEN_SPAN: built.unlabeled_ids}
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


def notes(report: Mapping[str, Any]) -> list[str]:
    """Sentences on what was truncated or dropped, by kind and split, from the report of `build_chunks`."""
    said = []
    longest = report["settings"]["max_question_length"]
    for name in SPLITS:
        split = report[name]
        if split["cut_questions"]:
            said.append(
                f"{split['cut_questions']:,} of {split['documents']:,} {name} questions are cut to {longest} tokens "
                "(max_question_length)"
            )
        if split["answers"]["inside_no_segment"]:
            said.append(
                f"{split['answers']['inside_no_segment']:,} of {split['answerable']:,} {name} answers lie whole in no "
                "segment and count as not there; a larger doc_stride or max_seq_length would hold them"
            )
        for reason, questions in split["left_out"].items():
            if reason != NO_TOKEN_SPAN:
                said.append(f"{questions['documents']:,} {name} questions are left out ({reason.replace('_', ' ', 1)})")
    if report["calibration"]["documents"] < FEW_CALIBRATION:
        said.append(
            f"calibration on {report['calibration']['documents']} questions: too few to choose the no-answer threshold "
            "well; raise calibration_fraction, or give more contexts"
        )
    return said


def warnings(report: Mapping[str, Any]) -> list[str]:
    """Warnings for splits that lose a noticeable share of answers to the tokenizer, with cause and remedy."""
    said = []
    for name in SPLITS:
        split = report[name]
        left_out = split["left_out"].get(NO_TOKEN_SPAN, {"documents": 0})["documents"]
        lost, answerable = left_out + split["answers"]["no_token_span"], left_out + split["answerable"]
        if lost and lost >= NOTICEABLE * answerable:
            fate = "are left out of training" if name == "train" else "can be answered by no prediction"
            said.append(
                f"{lost:,} of {answerable:,} {name} answers ({lost / answerable:.0%}) begin or end inside a token, "
                f"which swallows their neighbors, and {fate}; name a tokenizer made for the text's language, or set "
                "tokenizer to scratch, which splits scripts without spaces letter by letter (docs/languages.md)"
            )
    return said


def _histogram(values: Iterable[int]) -> dict[str, int]:
    """Counts how often each value occurs, in ascending order."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _by_type(types: list[str | None], impossible: list[bool], num_segments_N: np.ndarray) -> dict[str, dict[str, int]]:
    """Counts by question type; empty if the questions have no types."""
    table: dict[str, dict[str, int]] = {}
    for name in sorted({name for name in types if name is not None}):
        rows = [row for row, other in enumerate(types) if other == name]
        table[name] = {
            "documents": len(rows),
            "unanswerable": sum(impossible[row] for row in rows),
            "segments": int(num_segments_N[rows].sum()),
        }
    return table
