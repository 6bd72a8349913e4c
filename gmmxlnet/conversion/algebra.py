"""A BERT's weights as an XLNet's: without positions, the same function.

BERT's layer is y = LN(x + W_o·A(x) + c'), with A the attention's mixture of W_v·x and c' = b_o + W_o·b_v, since
attention sums to one. XLNet has no such bias, but adding c to the input has the same effect: with x' = x + c,
x' + W_o·A(x') = x + W_o·A(x) + (I + W_o·W_v)·c, so c solves (I + W_o·W_v)·c = c'. c is added to the bias of the
norm before the layer, or to the word embeddings before the first. The contribution of c to the queries is subtracted
from r_w_bias; the contributions of c and of the bias to the keys are equal for all keys and cancel in the softmax.

I + W_o·W_v is badly conditioned in trained models: the exact c can be ten times as long as the hidden states that it is
added to. The outputs are the same, but such a model cannot be fine-tuned. `ridge` > 0 keeps c short at the price of a
small error, which distillation removes.

Shapes: V words, d hidden size, H heads, h size of a head, N layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from gmmxlnet.conversion.families import layers_of
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import XLNetEncoder

SEGMENT_STD = 0.1  # of the segment embeddings before distillation: at zero they would have no gradient


def student_config(
    config: BertConfig, *, vocab_size: int, clamp_len: int, pad_token_id: int, sep_token_id: int
) -> GMMXLNetConfig:
    """The XLNet of a BERT's size, without memory and with dropout 0.

    Args:
        vocab_size: V, at most the BERT's: the ids that its tokenizer gives.
        clamp_len: distances are clamped to this many tokens.
        pad_token_id, sep_token_id: the tokenizer's.
    """
    return GMMXLNetConfig(
        memory_type="none",
        vocab_size=vocab_size,
        d_model=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        d_inner=config.intermediate_size,
        ff_activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        initializer_range=config.initializer_range,
        dropout=0.0,
        clamp_len=clamp_len,
        pad_token_id=pad_token_id,
        sep_token_id=sep_token_id,
        bos_token_id=None,
        eos_token_id=None,
    )


@torch.no_grad()
def transplant(
    bert: BertModel, encoder: XLNetEncoder, *, ridge: float, positions: Sequence[int], token_type: int
) -> Tensor:
    """Write the BERT's weights into the encoder; its relative positions and segments become zero.

    Args:
        ridge: λ in c = (MᵀM + λI)⁻¹Mᵀc', M = I + W_o·W_v; 0 for the exact c.
        positions: positions over which the word embeddings are averaged, since XLNet's input has none.
        token_type: the token type added to the word embeddings.

    Returns: (N+1, d) in the model's dtype, the encoder's hidden states minus those of the BERT: the layer's c before
        each layer, zero after the last one.
    """
    shifts = []
    for (source, attention), target in zip(layers_of(bert), encoder.layers, strict=True):
        shift_d = _shift(attention, ridge)
        shifts.append(shift_d)
        own = target.attention
        own.qkv.weight.copy_(torch.cat([attention["query"], attention["key"], attention["value"]]))
        own.output.weight.copy_(attention["output"])
        query_bias = attention["query_bias"] - attention["query"] @ shift_d
        own.r_w_bias.copy_(query_bias.view_as(own.r_w_bias))
        for silent in (own.position.weight, own.r_r_bias, own.r_s_bias, own.segment_embedding):
            silent.zero_()
        target.attention_norm.load_state_dict(source.attention.output.LayerNorm.state_dict())
        target.inner.load_state_dict(source.intermediate.dense.state_dict())
        target.outer.load_state_dict(source.output.dense.state_dict())
        target.feed_forward_norm.load_state_dict(source.output.LayerNorm.state_dict())
    for layer, shift_d in zip(encoder.layers[:-1], shifts[1:], strict=True):
        layer.feed_forward_norm.bias += shift_d
    table_Vd = embedding_table(bert, positions, token_type)[: encoder.word_embedding.num_embeddings]
    encoder.word_embedding.weight.copy_(table_Vd + shifts[0])
    return torch.stack([*shifts, torch.zeros_like(shifts[0])])


def _shift(attention: dict[str, Tensor], ridge: float) -> Tensor:
    """Solve for c (d,) in float64."""
    output_dd, value_dd = attention["output"].double(), attention["value"].double()
    missing_d = attention["output_bias"].double() + output_dd @ attention["value_bias"].double()
    identity_dd = torch.eye(len(missing_d), dtype=torch.float64, device=missing_d.device)
    matrix_dd = identity_dd + output_dd @ value_dd
    if ridge == 0:
        found_d = torch.linalg.solve(matrix_dd, missing_d)
    else:
        found_d = torch.linalg.solve(matrix_dd.T @ matrix_dd + ridge * identity_dd, matrix_dd.T @ missing_d)
    return found_d.to(attention["output"].dtype)


def embedding_table(bert: BertModel, positions: Sequence[int], token_type: int) -> Tensor:
    """(V, d): LN(word + type + position), the BERT's input, averaged over positions."""
    embeddings = bert.embeddings
    words_Vd = embeddings.word_embeddings.weight + embeddings.token_type_embeddings.weight[token_type]
    total_Vd = torch.zeros_like(words_Vd)
    for position in positions:
        total_Vd += embeddings.LayerNorm(words_Vd + embeddings.position_embeddings.weight[position])
    return total_Vd / len(positions)


@torch.no_grad()
def start_segments(encoder: XLNetEncoder, seed: int) -> None:
    """Draw the segment embeddings and their bias, small, so that distillation can move them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in encoder.layers:
        for parameter in (layer.attention.segment_embedding, layer.attention.r_s_bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * SEGMENT_STD)
