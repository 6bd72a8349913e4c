"""Targets of the reconstruction loss: the words that a memory has to predict (`losses.reconstruction_loss`).

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
    """Return a mask (n, L) bool of the document's own tokens: no special, question or memory token, no padding."""
    return (
        segment.attention_mask_nL.bool()
        & (segment.token_type_ids_nL == 0)
        & (segment.input_ids_nL < config.read_token_id)
        & (segment.input_ids_nL != config.sep_token_id)
    )


def new_content(segments: list[Segment], config: GMMXLNetConfig) -> list[Tensor]:
    """Return for each segment a mask (n, L) bool of the content tokens that the previous window did not contain.

    Windows overlap, so otherwise every word at the end of a window would count as recurring. Segments without offsets
    are assumed not to overlap.
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
    """Count the words 0 to `num_words` - 1 among the tokens selected by `counted_nL` (bool): (n, V) float32."""
    counts_nV = counted_nL.new_zeros(len(token_ids_nL), num_words, dtype=torch.float32)
    return counts_nV.scatter_add_(1, token_ids_nL.masked_fill(~counted_nL, 0), counted_nL.float())


@dataclass(frozen=True)
class RecurringWords:
    """The words that recur in later segments of a document, which are the targets until their last occurrence.

    Words that recur are those that a memory could have provided. The targets are computed from the text alone.

    first_BV, last_BV: int64, the first and last segment of a document with a word; last < first if it never occurs.
    weight_V: float32, inverse segment frequency, log(segments / segments with the word), which is 0 for function words
        that occur in every segment.
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
        """Compute from all segments of a batch's documents.

        `sum_over_processes` sums the counts of segments and of segments with each word, for a batch that is shared.
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
        """Return targets (n, V) after a segment: the weights of words that have occurred and will occur again."""
        first_nV, last_nV = self.first_BV[:num_documents], self.last_BV[:num_documents]
        return self.weight_V * ((first_nV <= segment) & (segment < last_nV))
