"""A Triton kernel for `relative_attention` that forms the relative term on the fly, in blocks that stay on the chip.

`attend_fused` materializes the bias (B, H, L, K) and the scores by distance, twice as wide; this kernel keeps neither:
memory grows with L, not with L·K. It is optional: GMMXLNET_ATTENTION=triton chooses it, and nothing else does until a
measurement on a GPU says that it is faster. Without a GPU it runs in Triton's interpreter (TRITON_INTERPRET=1).

The forward pass is FlashAttention's (Dao 2023, arXiv:2307.08691): one program for a block of queries runs over the
blocks of keys and keeps the running maximum and sum of the softmax. The M queries and N keys of two blocks have
M + N - 1 distances: one product gives their scores by distance, and a gather along each row, which starts one element
earlier than the row above, gives the scores by key (Dai et al. 2019, appendix B). The backward pass computes the
probabilities again from the log-sum-exp, in three kernels, each of which owns what it writes: gradients of queries, of
keys and values, and of positions. These are sums over all documents, of which each program takes some; the parts are
added in order. There are no atomic additions, so equal inputs give equal bits. Dropout is Philox, a function of (seed,
document and head, query, key); no mask is stored.

Shapes: as in `attention.py`; in the kernels M queries, N keys or distances, D and X the two parts of e, C = h; S parts
of the documents.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 32  # queries, keys and distances of a block; the gathers want one size for all
NUM_WARPS = 4  # of each program
PROGRAMS = 8 * 132  # for a kernel to fill a GPU: 8 for each multiprocessor of an H100; fixed, so that bits are the same
VARYING = ("seed", "B", "SHARE", "L", "K", "H")  # no kernel of their own for values that are 1 or divisible by 16
LOG2_E = math.log2(math.e)


@triton.jit
def _rows(pointer, rows, num_rows, columns, num_columns):
    """Load (rows, columns) of a contiguous matrix; zero outside of it."""
    inside = ((rows >= 0) & (rows < num_rows))[:, None] & (columns < num_columns)[None, :]
    return tl.load(pointer + rows[:, None] * num_columns + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _kept(seed, head, queries, keys, K, dropout):
    """Which attention weights dropout keeps (queries, keys): a function of the seed and the place."""
    return tl.rand(seed + head, queries[:, None] * K + keys) >= dropout


@triton.jit
def _scores(q_d, q_x, k_d, k_x, dq, positions, row, scale, N: tl.constexpr):
    """Scores (M, N) of a block of queries and one of keys; `positions` (2N, C) are those of the block's distances."""
    content = tl.dot(q_d, tl.trans(k_d), input_precision="ieee") + tl.dot(q_x, tl.trans(k_x), input_precision="ieee")
    by_distance = tl.dot(dq, tl.trans(positions), input_precision="ieee")  # (M, 2N)
    shift = (N - 1 - row)[:, None] + tl.arange(0, N)[None, :]
    return (content + tl.gather(by_distance, shift, 1)) * scale


@triton.jit(do_not_specialize=VARYING)
def _forward(
    Q, KEY, V, DQ, R, OUT, LSE, seed, scale, dropout, L, K, H, E, C,
    D: tl.constexpr, X: tl.constexpr, HEAD: tl.constexpr, N: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    head, P = tl.program_id(1), K + L - 1
    d, x, c, row = tl.arange(0, D), D + tl.arange(0, X), tl.arange(0, HEAD), tl.arange(0, N)
    queries = tl.program_id(0) * N + row
    Q, KEY, V, DQ, R = Q + head * L * E, KEY + head * K * E, V + head * K * C, DQ + head * L * C, R + head % H * P * C
    q_d, q_x, dq = _rows(Q, queries, L, d, E), _rows(Q, queries, L, x, E), _rows(DQ, queries, L, c, C)
    top = tl.full((N,), float("-inf"), tl.float32)
    total = tl.zeros((N,), tl.float32)
    out = tl.zeros((N, HEAD), tl.float32)
    for first in range(0, K, N):
        keys = first + row
        distances = L - 1 - (tl.program_id(0) * N + N - 1) + first + tl.arange(0, 2 * N)
        scores = _scores(
            q_d, q_x, _rows(KEY, keys, K, d, E), _rows(KEY, keys, K, x, E), dq, _rows(R, distances, P, c, C),
            row, scale, N,
        )  # fmt: skip
        scores = tl.where((keys < K)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        probs = tl.exp(scores - new_top[:, None])
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.sum(probs, 1)
        if DROP:
            probs = tl.where(_kept(seed, head, queries, keys[None, :], K, dropout), probs / (1 - dropout), 0.0)
        values = _rows(V, keys, K, c, C)
        out = out * shrink[:, None] + tl.dot(probs.to(values.dtype), values, input_precision="ieee")
        top = new_top
    inside = (queries < L)[:, None] & (c < C)[None, :]
    tl.store(OUT + head * L * C + queries[:, None] * C + c[None, :], out / total[:, None], mask=inside)
    tl.store(LSE + head * L + queries, top + tl.log(total), mask=queries < L)


@triton.jit
def _score_gradients(scores, valid, lse, delta, d_probs, kept, dropout, DROP: tl.constexpr):
    """Probabilities after dropout, and gradients of the scores, from scores and the gradients of what they weight."""
    probs = tl.where(valid, tl.exp(scores - lse[:, None]), 0.0)
    dropped = probs
    if DROP:
        dropped = tl.where(kept, probs / (1 - dropout), 0.0)
        d_probs = tl.where(kept, d_probs / (1 - dropout), 0.0)
    return dropped, probs * (d_probs - delta[:, None])


@triton.jit(do_not_specialize=VARYING)
def _backward_queries(
    Q, KEY, V, DQ, R, DOUT, LSE, DELTA, GQ, GDQ, seed, scale, dropout, L, K, H, E, C,
    D: tl.constexpr, X: tl.constexpr, HEAD: tl.constexpr, N: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    head, P = tl.program_id(1), K + L - 1
    d, x, c, row = tl.arange(0, D), D + tl.arange(0, X), tl.arange(0, HEAD), tl.arange(0, N)
    queries = tl.program_id(0) * N + row
    GQ, GDQ, DOUT = GQ + head * L * E, GDQ + head * L * C, DOUT + head * L * C
    Q, KEY, V, DQ, R = Q + head * L * E, KEY + head * K * E, V + head * K * C, DQ + head * L * C, R + head % H * P * C
    q_d, q_x, dq = _rows(Q, queries, L, d, E), _rows(Q, queries, L, x, E), _rows(DQ, queries, L, c, C)
    d_out = _rows(DOUT, queries, L, c, C)
    lse = tl.load(LSE + head * L + queries, mask=queries < L, other=0.0)
    delta = tl.load(DELTA + head * L + queries, mask=queries < L, other=0.0)
    g_d, g_x = tl.zeros((N, D), tl.float32), tl.zeros((N, X), tl.float32)
    g_dq = tl.zeros((N, HEAD), tl.float32)
    unshift = tl.arange(0, 2 * N)[None, :] - (N - 1 - row)[:, None]
    for first in range(0, K, N):
        keys = first + row
        distances = L - 1 - (tl.program_id(0) * N + N - 1) + first + tl.arange(0, 2 * N)
        k_d, k_x, positions = _rows(KEY, keys, K, d, E), _rows(KEY, keys, K, x, E), _rows(R, distances, P, c, C)
        scores = _scores(q_d, q_x, k_d, k_x, dq, positions, row, scale, N)
        d_probs = tl.dot(d_out, tl.trans(_rows(V, keys, K, c, C)), input_precision="ieee")
        kept = _kept(seed, head, queries, keys[None, :], K, dropout)
        valid = (queries < L)[:, None] & (keys < K)[None, :]
        _, grad = _score_gradients(scores, valid, lse, delta, d_probs, kept, dropout, DROP)
        grad = (grad * scale).to(k_d.dtype)
        g_d += tl.dot(grad, k_d, input_precision="ieee")
        g_x += tl.dot(grad, k_x, input_precision="ieee")
        by_distance = tl.gather(grad, tl.minimum(tl.maximum(unshift, 0), N - 1), 1)
        by_distance = tl.where((unshift >= 0) & (unshift < N), by_distance, 0.0).to(k_d.dtype)
        g_dq += tl.dot(by_distance, positions, input_precision="ieee")
    inside = (queries < L)[:, None]
    tl.store(GQ + queries[:, None] * E + d[None, :], g_d, mask=inside & (d < E)[None, :])
    tl.store(GQ + queries[:, None] * E + x[None, :], g_x, mask=inside & (x < E)[None, :])
    tl.store(GDQ + queries[:, None] * C + c[None, :], g_dq, mask=inside & (c < C)[None, :])


@triton.jit(do_not_specialize=VARYING)
def _backward_keys(
    Q, KEY, V, DQ, R, DOUT, LSE, DELTA, GK, GV, seed, scale, dropout, L, K, H, E, C,
    D: tl.constexpr, X: tl.constexpr, HEAD: tl.constexpr, N: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    head, P = tl.program_id(1), K + L - 1
    d, x, c, row = tl.arange(0, D), D + tl.arange(0, X), tl.arange(0, HEAD), tl.arange(0, N)
    keys = tl.program_id(0) * N + row
    GK, GV, DOUT = GK + head * K * E, GV + head * K * C, DOUT + head * L * C
    Q, KEY, V, DQ, R = Q + head * L * E, KEY + head * K * E, V + head * K * C, DQ + head * L * C, R + head % H * P * C
    k_d, k_x, values = _rows(KEY, keys, K, d, E), _rows(KEY, keys, K, x, E), _rows(V, keys, K, c, C)
    g_d, g_x = tl.zeros((N, D), tl.float32), tl.zeros((N, X), tl.float32)
    g_v = tl.zeros((N, HEAD), tl.float32)
    for first in range(0, L, N):
        queries = first + row
        q_d, q_x, dq = _rows(Q, queries, L, d, E), _rows(Q, queries, L, x, E), _rows(DQ, queries, L, c, C)
        d_out = _rows(DOUT, queries, L, c, C)
        lse = tl.load(LSE + head * L + queries, mask=queries < L, other=0.0)
        delta = tl.load(DELTA + head * L + queries, mask=queries < L, other=0.0)
        distances = L - 1 - (first + N - 1) + tl.program_id(0) * N + tl.arange(0, 2 * N)
        scores = _scores(q_d, q_x, k_d, k_x, dq, _rows(R, distances, P, c, C), row, scale, N)
        kept = _kept(seed, head, queries, keys[None, :], K, dropout)
        valid = (queries < L)[:, None] & (keys < K)[None, :]
        d_probs = tl.dot(d_out, tl.trans(values), input_precision="ieee")
        dropped, grad = _score_gradients(scores, valid, lse, delta, d_probs, kept, dropout, DROP)
        grad = tl.trans((grad * scale).to(q_d.dtype))
        g_d += tl.dot(grad, q_d, input_precision="ieee")
        g_x += tl.dot(grad, q_x, input_precision="ieee")
        g_v += tl.dot(tl.trans(dropped.to(d_out.dtype)), d_out, input_precision="ieee")
    inside = (keys < K)[:, None]
    tl.store(GK + keys[:, None] * E + d[None, :], g_d, mask=inside & (d < E)[None, :])
    tl.store(GK + keys[:, None] * E + x[None, :], g_x, mask=inside & (x < E)[None, :])
    tl.store(GV + keys[:, None] * C + c[None, :], g_v, mask=inside & (c < C)[None, :])


@triton.jit(do_not_specialize=VARYING)
def _backward_positions(
    Q, KEY, V, DQ, R, DOUT, LSE, DELTA, GR, seed, scale, dropout, B, SHARE, L, K, H, E, C,
    D: tl.constexpr, X: tl.constexpr, HEAD: tl.constexpr, N: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """One program owns N distances of a head and `SHARE` documents; it runs over them and their queries, in order."""
    P = K + L - 1
    d, x, c, row = tl.arange(0, D), D + tl.arange(0, X), tl.arange(0, HEAD), tl.arange(0, N)
    first_distance = tl.program_id(0) * N
    distances = first_distance + row
    positions = _rows(R + tl.program_id(1) * P * C, distances, P, c, C)
    g_r = tl.zeros((N, HEAD), tl.float32)
    shift = row[:, None] + tl.arange(0, N)[None, :]  # where a query's distances lie among the keys of the block
    # A block of queries has keys first_distance - (L - 1) + first + [0, 2N - 1); others than 0 to K - 1 do not occur.
    begin = tl.cdiv(tl.maximum(L + 1 - 2 * N - first_distance, 0), N) * N
    end = tl.minimum(P - first_distance, L)
    first_document = tl.program_id(2) * SHARE
    for document in range(first_document, tl.minimum(first_document + SHARE, B)):
        head = document * H + tl.program_id(1)
        for first in range(begin, end, N):
            queries = first + row
            q_d, q_x = _rows(Q + head * L * E, queries, L, d, E), _rows(Q + head * L * E, queries, L, x, E)
            dq, d_out = _rows(DQ + head * L * C, queries, L, c, C), _rows(DOUT + head * L * C, queries, L, c, C)
            first_key = first_distance - (L - 1) + first
            window = first_key + tl.arange(0, 2 * N)
            k_d, k_x = _rows(KEY + head * K * E, window, K, d, E), _rows(KEY + head * K * E, window, K, x, E)
            by_key = tl.dot(q_d, tl.trans(k_d), input_precision="ieee")
            by_key += tl.dot(q_x, tl.trans(k_x), input_precision="ieee")
            scores = (tl.gather(by_key, shift, 1) + tl.dot(dq, tl.trans(positions), input_precision="ieee")) * scale
            values = _rows(V + head * K * C, window, K, c, C)
            d_probs = tl.gather(tl.dot(d_out, tl.trans(values), input_precision="ieee"), shift, 1)
            keys = first_key + shift
            kept = _kept(seed, head, queries, keys, K, dropout)
            valid = (queries < L)[:, None] & (keys >= 0) & (keys < K)
            lse = tl.load(LSE + head * L + queries, mask=queries < L, other=0.0)
            delta = tl.load(DELTA + head * L + queries, mask=queries < L, other=0.0)
            _, grad = _score_gradients(scores, valid, lse, delta, d_probs, kept, dropout, DROP)
            g_r += tl.dot(tl.trans((grad * scale).to(dq.dtype)), dq, input_precision="ieee")
    inside = (distances < P)[:, None] & (c < C)[None, :]
    GR += (tl.program_id(2) * H + tl.program_id(1)) * P * C
    tl.store(GR + distances[:, None] * C + c[None, :], g_r, mask=inside)


class _OnTheFly(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, distance_query: Tensor, position: Tensor,
        scale: float, dropout: float, seed: int,
    ) -> Tensor:  # fmt: skip
        tensors = [x.contiguous() for x in (query, key, value, distance_query, position)]
        query, key, value, distance_query, position = tensors
        B, H, L, E = query.shape
        K, C = value.shape[2:]
        out, lse = value.new_empty(B, H, L, C), query.new_empty(B, H, L, dtype=torch.float32)
        ctx.numbers, ctx.sizes = (seed, scale, dropout), (L, K, H, E, C)
        ctx.blocks = _block_sizes(E, C) | {"DROP": dropout > 0, "num_warps": NUM_WARPS}
        num_blocks = triton.cdiv(L, ctx.blocks["N"])
        with torch.cuda.device_of(query):  # Triton launches on the current device
            _forward[(num_blocks, B * H)](*tensors, out, lse, *ctx.numbers, *ctx.sizes, **ctx.blocks)
        ctx.save_for_backward(*tensors, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out, lse = ctx.saved_tensors
        B, (L, K, H, _, _) = len(out), ctx.sizes
        grad = grad.contiguous()
        delta = (grad.float() * out.float()).sum(-1)
        g_query, g_key, g_value, g_distance_query = (torch.empty_like(x) for x in tensors[:4])
        given, rest = (*tensors, grad, lse, delta), ctx.numbers
        num_queries, num_keys, num_distances = (triton.cdiv(n, ctx.blocks["N"]) for n in (L, K, K + L - 1))
        with torch.cuda.device_of(grad):
            _backward_queries[(num_queries, B * H)](*given, g_query, g_distance_query, *rest, *ctx.sizes, **ctx.blocks)
            _backward_keys[(num_keys, B * H)](*given, g_key, g_value, *rest, *ctx.sizes, **ctx.blocks)
            share = documents_of_a_part(B, num_distances * H)
            parts = triton.cdiv(B, share)
            g_position_SHPh = grad.new_empty(parts, *tensors[4].shape, dtype=torch.float32)
            _backward_positions[(num_distances, H, parts)](
                *given, g_position_SHPh, *rest, B, share, *ctx.sizes, **ctx.blocks
            )
        g_position = g_position_SHPh.sum(0).to(tensors[4].dtype)
        return g_query, g_key, g_value, g_distance_query, g_position, None, None, None


def documents_of_a_part(num_documents: int, programs: int) -> int:
    """How many documents a program takes, so that `programs` times the number of parts is about `PROGRAMS`."""
    return triton.cdiv(num_documents, max(1, min(num_documents, triton.cdiv(PROGRAMS, programs))))


def _block_sizes(scored: int, head: int) -> dict[str, int]:
    """Powers of two, of at least 16: e = 70 is read as 64 and 16 columns instead of 128."""
    first = max(16, 2 ** int(math.log2(scored)))
    rest = max(16, triton.next_power_of_2(max(1, scored - first)))
    return {"D": first, "X": rest, "HEAD": max(16, triton.next_power_of_2(head)), "N": BLOCK}


def attend_on_the_fly(
    query_BHLe: Tensor,
    key_BHKe: Tensor,
    value_BHKh: Tensor,
    distance_query_BHLh: Tensor,
    position_HPh: Tensor,
    *,
    scale: float,
    dropout: float,
    seed: int | None = None,
) -> Tensor:
    """`relative_attention` by the kernel, in the dtype of the values, with sums in float32. Returns (B, H, L, h).

    Args:
        seed: of dropout; by default drawn from torch's generator on the CPU, so that seeded runs repeat.
    """
    if seed is None:
        seed = int(torch.randint(2**31, ())) if dropout > 0 else 0
    tensors = (query_BHLe, key_BHKe, value_BHKh, distance_query_BHLh, position_HPh)
    return _OnTheFly.apply(*(x.to(value_BHKh.dtype) for x in tensors), scale, dropout, seed)
