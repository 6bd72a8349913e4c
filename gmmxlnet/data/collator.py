"""Collates documents into a batch of tensors, assembling each segment from its context window and question.

    <pad>… context [WRITE_0..m-1] <sep> [READ_0..m-1] question <sep> <cls>      without memory tokens, both are omitted

All segments of a document have the same ending and differ only in the context before it. A document is therefore
written as a block of context windows plus a repeated ending, with no loop over segments or tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gmmxlnet.data.documents import Document
from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.segments import SegmentLayout, segments_holding
from gmmxlnet.utils.processes import Processes

CONTEXT_TYPE, QUESTION_TYPE, CLS_TYPE, PAD_TYPE = 0, 1, 2, 3
IGNORED = -100  # the label that cross-entropy ignores


@dataclass(kw_only=True)
class DocumentCollator:
    """Collate function: (list of Documents) -> batch.

    input_ids, attention_mask, token_type_ids  (B,S,L) int64, padded on the left
    num_segments                               (B,)    int64
    start_positions, end_positions             (B,S)   int64: position in L; that of <cls> (L-1) if the segment does not
                                                       contain the whole answer; -100 beyond num_segments
    document_index                             (B,)    int64
    segment_offsets                            (B,S)   int64: index in the context of the segment's first context
                                                       token; -1 beyond num_segments

    When several processes share a batch, each collates every `count`-th document and also gets global counts:

    active_documents                           (S,)    int64: documents of all processes that have each segment
    num_tokens                                 ()      int64: of the whole batch, without padding

    Position p of a segment with `length` tokens, if it is a context position, holds context token
    segment_offset + p - (L - length).
    """

    layout: SegmentLayout
    memory_tokens: bool  # whether segments contain read and write tokens
    max_segments: int | None = None  # training: limit on consecutive segments, one of them with the answer
    seed: int = 0  # together with epoch and document, selects those segments
    epoch: int = 0
    num_segments: int | None = None  # pad S to this; None: to the batch's most
    length: int | None = None  # pad L to this; None: to the batch's longest
    pad_to_multiple_of: int = 1  # round L up; fused attention on a GPU wants multiples of 8
    processes: Processes = field(default_factory=Processes)  # the processes that share a batch

    def __call__(self, documents: Sequence[Document], max_segments: int | None = None) -> dict[str, Tensor]:
        """The batch; `max_segments` here overrides the field."""
        cut = max_segments if max_segments is not None else self.max_segments
        whole = self._whole(documents, cut) if self.processes.count > 1 else {}
        if len(documents) >= self.processes.count:  # else every process reads all: the average is unchanged
            documents = self.processes.share(documents)
        bounds = [self._segments(document, cut) for document in documents]
        endings = [self._ending(document) for document in documents]
        widths = [int((bound[:, 1] - bound[:, 0]).max()) for bound in bounds]
        num_segments = self.num_segments or max(len(bound) for bound in bounds)
        length = self.length or max(width + len(tokens) for width, (tokens, _) in zip(widths, endings, strict=True))
        length += -length % self.pad_to_multiple_of
        batch = self._blank(len(documents), num_segments, length)
        for row, document in enumerate(documents):
            _lay_down(batch, row, document, bounds[row], endings[row], width=widths[row])
        return {name: torch.from_numpy(array) for name, array in (batch | whole).items()}

    def _whole(self, documents: Sequence[Document], cut: int | None) -> dict[str, np.ndarray]:
        """Returns what each process must know about the whole batch."""
        bounds = [self._segments(document, cut) for document in documents]
        counts = np.array([len(bound) for bound in bounds])
        active_S = (counts[:, None] > np.arange(counts.max())).sum(0)
        copies = self.processes.count if len(documents) < self.processes.count else 1
        num_tokens = sum(
            int((bound[:, 1] - bound[:, 0]).sum()) + len(bound) * len(self._ending(document)[0])
            for bound, document in zip(bounds, documents, strict=True)
        )
        return {"active_documents": copies * active_S, "num_tokens": np.array(num_tokens)}

    def _blank(self, B: int, S: int, L: int) -> dict[str, np.ndarray]:
        return {
            "input_ids": np.full((B, S, L), self.layout.pad_id, dtype=np.int64),
            "attention_mask": np.zeros((B, S, L), dtype=np.int64),
            "token_type_ids": np.full((B, S, L), PAD_TYPE, dtype=np.int64),
            "num_segments": np.zeros(B, dtype=np.int64),
            "start_positions": np.full((B, S), IGNORED, dtype=np.int64),
            "end_positions": np.full((B, S), IGNORED, dtype=np.int64),
            "document_index": np.zeros(B, dtype=np.int64),
            "segment_offsets": np.full((B, S), -1, dtype=np.int64),
        }

    def _segments(self, document: Document, max_segments: int | None) -> np.ndarray:
        """Returns the segments used, (S, 2): all, or a random run of `max_segments` that overlaps the answer."""
        num_segments = len(document.segments)
        if max_segments is None or num_segments <= max_segments:
            return document.segments
        lowest, highest = 0, num_segments - max_segments
        if document.label is not None:
            window = self.layout.windows(np.int64(len(document.question_tokens)))
            holding = segments_holding(np.array(document.label), np.int64(num_segments), window, self.layout.doc_stride)
            first, last = int(holding[0]), int(holding[1])
            if first <= last:
                lowest, highest = max(lowest, first - max_segments + 1), min(highest, last)
        draw = keyed_hash(self.seed, "segments", str(self.epoch), str(document.index))
        start = lowest + draw % (highest - lowest + 1)
        return document.segments[start : start + max_segments]

    def _ending(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
        """Returns the token ids and token types that follow the context in every segment of a document."""
        layout = self.layout
        num_slots = layout.memory_num_tokens if self.memory_tokens else 0
        reads = layout.vocab_size + np.arange(num_slots)
        question = document.question_tokens
        tokens = np.concatenate(
            [reads + num_slots, [layout.sep_id], reads, question, [layout.sep_id], [layout.cls_id]], dtype=np.int64
        )
        types = np.repeat([CONTEXT_TYPE, QUESTION_TYPE, CLS_TYPE], [num_slots + 1, num_slots + len(question) + 1, 1])
        return tokens, types


def _lay_down(
    batch: dict[str, np.ndarray],
    row: int,
    document: Document,
    bounds_S2: np.ndarray,
    ending: tuple[np.ndarray, np.ndarray],
    *,
    width: int,
) -> None:
    """Fills a row of the batch with a document's segments; `width` is its longest context window in tokens."""
    tokens, types = ending
    S, L = len(bounds_S2), batch["input_ids"].shape[2]
    context_end = L - len(tokens)
    starts_S1, ends_S1 = bounds_S2[:, :1], bounds_S2[:, 1:]
    index_SW = ends_S1 - width + np.arange(width)  # context token of each column, right-aligned
    shown_SW = index_SW >= starts_S1
    context_SW = document.context_tokens[np.where(shown_SW, index_SW, 0)]

    columns = slice(context_end - width, context_end)
    pad = batch["input_ids"][row, :S, columns]  # a view, still all <pad>
    batch["input_ids"][row, :S, columns] = np.where(shown_SW, context_SW, pad)
    batch["attention_mask"][row, :S, columns] = shown_SW
    batch["token_type_ids"][row, :S, columns] = np.where(shown_SW, CONTEXT_TYPE, PAD_TYPE)
    batch["input_ids"][row, :S, context_end:] = tokens
    batch["attention_mask"][row, :S, context_end:] = 1
    batch["token_type_ids"][row, :S, context_end:] = types

    batch["num_segments"][row] = S
    batch["document_index"][row] = document.index
    batch["segment_offsets"][row, :S] = starts_S1[:, 0]
    first, last = document.label if document.label is not None else (-1, -1)
    held_S = (starts_S1[:, 0] <= first) & (last < ends_S1[:, 0])
    shift_S = context_end - ends_S1[:, 0]  # from a context token's index to its position in the segment
    batch["start_positions"][row, :S] = np.where(held_S, first + shift_S, L - 1)
    batch["end_positions"][row, :S] = np.where(held_S, last + shift_S, L - 1)
