"""The parts of the training loss, each a pure function.

Shapes: B documents, S segments, L tokens, N routed segments (of all documents together), k experts, m slots, V words.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SHARPNESS = 8.0  # nats by which a vector that is some word's embedding scores that word above an unrelated one


def at_least_float32(x: Tensor) -> Tensor:
    """16 bits to 32, so that sums over many values keep their digits; 64 stay 64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def segment_span_loss(logits_NL: Tensor, positions_N: Tensor, candidates_NL: Tensor) -> Tensor:
    """Mean cross-entropy of one boundary, a softmax a segment.

    Args:
        logits_NL: boundary logits of N segments.
        positions_N: int64 index of the boundary; `<cls>` where the segment does not hold the answer.
        candidates_NL: bool, the positions that may be chosen: context and `<cls>`.

    Returns: scalar, in nats.
    """
    return F.cross_entropy(at_least_float32(logits_NL).masked_fill(~candidates_NL, _LOWEST), positions_N)


def document_span_loss(logits_BSL: Tensor, positions_BS: Tensor, candidates_BSL: Tensor, cls_BSL: Tensor) -> Tensor:
    """Mean of -log P(boundary), one softmax over all tokens of all segments of a document.

    The boundary's probability is summed over the segments that hold it (windows overlap; Clark & Gardner 2018,
    https://arxiv.org/abs/1710.10723, section 3.2); a document without an answer sums over its `<cls>` tokens.

    Args:
        logits_BSL: boundary logits.
        positions_BS: int64; the segment's `<cls>` where it does not hold the answer, below 0 for none.
        candidates_BSL: bool, the positions that may be chosen. cls_BSL: bool, where `<cls>` is.

    Returns: scalar, in nats.
    """
    target_BSL = torch.arange(logits_BSL.shape[-1], device=logits_BSL.device) == positions_BS[..., None]
    answer_BSL = target_BSL & ~cls_BSL
    target_BSL = torch.where(answer_BSL.flatten(1).any(1)[:, None, None], answer_BSL, target_BSL)
    scores_BSL = at_least_float32(logits_BSL).masked_fill(~candidates_BSL, _LOWEST)
    total_B = scores_BSL.flatten(1).logsumexp(1)
    gold_B = scores_BSL.masked_fill(~target_BSL, _LOWEST).flatten(1).logsumexp(1)
    return (total_B - gold_B).mean()


def load_balance_loss(probs: list[Tensor], shares: list[Tensor] | None = None) -> Tensor:
    """k · Σ_j f_j P_j of each step of the recurrence, averaged over segments: 1 when balanced, k when collapsed.

    Fedus et al. 2021, https://arxiv.org/abs/2101.03961, eq. 4, over the documents that are active at the step: routing
    that follows nothing but a segment's place in its document is not balanced.

    f_j is the share of documents whose most probable expert is j, P_j the mean probability of j.

    Args:
        probs: for each step the active documents' routing probabilities (n, k).
        shares: f (k,) of each step where these are not all documents of the batch; found from `probs` when left out.
    """
    total = 0.0
    for s, probs_nk in enumerate(probs):
        n, k = probs_nk.shape
        share_k = F.one_hot(probs_nk.argmax(-1), k).to(probs_nk.dtype).mean(0) if shares is None else shares[s]
        total = total + n * k * (share_k * probs_nk.mean(0)).sum()
    return total / sum(len(probs_nk) for probs_nk in probs)


def routing_entropy(probs: Tensor) -> Tensor:
    """Shannon entropy in nats of probabilities (..., k), 0 to log k: H = -Σ p log p, with 0 log 0 = 0."""
    return torch.special.entr(probs.where(probs > 0, 1.0)).sum(-1)  # not entr(0): its gradient is infinite


def reconstruction_loss(vectors_Nmd: Tensor, embedding_Vd: Tensor, targets_NV: Tensor, norm: Tensor) -> Tensor:
    """Cross-entropy between the words that a memory is asked for and what it says.

    Tied form: every slot's injected vector is scored against the input embeddings, and the slots' softmaxes are
    averaged: P(v) = mean_s softmax_v(SHARPNESS · vector_s · embedding_v / norm²). So the memory speaks the
    language that the encoder already reads.

    Args:
        vectors_Nmd: what the next segment's read tokens would carry.
        embedding_Vd: word embeddings, memory tokens left out.
        targets_NV: how much each word is asked for after each segment, >= 0 (`gmmxlnet.models.memory_targets`); a row
            of zeros asks for nothing and costs nothing.
        norm: scalar, the length of the vectors; its gradient is left to the span loss.

    Returns: scalar, in nats per word asked for; each segment weighs the same.
    """
    m = vectors_Nmd.shape[1]
    scores_NmV = at_least_float32(vectors_Nmd @ embedding_Vd.T) * (SHARPNESS / norm.detach() ** 2)
    log_probs_NV = scores_NmV.log_softmax(-1).logsumexp(1) - math.log(m)
    total_N1 = targets_NV.sum(-1, keepdim=True)
    weight_NV = targets_NV / total_N1.where(total_N1 > 0, 1)
    return -(weight_NV * log_probs_NV).sum(-1).mean()


_LOWEST = torch.finfo(torch.float32).min  # not -inf: a row without candidates must not become NaN
