"""A start for encoders from scratch: half of the heads look for equal tokens or for neighbors from the first step.

Extractive reading begins with one discovery: this word of the text is the one that the question asks about, and the
answer stands beside it. Trained models do it with pairs of heads, one that matches and one that looks at a fixed
distance (induction heads: Olsson et al. 2022, https://arxiv.org/abs/2209.11895). A small encoder with independent
random weights rests for hundreds of steps on a plateau before it finds them (`reports/experiments.md`), so they are
there at the start, as weights that training may change like all others:

1. The first half of the heads of every layer has the same weights for queries and keys, so that a token attends to its
   equals (Trockman & Kolter 2023, https://arxiv.org/abs/2305.09828). XLNet does not normalize its input; in the first
   layer these weights are scaled until a token is expected to score `MATCH_SCORE` with itself.
2. The other heads, from the second layer on, attend to one of the `DISTANCES`: their position keys are the encoding's
   highest frequencies, and their position bias is the key of that distance.

Shapes: H heads, h size of a head, d = H·h hidden size.
"""

import math

import torch

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import RelativeAttention, sinusoids
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA

MATCH_SCORE = 5.0  # nats; a token that stands twice among 56 then gets more than half of its attention from itself
DISTANCES = (1, -1, 2, -2)  # tokens back; dealt out to the heads in turn
POSITION_SCORE = 2.0  # nats a frequency by which the right distance stands out at most
POSITION_KEY_SIZE = 0.2  # of the position keys' entries: small, so that what a token holds disturbs little at first
QUERY_SHARE = 0.2  # of their random size is left to the queries of heads that attend by distance


@torch.no_grad()
def start_with_induction_heads(model: GMMXLNetForQA) -> None:
    """Set the heads of a freshly drawn model as this module says."""
    for i, layer in enumerate(model.encoder.layers):
        match_equal_tokens(layer.attention, model.config, first_layer=i == 0)
        if i > 0:
            attend_by_distance(layer.attention, model.config)


def match_equal_tokens(attention: RelativeAttention, config: GMMXLNetConfig, *, first_layer: bool) -> None:
    """Point 1, for one layer."""
    H, h = attention.num_heads, attention.head_dim
    query_Hhd, key_Hhd, _ = attention.qkv.weight.unflatten(0, (3, H, h))
    if first_layer:
        variance = config.d_model * config.initializer_range**4  # of a query's entries: embedding times weight
        query_Hhd[: H // 2] *= math.sqrt(MATCH_SCORE / (math.sqrt(h) * variance))
    key_Hhd[: H // 2] = query_Hhd[: H // 2]


def attend_by_distance(attention: RelativeAttention, config: GMMXLNetConfig) -> None:
    """Point 2, for one layer. The score of a distance is POSITION_SCORE · Σ_f cos(f · (distance - the head's own))."""
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
