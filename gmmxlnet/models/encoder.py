"""The XLNet encoder: only the content stream, with linear projections and fused attention.

The outputs equal those of `transformers.XLNetModel` (Yang et al. 2019, https://arxiv.org/abs/1906.08237; relative
attention from Dai et al. 2019, https://arxiv.org/abs/1901.02860). The implementation differs in three points: position
keys are projected once for all documents of a batch, the relative term is the bias of fused attention, and the segment
term and the padding mask are extra dimensions of queries and keys, so that no other (L, K) matrix is built.

Shapes: B documents, L tokens of a segment, M cached tokens before it, K = M + L keys, P = K + L - 1 distances,
H heads, h size of a head, f extra dimensions, e = h + f, c segment ids, d = H·h hidden size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)
from transformers.activations import ACT2FN

from gmmxlnet.models.attention import ALIGNMENT, is_fused, relative_attention
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.dropout import Dropout


def sinusoids(num_keys: int, num_queries: int, d_model: int, clamp_len: int, device: torch.device) -> Tensor:
    """Return encodings (P, d) of the distances i - j between queries i and keys j, in descending order.

    Always float32, as in XLNet. `clamp_len` > 0 limits the distances.
    """
    distance_P = torch.arange(num_keys - 1, -num_queries, -1, device=device, dtype=torch.float32)
    if clamp_len > 0:
        distance_P = distance_P.clamp(-clamp_len, clamp_len)
    inverse_frequency = 1 / torch.pow(10000, torch.arange(0, d_model, 2, device=device).float() / d_model)
    angle = distance_P[:, None] * inverse_frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


NUM_SEGMENT_IDS = 5  # XLNet's: context, question, <cls>, <sep>, padding


class RelativeAttention(nn.Module):
    """Attention whose scores are (q + w)·k + (q + r)·position + (q + s)·segment, scaled by 1/√h."""

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.n_head, config.d_head
        self.dropout = config.dropout
        width = config.n_head * config.d_head
        self.qkv = nn.Linear(config.d_model, 3 * width, bias=False)
        self.position = nn.Linear(config.d_model, width, bias=False)
        self.output = nn.Linear(width, config.d_model, bias=False)
        self.r_w_bias = nn.Parameter(torch.empty(config.n_head, config.d_head))
        self.r_r_bias = nn.Parameter(torch.empty(config.n_head, config.d_head))
        self.r_s_bias = nn.Parameter(torch.empty(config.n_head, config.d_head))
        self.segment_embedding = nn.Parameter(torch.empty(2, config.n_head, config.d_head))  # same, other

    def position_keys(self, encoding_Pd: Tensor) -> Tensor:
        """Project encodings (P, d) to the distances' keys (H, P, h), which all documents share."""
        return self.position(encoding_Pd).unflatten(-1, (self.num_heads, self.head_dim)).transpose(0, 1)

    def forward(self, context_BKd: Tensor, num_queries: int, position_HPh: Tensor, features_BKf: Tensor) -> Tensor:
        """Attend from a segment's tokens to themselves and to the cached tokens before them.

        The segment term is part of the product of queries and keys: it equals (same_i - other_i)·[type_i = type_j] up
        to a term that is constant over the keys j and cancels in the softmax. So is the padding mask.

        Args:
            context_BKd: the layer's input, cached tokens first. num_queries: L; the last L tokens are the segment's.
            position_HPh: `position_keys` of this layer.
            features_BKf: `key_features`.

        Returns: (B, L, d), before dropout and the residual connection.
        """
        B, K, _ = context_BKd.shape
        L = num_queries
        q, k, v = self.qkv(context_BKd).view(B, K, 3, self.num_heads, self.head_dim).unbind(2)  # (B,K,H,h) each
        q = q[:, K - L :]
        biases = (self.r_w_bias, self.r_r_bias, self.r_s_bias)
        if is_fused(q.device):  # under autocast, parameters in float32 would make float32 of all that follows
            biases = tuple(bias.to(q.dtype) for bias in biases)
        w_bias, r_bias, s_bias = biases
        same, other = self.segment_embedding
        same_minus_other_BLH = torch.einsum("blhe,he->blh", q + s_bias, same - other)
        types_BLc, rest = features_BKf[:, K - L :, :NUM_SEGMENT_IDS], features_BKf.shape[-1] - NUM_SEGMENT_IDS
        query_BLHe = torch.cat(
            [
                q + w_bias,
                same_minus_other_BLH[..., None] * types_BLc[:, :, None],
                q.new_ones(B, L, self.num_heads, rest),
            ],
            dim=-1,
        )
        key_BKHe = torch.cat([k, features_BKf[:, :, None].expand(-1, -1, self.num_heads, -1)], dim=-1)
        attended = relative_attention(
            query_BLHe.transpose(1, 2),
            key_BKHe.transpose(1, 2),
            v.transpose(1, 2),
            (q + r_bias).transpose(1, 2),
            position_HPh,
            scale=self.head_dim**-0.5,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(attended.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention and feed-forward network, each with dropout, residual connection and post-normalization."""

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.attention_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.inner = nn.Linear(config.d_model, config.d_inner)
        self.activation = ACT2FN[config.ff_activation]
        self.outer = nn.Linear(config.d_inner, config.d_model)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden_BLd: Tensor, context_BKd: Tensor, position_HPh: Tensor, features_BKf: Tensor) -> Tensor:
        """Map (B, L, d) to (B, L, d), attending to `context_BKd`; arguments as in `RelativeAttention.forward`."""
        attended = self.attention(context_BKd, hidden_BLd.shape[1], position_HPh, features_BKf)
        hidden_BLd = self.attention_norm(self.dropout(attended) + hidden_BLd)
        inner = self.dropout(self.activation(self.inner(hidden_BLd)))
        return self.feed_forward_norm(self.dropout(self.outer(inner)) + hidden_BLd)


class XLNetEncoder(nn.Module):
    """Embeddings and layers; bidirectional attention, left or right padding.

    No token attends to padding; hidden states at padded positions are undefined.
    """

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.d_model, self.head_dim, self.clamp_len = config.d_model, config.d_head, config.clamp_len
        self.word_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layer))
        self.dropout = Dropout(config.dropout)

    def position_keys(self, num_queries: int, num_keys: int) -> list[Tensor]:
        """Return each layer's keys (H, P, h) of the distances between L queries and K keys, for all documents."""
        weight = self.word_embedding.weight
        encoding_Pd = self.dropout(sinusoids(num_keys, num_queries, self.d_model, self.clamp_len, weight.device))
        encoding_Pd = encoding_Pd.to(weight.dtype)
        return [layer.attention.position_keys(encoding_Pd) for layer in self.layers]

    def key_features(self, attention_mask_BK: Tensor, token_type_ids_BK: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the extra dimensions (B, K, f) of all layers' keys.

        They are one-hot segment ids, a large negative number for padding and 0 for tokens, and, for fused attention, as
        many zeros as make the size of a head a multiple of `ALIGNMENT`.
        """
        device, missing = token_type_ids_BK.device, 0
        if is_fused(device):
            missing = -(self.head_dim + NUM_SEGMENT_IDS + 1) % ALIGNMENT
            if torch.is_autocast_enabled(device.type):
                dtype = torch.get_autocast_dtype(device.type)  # what the layers' queries and keys are in
        types_BKc = F.one_hot(token_type_ids_BK, NUM_SEGMENT_IDS).to(dtype)
        lowest = torch.finfo(dtype).min / 8  # finite after scaling; softmax maps it to exactly 0
        padding_BK = (1 - attention_mask_BK).to(dtype) * lowest
        zeros = [types_BKc.new_zeros(*padding_BK.shape, missing)] if missing else []
        return torch.cat([types_BKc, padding_BK[..., None], *zeros], dim=-1)

    def forward(
        self,
        embedding_BLd: Tensor,
        attention_mask_BK: Tensor,
        token_type_ids_BK: Tensor,
        position_keys: list[Tensor],
        context: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Encode one segment of each document.

        Args:
            embedding_BLd: word embeddings, including what a memory adds to them.
            attention_mask_BK: 1 for tokens, 0 for padding.
            token_type_ids_BK: segment ids from 0 to 4, which are only compared for equality.
            position_keys: `self.position_keys(L, K)`.
            context: maps a layer's index and input (B, L, d) to what the layer attends to (B, K, d), in which the
                segment comes last; defaults to the segment alone, K = L.

        Returns: hidden states (B, L, d) of the last layer.
        """
        features_BKf = self.key_features(attention_mask_BK, token_type_ids_BK, embedding_BLd.dtype)
        hidden_BLd = self.dropout(embedding_BLd)
        for i, (layer, position_HPh) in enumerate(zip(self.layers, position_keys, strict=True)):
            context_BKd = hidden_BLd if context is None else context(i, hidden_BLd)
            hidden_BLd = layer(hidden_BLd, context_BKd, position_HPh, features_BKf)
        return self.dropout(hidden_BLd)
