"""A model's predictions: every document's n best spans and null score, and the official output formats.

An answer's text is a slice of the context, never detokenized. Shapes: D documents, N spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

NO_SPAN_ODDS = 1e6  # null odds of a context without a valid span; finite, because JSON has no infinity


class Questions(Protocol):
    """The interface of `gmmxlnet.data.documents.Documents` that evaluation needs: one question per index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...
    @property
    def layout(self) -> Any: ...
    def num_segments(self) -> np.ndarray: ...
    def num_tokens(self) -> np.ndarray: ...
    def question_id(self, index: int) -> str: ...
    def question_text(self, index: int) -> str: ...
    def question_type(self, index: int) -> str | None: ...
    def gold_answers(self, index: int) -> list[str]: ...
    def context_index(self, index: int) -> int: ...
    def context_text(self, index: int) -> str: ...
    def token_char_span(self, index: int, first_token: int, last_token: int) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Predictions:
    """Each document's N best spans, best first (padded with `start_logit` -inf), and its null score."""

    documents: Questions
    first_token: np.ndarray  # (D,N) int64, context tokens
    last_token: np.ndarray  # (D,N) int64, inclusive
    segment: np.ndarray  # (D,N) int64
    start_logit: np.ndarray  # (D,N) float64
    end_logit: np.ndarray  # (D,N) float64
    null_start_logit: np.ndarray  # (D,) float64
    null_end_logit: np.ndarray  # (D,) float64
    null_segment: np.ndarray  # (D,) int64

    @cached_property
    def null_odds(self) -> np.ndarray:
        """(D,) null score minus the best span's score; higher means more likely unanswerable."""
        odds = self.null_start_logit + self.null_end_logit - (self.start_logit[:, 0] + self.end_logit[:, 0])
        return np.where(np.isfinite(odds), odds, NO_SPAN_ODDS)

    @cached_property
    def question_ids(self) -> list[str]:
        return [self.documents.question_id(i) for i in range(len(self.documents))]

    @cached_property
    def best_texts(self) -> list[str]:
        """Each document's best span as text, regardless of its null odds; empty only if no span is valid."""
        return [self.spans(i, 1)[0]["text"] if self.has_span(i) else "" for i in range(len(self.documents))]

    def has_span(self, index: int) -> bool:
        return bool(np.isfinite(self.start_logit[index, 0]))

    def spans(self, index: int, limit: int | None = None) -> list[dict[str, Any]]:
        """A document's spans, best first: text, character offsets (end exclusive), segment, logits."""
        context, found = self.documents.context_text(index), []
        for rank in np.flatnonzero(np.isfinite(self.start_logit[index]))[:limit]:
            first, last = int(self.first_token[index, rank]), int(self.last_token[index, rank])
            start, end = self.documents.token_char_span(index, first, last)
            found.append(
                {
                    "text": context[start:end],
                    "char_start": int(start),
                    "char_end": int(end),
                    "segment": int(self.segment[index, rank]),
                    "start_logit": float(self.start_logit[index, rank]),
                    "end_logit": float(self.end_logit[index, rank]),
                }
            )
        return found

    def answers(self, threshold: float) -> dict[str, str]:
        """Question id -> the best span's text, or the empty string where the null odds exceed `threshold`."""
        rows = zip(self.question_ids, self.best_texts, self.null_odds, strict=True)
        return {question_id: "" if odds > threshold else text for question_id, text, odds in rows}

    def odds_by_id(self) -> dict[str, float]:
        """Question id -> null odds."""
        return dict(zip(self.question_ids, self.null_odds.tolist(), strict=True))

    def n_best_by_id(self) -> dict[str, list[dict[str, Any]]]:
        """Question id -> its spans and the empty answer, best first, with softmax probabilities."""
        return {question_id: self._n_best(i) for i, question_id in enumerate(self.question_ids)}

    def _n_best(self, index: int) -> list[dict[str, Any]]:
        empty = {
            "text": "",
            "char_start": None,
            "char_end": None,
            "segment": int(self.null_segment[index]),
            "start_logit": float(self.null_start_logit[index]),
            "end_logit": float(self.null_end_logit[index]),
        }
        entries = [*self.spans(index), empty]
        scores = np.array([entry["start_logit"] + entry["end_logit"] for entry in entries])
        weights = np.exp(scores - scores.max())
        probabilities = (weights / weights.sum()).tolist()
        order = np.argsort(-scores, kind="stable").tolist()
        return [{**entries[i], "probability": probabilities[i]} for i in order]

    def golds(self) -> dict[str, list[str]]:
        """Question id -> gold answers, empty for an unanswerable question."""
        return {question_id: self.documents.gold_answers(i) for i, question_id in enumerate(self.question_ids)}

    def question_types(self) -> Sequence[str | None]:
        return [self.documents.question_type(i) for i in range(len(self.documents))]

    def context_indices(self) -> np.ndarray:
        """(D,) context index of each question."""
        return np.array([self.documents.context_index(i) for i in range(len(self.documents))])
