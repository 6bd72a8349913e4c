"""Computes each document's n best spans and null score from start and end logits, batched.

Shapes: B documents, S segments, L tokens of a segment, W longest answer, N spans kept. A span's score is the sum of its
start and its end logit; for other scores (e.g. normalized by document), transform the logits before calling.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class BestSpans:
    """The N best spans of each document, best first, all (B,N); missing spans have logits of -inf."""

    first_token: Tensor  # int64, index into the document's context tokens
    last_token: Tensor  # int64, inclusive
    segment: Tensor  # int64, segment in which the span scored best
    start_logit: Tensor
    end_logit: Tensor

    @property
    def scores(self) -> Tensor:
        return self.start_logit + self.end_logit


def null_scores(cls_start_BS: Tensor, cls_end_BS: Tensor, active_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns start logit, end logit and index of the active segment with the lowest `<cls>` score, each (B,).

    A document has no answer only if none of its segments has one, so the lowest null score is used (as in BERT's SQuAD
    2.0 recipe).
    """
    segment_B1 = (cls_start_BS + cls_end_BS).masked_fill(~active_BS, torch.inf).argmin(dim=1, keepdim=True)
    return cls_start_BS.gather(1, segment_B1)[:, 0], cls_end_BS.gather(1, segment_B1)[:, 0], segment_B1[:, 0]


def _best_within_segments(
    start_BSL: Tensor, end_BSL: Tensor, n_best: int, max_answer_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start and end positions and logits, each (B,S,N), of each segment's best spans; ties go to the earlier span.

    The n best spans start at the n starts with the best spans of their own, so only the spans of those are sorted.
    """
    padded_end = F.pad(end_BSL, (0, max_answer_length - 1), value=-torch.inf)
    best_of_start_BSL = start_BSL + F.max_pool1d(padded_end, max_answer_length, stride=1)
    end_BSLW = padded_end.unfold(-1, max_answer_length, 1)
    starts_BSN = best_of_start_BSL.sort(dim=-1, descending=True, stable=True).indices[..., :n_best]
    starts_BSN = starts_BSN.sort(dim=-1).values  # in text order, so that the next stable sort breaks ties by position
    ends_BSNW = end_BSLW.gather(2, starts_BSN[..., None].expand(-1, -1, -1, max_answer_length))
    scores_BSC = (start_BSL.gather(2, starts_BSN)[..., None] + ends_BSNW).flatten(2)
    chosen_BSN = scores_BSC.sort(dim=-1, descending=True, stable=True).indices[..., :n_best]
    start_pos = starts_BSN.gather(2, chosen_BSN // max_answer_length)
    end_pos = start_pos + chosen_BSN % max_answer_length
    return start_pos, end_pos, start_BSL.gather(2, start_pos), ends_BSNW.flatten(2).gather(2, chosen_BSN)


def _first_of_equals(key_BC: Tensor) -> Tensor:
    """(B,C) bool: True at the first occurrence of each key in its row."""
    sorted_key, order = key_BC.sort(dim=1, stable=True)
    is_first = torch.ones_like(sorted_key, dtype=torch.bool)
    is_first[:, 1:] = sorted_key[:, 1:] != sorted_key[:, :-1]
    return torch.empty_like(is_first).scatter_(1, order, is_first)


def best_spans(
    start_logits_BSL: Tensor,
    end_logits_BSL: Tensor,
    context_mask_BSL: Tensor,
    first_context_token_BS: Tensor,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> BestSpans:
    """Finds the `n_best` distinct spans of each document, over all its segments.

    Valid spans lie within the context tokens of one segment, end no earlier than they start and have at most
    `max_answer_length` tokens. A span seen by several overlapping segments counts once, where it scored best. Equal
    scores are ordered by start, then end, then segment, so the outcome does not depend on the device.

    Args:
        context_mask_BSL: bool, True at the context tokens, which must be contiguous in a segment.
        first_context_token_BS: index, in the document's context, of each segment's first context token.
    """
    start_BSL = start_logits_BSL.float().masked_fill(~context_mask_BSL, -torch.inf)
    end_BSL = end_logits_BSL.float().masked_fill(~context_mask_BSL, -torch.inf)
    start_pos, end_pos, start, end = _best_within_segments(start_BSL, end_BSL, n_best, max_answer_length)
    offset_BS1 = (first_context_token_BS - context_mask_BSL.int().argmax(-1))[..., None]
    segment = torch.arange(start_pos.shape[1], device=start_pos.device)[None, :, None].expand_as(start_pos)
    first, last = (start_pos + offset_BS1).flatten(1), (end_pos + offset_BS1).flatten(1)
    segment, start, end = segment.flatten(1), start.flatten(1), end.flatten(1)
    return _distinct(BestSpans(first, last, segment, start, end), n_best, max_answer_length)


def merge_spans(one: BestSpans, other: BestSpans, n_best: int, max_answer_length: int) -> BestSpans:
    """Finds the `n_best` distinct spans of two portions of each document, `one` the earlier segments."""
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return _distinct(BestSpans(*(torch.cat(pair, dim=1) for pair in pairs)), n_best, max_answer_length)


def _distinct(spans: BestSpans, n_best: int, max_answer_length: int) -> BestSpans:
    """Orders spans by score, start, end and segment, and keeps the best `n_best`, each once; all (B,C), then (B,N)."""
    first, last, segment, start, end = vars(spans).values()
    valid = torch.isfinite(start) & torch.isfinite(end)  # a start near the segment's end has ends beyond it
    start, end = start.masked_fill(~valid, -torch.inf), end.masked_fill(~valid, -torch.inf)
    key = first * max_answer_length + (last - first)  # one number per span, ordered by start, then end
    by_key = key.sort(dim=1, stable=True).indices  # stable: equal spans keep the order of segments
    by_score = (start + end).gather(1, by_key).sort(dim=1, descending=True, stable=True).indices
    order = by_key.gather(1, by_score)
    first, last, segment, start, end, key = (x.gather(1, order) for x in (first, last, segment, start, end, key))
    repeated = ~_first_of_equals(key)
    start, end = start.masked_fill(repeated, -torch.inf), end.masked_fill(repeated, -torch.inf)
    keep = (start + end).sort(dim=1, descending=True, stable=True).indices[:, :n_best]
    found = [x.gather(1, keep) for x in (first, last, segment, start, end)]
    missing = n_best - keep.shape[1]
    return BestSpans(*(F.pad(x, (0, missing), value=-torch.inf if x.is_floating_point() else 0) for x in found))
