"""Attention with a relative term: softmax(scale·q·k + b)·v, where b is a score by distance for each pair of tokens.

All implementations have the same results. `attend_fused`, used on GPUs, passes b as a bias to torch's fused attention,
laid out as its memory-efficient kernel wants it; `attend_aligned` does so too, with a copy of b, for products that are
aligned. `attend_in_blocks` is used on CPUs, where this bias, twice as wide before it is shifted, would cost more than
the attention itself: it processes one block of queries at a time, so that the scores stay in the cache, computes only
the distances that occur in the block, and saves only the probabilities for the backward pass.

Shapes: B documents, L queries, K keys, P = K + L - 1 distances, H heads, h size of a head, e that of scored queries and
keys, n documents in a block, Q queries in a block, W = K + Q - 1 distances in a block.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from gmmxlnet.errors import ConfigError
from gmmxlnet.models.dropout import keep_mask

QUERIES = 96  # per block: fewer make the products too small, more compute distances that do not occur
ALIGNMENT = 8  # elements: of head sizes and of all strides of a bias but the last, for torch's memory-efficient kernel
SCORES = 2**18  # per block, but at least one document: 1 MiB in float32, which fits into a core's cache
ON_GPU = "fused"  # the implementation that GPUs use; another one takes its place when it is measured to be faster


def relative_shift(score_LP: Tensor, num_keys: int) -> Tensor:
    """View scores by distance (..., L, P) as scores by key (..., L, K): out[i, j] = in[i, L - 1 - i + j].

    Nothing is copied: each row starts one element earlier than the row above (Dai et al. 2019, appendix B). Distances
    after the last one that occurs do no harm.
    """
    num_queries, num_distances = score_LP.shape[-2:]
    if num_queries == 1:  # distances and keys coincide; the view below would be one element short
        return score_LP[..., :num_keys]
    flat = score_LP.flatten(-2)
    shifted = flat[..., num_queries - 1 : num_queries - 1 + num_queries * (num_distances - 1)]
    return shifted.unflatten(-1, (num_queries, num_distances - 1))[..., :num_keys]


def scores_by_distance(distance_query_BHLh: Tensor, position_HPh: Tensor) -> Tensor:
    """Compute scores (H, B, L, P) with one product per head for all documents: (H, B·L, h) · (H, h, P)."""
    B, _, L, _ = distance_query_BHLh.shape
    by_distance = distance_query_BHLh.transpose(0, 1).flatten(1, 2) @ position_HPh.transpose(1, 2)
    return by_distance.unflatten(1, (B, L))


def is_fused(device: torch.device) -> bool:
    """Whether `relative_attention` uses torch's fused attention on this device."""
    return device.type != "cpu"


def length_multiple(device: torch.device) -> int:
    """Return what the padded length of a segment should be a multiple of, for `relative_attention` on this device."""
    return ALIGNMENT if is_fused(device) else 1


def relative_attention(
    query_BHLe: Tensor,
    key_BHKe: Tensor,
    value_BHKh: Tensor,
    distance_query_BHLh: Tensor,
    position_HPh: Tensor,
    *,
    scale: float,
    dropout: float,
) -> Tensor:
    """Attend with scores scale·(query·key + distance_query·position[distance]). Returns (B, H, L, h).

    Args:
        position_HPh: keys of the distances (query position minus key position) from K - 1 down to 1 - L.
        dropout: dropout probability of the attention weights.

    Raises:
        ConfigError: GMMXLNET_ATTENTION names no implementation.
    """
    attend = _implementation(query_BHLe.device)
    return attend(query_BHLe, key_BHKe, value_BHKh, distance_query_BHLh, position_HPh, scale=scale, dropout=dropout)


def _implementation(device: torch.device) -> Callable[..., Tensor]:
    """Return what the environment variable GMMXLNET_ATTENTION names, or else the device's own."""
    name = os.environ.get("GMMXLNET_ATTENTION") or (ON_GPU if is_fused(device) else "blocks")
    if name == "triton":
        from gmmxlnet.models.triton_attention import attend_on_the_fly  # Triton is optional

        return attend_on_the_fly
    known = {"blocks": attend_in_blocks, "fused": attend_fused, "aligned": attend_aligned}
    if name not in known:
        raise ConfigError(f"GMMXLNET_ATTENTION={name}: unknown; set it to {', '.join(known)} or triton, or unset it")
    return known[name]


def attend_fused(
    query_BHLe: Tensor,
    key_BHKe: Tensor,
    value_BHKh: Tensor,
    distance_query_BHLh: Tensor,
    position_HPh: Tensor,
    *,
    scale: float,
    dropout: float,
) -> Tensor:
    """`relative_attention` with `torch.nn.functional.scaled_dot_product_attention`.

    Its memory-efficient kernel takes queries and keys whose size is a multiple of `ALIGNMENT`, and a bias whose rows,
    heads and documents start at multiples of it; torch would copy any other bias, and compute other sizes unfused. So
    one unused distance at each end makes the rows of the bias, a view, K + L apart and the first one start at L:
    aligned if K and L are (`DocumentCollator.pad_to_multiple_of`).
    """
    L, K = query_BHLe.shape[2], key_BHKe.shape[2]
    by_distance_HBLP = scores_by_distance(distance_query_BHLh, F.pad(scale * position_HPh, (0, 0, 1, 1)))
    bias_BHLK = by_distance_HBLP.flatten(-2)[..., L:].unflatten(-1, (L, K + L))[..., :K].transpose(0, 1)
    return _with_bias(query_BHLe, key_BHKe, value_BHKh, bias_BHLK, scale=scale, dropout=dropout)


def attend_aligned(
    query_BHLe: Tensor,
    key_BHKe: Tensor,
    value_BHKh: Tensor,
    distance_query_BHLh: Tensor,
    position_HPh: Tensor,
    *,
    scale: float,
    dropout: float,
) -> Tensor:
    """`attend_fused` with the relative term in a tensor of its own, of any lengths.

    The rows of a bias that is a view are one element shorter than those of the product it views, so that one of the
    two is not aligned, and libraries fall back to slower products. Here the product's rows are aligned, forward and
    backward, for one copy of the bias in each direction; the scores by distance, twice as large, are not kept.
    """
    dtype, K = value_BHKh.dtype, key_BHKe.shape[2]
    position_HPh = F.pad(scale * position_HPh, (0, 0, 0, -position_HPh.shape[1] % ALIGNMENT))
    bias_BHLK = _AlignedBias.apply(distance_query_BHLh.to(dtype), position_HPh.to(dtype), K)
    return _with_bias(query_BHLe, key_BHKe, value_BHKh, bias_BHLK, scale=scale, dropout=dropout)


def _with_bias(
    query_BHLe: Tensor, key_BHKe: Tensor, value_BHKh: Tensor, bias_BHLK: Tensor, *, scale: float, dropout: float
) -> Tensor:
    """torch's fused attention; zeros are appended to queries and keys where their size is not aligned."""
    missing = -query_BHLe.shape[-1] % ALIGNMENT
    if missing:
        query_BHLe, key_BHKe = F.pad(query_BHLe, (0, missing)), F.pad(key_BHKe, (0, missing))
    return F.scaled_dot_product_attention(
        query_BHLe, key_BHKe, value_BHKh, attn_mask=bias_BHLK, dropout_p=dropout, scale=scale
    )


class _AlignedBias(torch.autograd.Function):
    """Relative scores (B, H, L, K), whose rows start at multiples of `ALIGNMENT`; P is one as well."""

    @staticmethod
    def forward(ctx: Any, distance_query_BHLh: Tensor, position_HPh: Tensor, num_keys: int) -> Tensor:
        ctx.save_for_backward(distance_query_BHLh, position_HPh)
        B, H, L, _ = distance_query_BHLh.shape
        by_distance_HBLP = scores_by_distance(distance_query_BHLh, position_HPh)
        bias_HBLK = by_distance_HBLP.new_empty(H, B, L, num_keys + -num_keys % ALIGNMENT)  # as the scores lie
        bias_HBLK[..., num_keys:].zero_()  # the kernel reads rows in whole vectors
        bias_HBLK = bias_HBLK[..., :num_keys].copy_(relative_shift(by_distance_HBLP, num_keys))
        return bias_HBLK.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHLK: Tensor) -> tuple[Tensor | None, ...]:
        distance_query_BHLh, position_HPh = ctx.saved_tensors
        B, H, L, K = grad_BHLK.shape
        by_distance_HBLP = grad_BHLK.new_zeros(H, B, L, position_HPh.shape[1])
        relative_shift(by_distance_HBLP, K).copy_(grad_BHLK.transpose(0, 1))
        rows_HRP = by_distance_HBLP.flatten(1, 2)
        d_distance_query_BHLh = (rows_HRP @ position_HPh.to(grad_BHLK.dtype)).unflatten(1, (B, L)).transpose(0, 1)
        query_HRh = distance_query_BHLh.to(grad_BHLK.dtype).transpose(0, 1).flatten(1, 2)
        d_position_HPh = rows_HRP.transpose(1, 2) @ query_HRh
        return d_distance_query_BHLh, d_position_HPh, None


def attend_in_blocks(
    query_BHLe: Tensor,
    key_BHKe: Tensor,
    value_BHKh: Tensor,
    distance_query_BHLh: Tensor,
    position_HPh: Tensor,
    *,
    scale: float,
    dropout: float,
) -> Tensor:
    """`relative_attention` computed block by block, in the dtype of the values."""
    tensors = (query_BHLe * scale, key_BHKe, value_BHKh / (1 - dropout), distance_query_BHLh, position_HPh * scale)
    with torch.autocast("cpu", enabled=False):  # autocast would cast again in every block
        return _BlockAttention.apply(*(x.to(value_BHKh.dtype) for x in tensors), dropout)


class _BlockAttention(torch.autograd.Function):
    """Expects scaled queries and positions, and values divided by 1 - dropout."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, distance_query: Tensor, position: Tensor, dropout: float
    ) -> Tensor:
        B, H, L, _ = query.shape
        K, training = key.shape[2], any(ctx.needs_input_grad)
        out = value.new_empty(B, L, H, value.shape[3]).transpose(1, 2)  # the output projection expects this layout
        probs_BHLK = value.new_empty(B, H, L, K) if training else None
        kept_BHLK = keep_mask((B, H, L, K), dropout) if dropout > 0 else None
        for documents, queries, distances in _blocks(B, H, L, K):
            at = (documents, slice(None), queries)
            scores_nHQK = _products(query[at], key[documents].transpose(2, 3))
            scores_nHQK += _bias(distance_query[at], position[:, distances], K)
            block_nHQK = torch.softmax(scores_nHQK, dim=-1, out=scores_nHQK)
            if probs_BHLK is not None:
                probs_BHLK[at] = block_nHQK
            if kept_BHLK is not None:
                block_nHQK *= kept_BHLK[at]
            out[at] = _products(block_nHQK, value[documents])
        if training:
            ctx.save_for_backward(query, key, value, distance_query, position, probs_BHLK, kept_BHLK)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, distance_query, position, probs_BHLK, kept_BHLK = ctx.saved_tensors
        B, H, L, _ = query.shape
        K = key.shape[2]
        d_query, d_distance_query = torch.empty_like(query), torch.empty_like(distance_query)
        d_key, d_value, d_position = torch.zeros_like(key), torch.zeros_like(value), torch.zeros_like(position)
        for documents, queries, distances in _blocks(B, H, L, K):
            at = (documents, slice(None), queries)
            probs = dropped = probs_BHLK[at]
            d_probs = _products(grad[at], value[documents].transpose(2, 3))
            if kept_BHLK is not None:
                dropped = probs.clone().mul_(kept_BHLK[at])
                d_probs *= kept_BHLK[at]
            d_value[documents] += _products(dropped.transpose(2, 3), grad[at])
            d_scores = torch._softmax_backward_data(d_probs, probs, -1, probs.dtype)
            d_query[at] = _products(d_scores, key[documents])
            d_key[documents] += _products(d_scores.transpose(2, 3), query[at])
            n, _, Q, _ = d_scores.shape
            by_distance_HnQW = d_scores.new_zeros(H, n, Q, K + Q - 1)
            relative_shift(by_distance_HnQW, K).copy_(d_scores.transpose(0, 1))
            rows_HRW = by_distance_HnQW.flatten(1, 2)
            d_distance_query[at] = (rows_HRW @ position[:, distances]).unflatten(1, (n, Q)).transpose(0, 1)
            d_position[:, distances] += rows_HRW.transpose(1, 2) @ distance_query[at].transpose(0, 1).flatten(1, 2)
        return d_query, d_key, d_value, d_distance_query, d_position, None


def _blocks(B: int, H: int, L: int, K: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the slices of documents, queries and distances of each block."""
    num_documents = max(1, SCORES // (H * min(L, QUERIES) * K))
    for document in range(0, B, num_documents):
        for query in range(0, L, QUERIES):
            end = min(query + QUERIES, L)
            yield slice(document, document + num_documents), slice(query, end), slice(L - end, L - 1 - query + K)


def _bias(distance_query_nHQh: Tensor, position_HWh: Tensor, num_keys: int) -> Tensor:
    """Return the relative scores (n, H, Q, K)."""
    return relative_shift(scores_by_distance(distance_query_nHQh, position_HWh), num_keys).transpose(0, 1)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Batched matrix product (n, H, a, b) · (n, H, b, c)."""
    return left @ right
