"""How many operations a step's matrix products take, written out: what model FLOPs utilisation is a share of.

A product (a, b)·(b, c) counts 2·a·b·c. What a cleverer or wasteful implementation does beside is not counted: neither
distances that do not occur nor recomputation, softmax, norms and element-wise work.
"""

from transformers import XLNetConfig


def matmul_operations(config: XLNetConfig, *, batch_size: int, length: int, training: bool) -> int:
    """Of one segment of `batch_size` documents; backward takes twice what forward takes.

    With T = B·L tokens, a layer of width d and feed-forward width f, H heads of h:

        queries, keys, values, output   4 · 2·T·d·(H·h)
        position keys, once a batch     2·(2L - 1)·d·(H·h)
        content and position scores     2 · 2·T·L·(H·h)       each query meets L keys, at L distances
        probabilities by values         2·T·L·(H·h)
        feed-forward                    2 · 2·T·d·f

    and the head 2·T·d·2. The embedding is a lookup and counts nothing.
    """
    T, L, d = batch_size * length, length, config.d_model
    width = config.n_head * config.d_head
    layer = 4 * 2 * T * d * width + 2 * (2 * L - 1) * d * width + 3 * 2 * T * L * width + 2 * 2 * T * d * config.d_inner
    forward = config.n_layer * layer + 2 * T * d * 2
    return forward * (3 if training else 1)
