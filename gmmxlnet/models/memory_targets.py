"""Which words the reconstruction loss asks of a memory after a segment (`losses.reconstruction_loss`).

Shapes: B documents, n documents that have a segment, L tokens, V words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.recurrence import Segment


def content_of(segment: Segment, config: GMMXLNetConfig) -> Tensor:
    """Which tokens are the document's own: neither structure, question, memory nor padding. (n, L) bool."""
    return (
        segment.attention_mask_nL.bool()
        & (segment.token_type_ids_nL == 0)
        & (segment.input_ids_nL < config.read_token_id)
        & (segment.input_ids_nL != config.sep_token_id)
    )


def new_content(segments: list[Segment], config: GMMXLNetConfig) -> list[Tensor]:
    """Of each segment, which tokens are content that the window before did not show; (n, L) bool each.

    Windows overlap: without this every word at a window's end would seem to recur. Where the segments' offsets are not
    known they are taken not to overlap.
    """
    end_n, new = None, []
    for segment in segments:
        content_nL, offsets_n = content_of(segment, config), segment.offsets_n
        new.append(content_nL)
        if offsets_n is None:
            continue
        if end_n is not None:
            repeated_n1 = (end_n[: len(offsets_n)] - offsets_n)[:, None]
            new[-1] = content_nL & (content_nL.cumsum(-1) > repeated_n1)
        end_n = offsets_n + content_nL.sum(-1)
    return new


def word_counts(token_ids_nL: Tensor, counted_nL: Tensor, num_words: int) -> Tensor:
    """How often each of the words 0 to `num_words` - 1 stands among the tokens that count (bool): (n, V) float32."""
    counts_nV = counted_nL.new_zeros(len(token_ids_nL), num_words, dtype=torch.float32)
    return counts_nV.scatter_add_(1, token_ids_nL.masked_fill(~counted_nL, 0), counted_nL.float())


@dataclass(frozen=True)
class RecurringWords:
    """Which words a memory is asked to keep, and until when: those that the document says again later.

    What recurs in a later segment is what a reader could have used there. The targets come from the text alone.

    first_BV, last_BV: int64, the first and last segment in which a document says a word; last < first: it never does.
    weight_V: float32, inverse segment frequency, log(segments / segments with the word): function words, which stand in
        every segment, are not asked for.
    """

    first_BV: Tensor
    last_BV: Tensor
    weight_V: Tensor

    @classmethod
    def of(
        cls,
        segments: list[Segment],
        config: GMMXLNetConfig,
        sum_over_processes: Callable[[Tensor], Tensor] = lambda own: own,
    ) -> Self:
        """From all segments of a batch's documents.

        `sum_over_processes` adds up how many segments there are, and have each word, in a batch that several share.
        """
        B, V = segments[0].num_documents, config.read_token_id
        first_BV = torch.full((B, V), len(segments), device=segments[0].input_ids_nL.device)
        last_BV = torch.full_like(first_BV, -1)
        having_V, num_segments = first_BV.new_zeros(V), first_BV.new_zeros(1)
        for s, (segment, new_nL) in enumerate(zip(segments, new_content(segments, config), strict=True)):
            n, said_nV = segment.num_documents, word_counts(segment.input_ids_nL, new_nL, V) > 0
            first_BV[:n] = torch.where(said_nV, first_BV[:n].clamp(max=s), first_BV[:n])
            last_BV[:n] = torch.where(said_nV, s, last_BV[:n])
            having_V, num_segments = having_V + said_nV.sum(0), num_segments + n
        totals = sum_over_processes(torch.cat([having_V, num_segments]).float())
        return cls(first_BV, last_BV, (totals[-1] / totals[:-1].clamp(min=1)).log())

    def targets(self, segment: int, num_documents: int) -> Tensor:
        """How much each word is asked for after a segment: its weight where it was said and will be again. (n, V)"""
        first_nV, last_nV = self.first_BV[:num_documents], self.last_BV[:num_documents]
        return self.weight_V * ((first_nV <= segment) & (segment < last_nV))
