"""Initialization for encoders trained from scratch: attention heads that match equal tokens or look at neighbors.

Extractive question answering requires finding the words of the question in the text and looking at the words beside
them. Trained models do this with pairs of heads, one that matches tokens and one that attends at a fixed distance
(induction heads: Olsson et al. 2022, https://arxiv.org/abs/2209.11895). The loss of a small encoder with independent
random weights stays on a plateau for hundreds of steps before such heads emerge (`reports/experiments.md`), so they are
part of the initial weights here; training may change them like all others:

1. In every layer the first half of the heads has equal weights for queries and keys, so that a token attends to equal
   tokens (Trockman & Kolter 2023, https://arxiv.org/abs/2305.09828). Since XLNet does not normalize its input, in the
   first layer these weights are scaled such that the expected score of a token with itself is `MATCH_SCORE`.
2. In every layer each of the other heads attends to one of the `DISTANCES`: its position keys are the
   highest frequencies of the encoding, and its position bias is the key of that distance.

Shapes: H heads, h size of a head, d = H·h hidden size.
"""

import math

import torch

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import RelativeAttention, sinusoids
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA

MATCH_SCORE = 5.0  # nats; a token that occurs twice among 56 then attends to itself with more than half
DISTANCES = (1, -1, 2, -2)  # tokens back; assigned to the heads in turn
POSITION_SCORE = 2.0  # nats per frequency by which the score of the right distance exceeds others at most
POSITION_KEY_SIZE = 0.2  # of the position keys' entries: small, so that token content matters little at first
QUERY_SHARE = 0.2  # factor of the random query weights in heads that attend by distance


@torch.no_grad()
def start_with_induction_heads(model: GMMXLNetForQA) -> None:
    """Set the attention heads of a newly initialized model as described above."""
    for i, layer in enumerate(model.encoder.layers):
        match_equal_tokens(layer.attention, model.config, first_layer=i == 0)
        attend_by_distance(layer.attention, model.config)


def match_equal_tokens(attention: RelativeAttention, config: GMMXLNetConfig, *, first_layer: bool) -> None:
    """Apply point 1 to one layer."""
    H, h = attention.num_heads, attention.head_dim
    query_Hhd, key_Hhd, _ = attention.qkv.weight.unflatten(0, (3, H, h))
    if first_layer:
        variance = config.d_model * config.initializer_range**4  # of a query's entries: embedding times weight
        query_Hhd[: H // 2] *= math.sqrt(MATCH_SCORE / (math.sqrt(h) * variance))
    key_Hhd[: H // 2] = query_Hhd[: H // 2]


def attend_by_distance(attention: RelativeAttention, config: GMMXLNetConfig) -> None:
    """Apply point 2 to one layer; a distance scores POSITION_SCORE · Σ_f cos(f · (distance - the head's distance))."""
    H, h, d = attention.num_heads, attention.head_dim, config.d_model
    highest = torch.cat([torch.arange(h // 2), d // 2 + torch.arange(h // 2)])  # sine and cosine of each frequency
    query_Hhd, _, _ = attention.qkv.weight.unflatten(0, (3, H, h))
    position_Hhd = attention.position.weight.unflatten(0, (H, h))
    reach = max(DISTANCES) + 1
    encoding_Pd = sinusoids(reach, reach, d, 0, attention.r_r_bias.device)  # distances reach - 1 to 1 - reach
    for head in range(H // 2, H):
        distance = DISTANCES[(head - H // 2) % len(DISTANCES)]
        query_Hhd[head] *= QUERY_SHARE
        position_Hhd[head] = 0
        position_Hhd[head, torch.arange(len(highest)), highest] = POSITION_KEY_SIZE
        key_h = encoding_Pd[reach - 1 - distance, highest]
        attention.r_r_bias[head, : len(highest)] = POSITION_SCORE * math.sqrt(h) / POSITION_KEY_SIZE * key_h
