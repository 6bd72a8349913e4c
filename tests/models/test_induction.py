"""What the heads of a model from scratch attend to before it has learned anything."""

import pytest
import torch

from gmmxlnet.models.build import scratch_model
from gmmxlnet.models.induction import DISTANCES

HEADS = 8
SIZE = dict(n_layer=3, d_model=128, n_head=HEADS, d_inner=64, dropout=0.0, initializer_range=0.2)
MEMORY = {"memory_type": "none"}
L = 24
V = 60  # fewer than the sample tokenizer knows


@pytest.fixture(params=[0.2, 0.05], ids=lambda std: f"std {std}")
def model(request, sample_tokenizer):
    torch.manual_seed(0)
    return scratch_model(SIZE | {"initializer_range": request.param}, sample_tokenizer, MEMORY)


def attention_weights(model, ids_BL, index):
    """(B, H, L, L) of one layer, by the formula in `RelativeAttention`, without segment term."""
    encoder, hidden = model.encoder, model.encoder.word_embedding(ids_BL)
    mask, types = torch.ones_like(ids_BL), torch.zeros_like(ids_BL)
    entered = []
    encoder.layers[index].attention.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    encoder(hidden, mask, types, encoder.position_keys(L, L))
    attention, position_HPh = encoder.layers[index].attention, encoder.position_keys(L, L)[index]
    q, k, _ = attention.qkv(entered[0]).unflatten(-1, (3, HEADS, -1)).unbind(2)
    content = torch.einsum("blhe,bkhe->bhlk", q + attention.r_w_bias, k)
    i, j = torch.meshgrid(torch.arange(L), torch.arange(L), indexing="ij")
    by_distance = torch.einsum("blhe,hpe->bhlp", q + attention.r_r_bias, position_HPh)
    position = by_distance.gather(-1, (L - 1 - (i - j)).expand_as(content))
    return ((content + position) / attention.head_dim**0.5).softmax(-1)


@torch.no_grad()
def test_first_heads_of_the_first_layer_attend_to_equal_tokens(model):
    ids = torch.randperm(V)[: L - 1]
    ids = torch.cat([ids, ids[3:4]])[None]  # the last token stands at place 3 too
    weights = attention_weights(model, ids, 0)[0, : HEADS // 2, -1]
    on_equals = weights[:, [3, L - 1]].sum(-1)
    assert on_equals.mean() > 0.6, "by chance: 0.08"


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_later_heads_of_every_layer_attend_by_distance(model, layer):
    ids = torch.randint(V, (4, L))
    weights = attention_weights(model, ids, layer)[:, HEADS // 2 :]
    for head, distance in enumerate(DISTANCES):
        at_distance = weights[:, head].diagonal(-distance, -2, -1)
        assert at_distance.mean() > 0.6, f"head {head}, distance {distance}"


def test_training_may_change_them(model):
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_queries_and_keys_do_not_stay_tied(model):
    attention = model.encoder.layers[1].attention
    query, key, _ = attention.qkv.weight.unflatten(0, (3, HEADS, -1))
    assert torch.equal(query[: HEADS // 2], key[: HEADS // 2])
    ids = torch.randint(V, (2, 1, L))
    model(ids).start_logits.logsumexp(-1).sum().backward()
    query, key, _ = attention.qkv.weight.grad.unflatten(0, (3, HEADS, -1))
    assert not torch.allclose(query[0], key[0])
