"""Chooses answers to show in their documents: right and wrong ones of every type of question, with the routing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gmmxlnet.analysis.routing import RoutingTable
from gmmxlnet.data.documents import Documents
from gmmxlnet.evaluation.squad_metric import exact_score

Span = tuple[int, int]  # first character and the one after the last


@dataclass(frozen=True)
class ShownSegment:
    """A segment's routing and its own part of the text, without the overlap with the segment before."""

    index: int
    start: int
    end: int
    routing: list[float] | None  # probability of each expert; None without experts


@dataclass(frozen=True)
class ShownAnswer:
    """An answered question with its document."""

    question: str
    question_type: str | None
    right: bool
    given: str  # empty: no answer
    golds: list[str]  # none: unanswerable
    null_odds: float
    span: Span | None  # of the answer given; None where there is none
    segment: int | None  # that it was found in
    gold_span: Span | None
    text: str
    segments: list[ShownSegment]


def choose_answers(
    documents: Documents,
    n_best: Mapping[str, Sequence[Mapping[str, Any]]],
    threshold: float,
    table: RoutingTable | None,
    count: int = 4,
) -> list[ShownAnswer]:
    """Up to `count` right answers, then as many wrong ones: types in turn, of as many contexts as possible.

    Args:
        n_best: the contents of `reports/nbest_predictions.json` about these documents.
        threshold: null odds above which there is no answer.
        table: the routing of their segments, for models that route.
    """
    chosen: list[ShownAnswer] = []
    right_D = np.array([_is_right(documents, i, n_best, threshold) for i in range(len(documents))])
    for right in (True, False):
        chosen += [
            _shown(documents, i, n_best, threshold, table, right=right)
            for i in _types_in_turn(documents, np.flatnonzero(right_D == right), count)
        ]
    return chosen


def _types_in_turn(documents: Documents, rows: np.ndarray, count: int) -> list[int]:
    """Up to `count` of these documents: a document of each type, then a second of each.

    Of a type, those of several segments come first, and those of contexts that are not shown yet.
    """
    single_D = documents.num_segments() == 1
    by_type: dict[str, list[int]] = {}
    for i in map(int, rows):
        by_type.setdefault(documents.question_type(i) or str(documents.is_impossible(i)), []).append(i)
    chosen: list[int] = []
    shown: Counter[int] = Counter()  # how many answers of each context are shown
    for _ in range(count):
        for _, left in sorted(by_type.items()):
            if left and len(chosen) < count:
                best = min(left, key=lambda i: (bool(single_D[i]), shown[documents.context_index(i)], i))
                left.remove(best)
                chosen.append(best)
                shown[documents.context_index(best)] += 1
    return chosen


def _answer(documents: Documents, index: int, n_best: Mapping[str, Any], threshold: float) -> tuple[Any, float]:
    """The n-best entry that is the answer (None: no answer), and the null odds."""
    entries = n_best[documents.question_id(index)]
    score = {True: -np.inf, False: -np.inf}  # of the best span, and of the empty answer
    for entry in entries:
        is_span = entry["char_start"] is not None
        score[is_span] = max(score[is_span], entry["start_logit"] + entry["end_logit"])
    odds = float(score[False] - score[True])
    best = next((entry for entry in entries if entry["char_start"] is not None), None)
    return (None if odds > threshold else best), odds


def _is_right(documents: Documents, index: int, n_best: Mapping[str, Any], threshold: float) -> bool:
    entry, _ = _answer(documents, index, n_best, threshold)
    golds = documents.gold_answers(index) or [""]
    return any(exact_score(gold, entry["text"] if entry else "") for gold in golds)


def _shown(
    documents: Documents,
    index: int,
    n_best: Mapping[str, Any],
    threshold: float,
    table: RoutingTable | None,
    *,
    right: bool,
) -> ShownAnswer:
    entry, odds = _answer(documents, index, n_best, threshold)
    label = documents[index].label
    return ShownAnswer(
        question=documents.question_text(index),
        question_type=documents.question_type(index),
        right=right,
        given=entry["text"] if entry else "",
        golds=documents.gold_answers(index),
        null_odds=odds,
        span=(entry["char_start"], entry["char_end"]) if entry else None,
        segment=entry["segment"] if entry else None,
        gold_span=documents.token_char_span(index, *label) if label else None,
        text=documents.context_text(index),
        segments=_segments(documents, index, table),
    )


def _segments(documents: Documents, index: int, table: RoutingTable | None) -> list[ShownSegment]:
    """The text, split where one segment's own part ends and the next one's begins."""
    bounds, length = documents[index].segments, len(documents.context_text(index))
    ends = [documents.token_char_span(index, 0, int(end) - 1)[1] if end else 0 for _, end in bounds]
    ends[-1] = length
    routing: list[list[float] | None] = [None] * len(bounds)
    if table is not None:
        routing = list(table.probs[table.document == index].tolist())
    return [
        ShownSegment(s, start, end, routing[s])
        for s, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
    ]
