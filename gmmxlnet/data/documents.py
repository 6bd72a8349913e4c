"""Documents: one question asked of one context, seen through the chunks; segments are worked out when asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gmmxlnet.data.segments import SegmentLayout, count_segments, segment_bounds, segments_holding
from gmmxlnet.data.store import ChunkStore, SplitChunks, SplitTexts


@dataclass(frozen=True, slots=True)
class Document:
    """What a batch needs of one document."""

    index: int  # in its split
    context_tokens: np.ndarray  # (n,) int32
    question_tokens: np.ndarray  # (q,) int32
    segments: np.ndarray  # (S, 2) int64, first context token and the one after the last
    label: tuple[int, int] | None  # first and last context token of the answer; None: none to learn


class SplitSource(Protocol):
    """One split's data: a `ChunkStore` on disk, or a `BuiltSplit` in memory."""

    @property
    def chunks(self) -> SplitChunks: ...
    @property
    def texts(self) -> SplitTexts: ...
    @property
    def layout(self) -> SegmentLayout: ...


class Documents:
    """The documents of one split; memory and start-up time don't depend on how many segments they have.

    `layout` may be replaced to read the same chunks with other windows (see `SegmentLayout`).
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
        if not 0 <= index < len(self):  # also what ends a `for` loop
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
        """Segments of each document, (N,) int64."""
        windows_N = self.layout.windows(self._chunks.question_lengths)
        return count_segments(self._chunks.context_lengths, windows_N, self.layout.doc_stride)

    def num_tokens(self) -> np.ndarray:
        """Context and question tokens of each document, (N,) int64."""
        return self._chunks.context_lengths + self._chunks.question_lengths

    def has_label(self) -> np.ndarray:
        """Whether each document has an answer that tokens can express, (N,) bool."""
        return self._chunks.labels[:, 0] >= 0

    def label_in_a_segment(self) -> np.ndarray:
        """Whether some segment holds the whole answer, (N,) bool; False where there is no label."""
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
        """Which of the split's contexts the document asks about; equal texts have the same."""
        return int(self._chunks.document_contexts[index])

    def context_text(self, index: int) -> str:
        return self.texts.contexts[self.context_index(index)]

    def token_char_span(self, index: int, first_token: int, last_token: int) -> tuple[int, int]:
        """First character of a span of context tokens (both inclusive) and the one after its last."""
        row = self._chunks.context_rows[self._chunks.document_contexts[index]]
        chars = self._chunks.context_chars
        return int(chars[row + first_token, 0]), int(chars[row + last_token, 1])
