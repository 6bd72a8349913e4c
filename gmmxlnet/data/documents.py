"""Documents (one question about one context) read from the chunks; segments are computed on demand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gmmxlnet.data.segments import SegmentLayout, count_segments, segment_bounds, segments_holding
from gmmxlnet.data.store import ChunkStore, SplitChunks, SplitTexts


@dataclass(frozen=True, slots=True)
class Document:
    """The fields of one document that a batch needs."""

    index: int  # position in its split
    context_tokens: np.ndarray  # (n,) int32
    question_tokens: np.ndarray  # (q,) int32
    segments: np.ndarray  # (S, 2) int64, first context token and the one after the last
    label: tuple[int, int] | None  # first and last context token of the answer; None if it has none


class SplitSource(Protocol):
    """The data of one split: a `ChunkStore` on disk or a `BuiltSplit` in memory."""

    @property
    def chunks(self) -> SplitChunks: ...
    @property
    def texts(self) -> SplitTexts: ...
    @property
    def layout(self) -> SegmentLayout: ...


class Documents:
    """The documents of one split; memory use and start-up time don't depend on the number of segments.

    `layout` can be replaced to read the same chunks with different windows (see `SegmentLayout`).
    """

    def __init__(self, source: SplitSource, layout: SegmentLayout | None = None) -> None:
        self._source = source
        self._chunks = source.chunks
        self.layout = layout or source.layout

    @classmethod
    def open(cls, folder: str | Path, split: str, layout: SegmentLayout | None = None) -> "Documents":
        """The documents of a split ("train", "calibration" or "dev") in a folder that `build_chunks` made."""
        return cls(ChunkStore(folder, split), layout)

    def __len__(self) -> int:
        return self._chunks.num_documents

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):  # the IndexError also ends a `for` loop
            raise IndexError(f"document {index} of {len(self)}")
        chunks = self._chunks
        question = chunks.question_tokens[chunks.question_rows[index] : chunks.question_rows[index + 1]]
        context_index = chunks.document_contexts[index]
        context = chunks.context_tokens[chunks.context_rows[context_index] : chunks.context_rows[context_index + 1]]
        window = int(self.layout.windows(np.int64(len(question))))
        first, last = chunks.labels[index].tolist()
        return Document(
            index=index,
            context_tokens=np.asarray(context),
            question_tokens=np.asarray(question),
            segments=segment_bounds(len(context), window, self.layout.doc_stride),
            label=None if first < 0 else (first, last),
        )

    def num_segments(self) -> np.ndarray:
        """Number of segments of each document, (N,) int64."""
        windows_N = self.layout.windows(self._chunks.question_lengths)
        return count_segments(self._chunks.context_lengths, windows_N, self.layout.doc_stride)

    def num_tokens(self) -> np.ndarray:
        """Number of context and question tokens of each document, (N,) int64."""
        return self._chunks.context_lengths + self._chunks.question_lengths

    def has_label(self) -> np.ndarray:
        """Whether each document has an answer that matches a token span, (N,) bool."""
        return self._chunks.labels[:, 0] >= 0

    def label_in_a_segment(self) -> np.ndarray:
        """Whether some segment contains the whole answer, (N,) bool; False without a label."""
        windows_N = self.layout.windows(self._chunks.question_lengths)
        first_N, last_N = segments_holding(
            self._chunks.labels.astype(np.int64), self.num_segments(), windows_N, self.layout.doc_stride
        )
        return self.has_label() & (first_N <= last_N)

    @property
    def texts(self) -> SplitTexts:
        return self._source.texts

    def question_id(self, index: int) -> str:
        return self.texts.question_ids[index]

    def question_text(self, index: int) -> str:
        return self.texts.questions[index]

    def question_type(self, index: int) -> str | None:
        return self.texts.question_types[index]

    def condition(self, index: int) -> str | None:
        return self.texts.conditions[index]

    def gold_answers(self, index: int) -> list[str]:
        return self.texts.answers[index]

    def is_impossible(self, index: int) -> bool:
        return not self.texts.answers[index]

    def context_index(self, index: int) -> int:
        """Index of the document's context in the split; equal texts share an index."""
        return int(self._chunks.document_contexts[index])

    def context_text(self, index: int) -> str:
        return self.texts.contexts[self.context_index(index)]

    def token_char_span(self, index: int, first_token: int, last_token: int) -> tuple[int, int]:
        """Character range (end exclusive) of a span of context tokens (both inclusive)."""
        row = self._chunks.context_rows[self._chunks.document_contexts[index]]
        chars = self._chunks.context_chars
        return int(chars[row + first_token, 0]), int(chars[row + last_token, 1])
