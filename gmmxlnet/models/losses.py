"""The terms of the training loss, each a pure function.

Shapes: B documents, S segments, L tokens, N routed segments (of all documents together), k experts, m slots, V words.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def at_least_float32(x: Tensor) -> Tensor:
    """Cast 16-bit tensors to float32, so that sums over many values stay accurate; float64 is kept."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def segment_span_loss(logits_NL: Tensor, positions_N: Tensor, candidates_NL: Tensor) -> Tensor:
    """Mean cross-entropy of one boundary (start or end), with one softmax per segment.

    Args:
        logits_NL: boundary logits of N segments.
        positions_N: int64 index of the boundary; that of `<cls>` if the segment does not contain the answer.
        candidates_NL: bool, the allowed positions: context and `<cls>`.

    Returns: scalar, in nats.
    """
    return F.cross_entropy(at_least_float32(logits_NL).masked_fill(~candidates_NL, _LOWEST), positions_N)


def document_span_loss(logits_BSL: Tensor, positions_BS: Tensor, candidates_BSL: Tensor, cls_BSL: Tensor) -> Tensor:
    """Mean of -log P(boundary), with one softmax over all tokens of all segments of a document.

    The boundary's probability is summed over the segments that contain it (windows overlap; Clark & Gardner 2018,
    https://arxiv.org/abs/1710.10723, section 3.2), or over the `<cls>` tokens of a document without an answer.

    Args:
        logits_BSL: boundary logits.
        positions_BS: int64; that of `<cls>` if the segment does not contain the answer, negative without a segment.
        candidates_BSL: bool, the allowed positions. cls_BSL: bool, the positions of `<cls>`.

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
    """Load-balancing loss k · Σ_j f_j P_j of each step of the recurrence, averaged over segments.

    Fedus et al. 2021, https://arxiv.org/abs/2101.03961, eq. 4. It is 1 for balanced and k for collapsed routing.
    The sum is over the documents that are active at a step, so routing by the step's number alone is not balanced.
    f_j is the share of documents whose most probable expert is j, P_j the mean probability of j.

    Args:
        probs: routing probabilities (n, k) of the active documents of each step.
        shares: f (k,) of each step, if `probs` has only a part of the batch; computed from `probs` by default.
    """
    total = 0.0
    for s, probs_nk in enumerate(probs):
        n, k = probs_nk.shape
        share_k = F.one_hot(probs_nk.argmax(-1), k).to(probs_nk.dtype).mean(0) if shares is None else shares[s]
        total = total + n * k * (share_k * probs_nk.mean(0)).sum()
    return total / sum(len(probs_nk) for probs_nk in probs)


def routing_entropy(probs: Tensor) -> Tensor:
    """Shannon entropy H = -Σ p log p of probabilities (..., k) in nats, from 0 to log k, with 0 log 0 = 0."""
    return torch.special.entr(probs.where(probs > 0, 1.0)).sum(-1)  # not entr(0): its gradient is infinite


def slot_scores(vectors_Nmd: Tensor, embedding_Vd: Tensor, norm: Tensor, sharpness: float) -> Tensor:
    """Scores (N, m, V) of the words that each slot predicts: sharpness · vector · embedding_v / norm², in nats.

    The prediction is tied to the input embeddings, which the encoder reads already.

    Args:
        vectors_Nmd: the vectors that the next segment's read tokens would have.
        embedding_Vd: word embeddings, without those of the memory tokens; or (N, V, d), others for each row.
        norm: scalar, the length of the vectors; detached, so that only the span loss trains it.
        sharpness: nats by which a word's own embedding scores it above an unrelated word.
    """
    return at_least_float32(vectors_Nmd @ embedding_Vd.mT) * (sharpness / norm.detach() ** 2)


def reconstruction_loss(scores_NmV: Tensor, targets_NV: Tensor) -> Tensor:
    """Cross-entropy between target words and the words that the memory predicts, P(v) = mean_s softmax_v(scores_s).

    Args:
        scores_NmV: `slot_scores` after each segment.
        targets_NV: weight of each word after each segment, >= 0 (`gmmxlnet.models.memory_targets`); the loss of a row
            of zeros is zero.

    Returns: scalar, in nats per target word; all segments have equal weight.
    """
    log_probs_NV = scores_NmV.log_softmax(-1).logsumexp(1) - math.log(scores_NmV.shape[1])
    return -(_row_weights(targets_NV) * log_probs_NV).sum(-1).mean()


def association_loss(
    scores_nmV: Tensor,
    address_nmT: Tensor,
    words_nT: Tensor,
    weight_nT: Tensor,
    neighbors_nTR: Tensor,
    counts_nTR: Tensor,
) -> Tensor:
    """Cross-entropy of words that the memory predicts when it is addressed by the words around them, for each document.

    P(v | cue) = Σ_s softmax_s(address_s) · P_s(v | v is no neighbor). The slot that matches the neighbors has to
    predict the word too, so words that stand together have to be stored together.

    Args:
        scores_nmV: `slot_scores` after a segment. address_nmT: those of the cue of each of T words.
        words_nT: int64, T words of each document. weight_nT: their weights, >= 0; a row of zeros has loss zero.
        neighbors_nTR: int64, the words around each word. counts_nTR: bool, which of these are part of the cue.

    Returns: (n,), in nats per word.
    """
    n, m, _ = scores_nmV.shape
    T, R = neighbors_nTR.shape[1:]
    log_probs_nmV = scores_nmV.log_softmax(-1)
    at_neighbors = neighbors_nTR.flatten(1)[:, None].expand(n, m, T * R)
    given_nmT = (log_probs_nmV.gather(2, at_neighbors).exp().unflatten(2, (T, R)) * counts_nTR[:, None]).sum(-1)
    other_nmT = torch.log1p(-given_nmT.clamp(max=1 - 1e-6))
    word_nmT = log_probs_nmV.gather(2, words_nT[:, None].expand(n, m, T)) - other_nmT
    log_probs_nT = (address_nmT.log_softmax(1) + word_nmT).logsumexp(1)
    return -(_row_weights(weight_nT) * log_probs_nT).sum(-1)


def _row_weights(weights_NV: Tensor) -> Tensor:
    """Scale every row to sum to 1; rows of zeros stay zeros."""
    total_N1 = weights_NV.sum(-1, keepdim=True)
    return weights_NV / total_N1.where(total_N1 > 0, 1)


_LOWEST = torch.finfo(torch.float32).min  # not -inf, so that a row without candidates does not become NaN
