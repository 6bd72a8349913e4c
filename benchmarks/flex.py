"""FlexAttention as another way to `relative_attention`: the relative term is added score by score, not as a bias.

It still needs each query's score by distance (B, H, L, P), since what is added may not be a product of its own; it does
without the bias shifted to keys, and keeps no scores. On a CPU torch has no backward pass for it.

Shapes as in `gmmxlnet.models.attention`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from gmmxlnet.models.attention import scores_by_distance


@cache
def compiled() -> Callable[..., Any]:
    """The fused kernel; without compiling, torch forms all scores."""
    return torch.compile(flex_attention)


def attend_flex(
    query_BHLe: Tensor,
    key_BHKe: Tensor,
    value_BHKh: Tensor,
    distance_query_BHLh: Tensor,
    position_HPh: Tensor,
    *,
    scale: float,
    attention: Callable[..., Any] = flex_attention,
) -> Tensor:
    """`attend_fused` without dropout, by `attention`: `flex_attention` or `compiled()`."""
    L = query_BHLe.shape[2]
    by_distance_HBLP = scores_by_distance(distance_query_BHLh, scale * position_HPh)

    def with_distance(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + by_distance_HBLP[h, b, i, L - 1 - i + j]

    return attention(query_BHLe, key_BHKe, value_BHKh, score_mod=with_distance, scale=scale)
