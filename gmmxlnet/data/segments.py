"""Computes the windows of a context that form its segments; no segment boundaries are stored.

A segment contains a window of the context, as long as its question leaves room for (`gmmxlnet.windows`); consecutive
windows share `doc_stride` tokens, so segment s starts at s * (window - doc_stride).
All functions take NumPy integers, or arrays with one value per document, and work elementwise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from gmmxlnet.data.tokenizer import base_vocabulary_size
from gmmxlnet.windows import check_window, context_window

Integers = np.ndarray | np.int64


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentLayout:
    """The layout of a segment."""

    max_seq_length: int  # tokens of a segment, special and memory tokens included
    doc_stride: int  # context tokens that consecutive segments share
    memory_num_tokens: int  # m: slots reserved for read tokens and for write tokens, each
    vocab_size: int  # V: memory tokens have ids V (READ_0) to V + 2m - 1 (WRITE_m-1)
    pad_id: int
    sep_id: int
    cls_id: int

    def windows(self, question_lengths_N: Integers) -> Any:
        """Number of context tokens that fit into a segment with each question."""
        return context_window(self.max_seq_length, question_lengths_N, self.memory_num_tokens)

    def lengths(self) -> dict[str, int]:
        """The settings that do not come from the tokenizer, to be stored in the model's configuration."""
        return {name: getattr(self, name) for name in ("max_seq_length", "doc_stride", "memory_num_tokens")}

    def check(self, max_question_length: int) -> None:
        """Raises ConfigError unless the longest question leaves room for more than `doc_stride` context tokens."""
        check_window(self.max_seq_length, max_question_length, self.memory_num_tokens, self.doc_stride)


def make_layout(
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_seq_length: int,
    doc_stride: int,
    memory_num_tokens: int,
    max_question_length: int,
) -> SegmentLayout:
    """Creates the layout for a tokenizer; raises ConfigError if the longest question leaves too little room."""
    layout = SegmentLayout(
        max_seq_length=max_seq_length,
        doc_stride=doc_stride,
        memory_num_tokens=memory_num_tokens,
        vocab_size=base_vocabulary_size(tokenizer),
        pad_id=tokenizer.pad_token_id,
        sep_id=tokenizer.sep_token_id,
        cls_id=tokenizer.cls_token_id,
    )
    layout.check(max_question_length)
    return layout


def count_segments(num_tokens_N: Integers, windows_N: Integers, doc_stride: int) -> Any:
    """Segments of each document: 1 if the context fits, else 1 + ceil((n - window) / (window - stride)). int64."""
    steps_N = windows_N - doc_stride
    beyond_N = np.maximum(np.asarray(num_tokens_N, dtype=np.int64) - windows_N, 0)
    return 1 + -(-beyond_N // steps_N)


def segment_bounds(num_tokens: int, window: int, doc_stride: int) -> np.ndarray:
    """Context token range (end exclusive) of each segment of one document, (S, 2) int64."""
    num_segments = int(count_segments(np.int64(num_tokens), np.int64(window), doc_stride))
    starts_S = np.arange(num_segments, dtype=np.int64) * (window - doc_stride)
    return np.stack([starts_S, np.minimum(starts_S + window, num_tokens)], axis=1)


def segments_holding(
    labels_N2: np.ndarray, num_segments_N: Integers, windows_N: Integers, doc_stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and last segment that contain a whole token span (ends inclusive); last < first if there is none.

    Segment s contains [a, b] iff s * step <= a and b < s * step + window.
    """
    steps_N = windows_N - doc_stride
    first_N = np.maximum(-((windows_N - labels_N2[..., 1] - 1) // steps_N), 0)
    last_N = np.minimum(labels_N2[..., 0] // steps_N, num_segments_N - 1)
    return first_N, last_N
