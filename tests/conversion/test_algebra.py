"""Without positions and segments the XLNet computes what the BERT computes."""

from pathlib import Path

import pytest
import torch
from transformers import BertModel

from gmmxlnet.conversion.algebra import student_config, transplant
from gmmxlnet.conversion.positions import hidden_states
from gmmxlnet.models.encoder import XLNetEncoder

MINILM = Path(__file__).parents[3] / "shared" / "minilm"


def without_positions(bert):
    """A copy of its encoder in float64 that sees no positions."""
    model = bert.bert.double().eval()
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.zero_()
    return model


def both(bert, ridge):
    """(the BERT's, the XLNet's less the constants), hidden states of 3 rows of 12 tokens, one with padding."""
    model = without_positions(bert)
    config = student_config(model.config, vocab_size=40, clamp_len=20, pad_token_id=0, sep_token_id=3)
    encoder = XLNetEncoder(config).double().eval()
    shift_Nd = transplant(model, encoder, ridge=ridge, positions=[1, 5], token_type=1)
    ids = torch.randint(5, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        theirs = model(ids, mask, token_type_ids=torch.ones_like(ids), output_hidden_states=True).hidden_states
        ours = hidden_states(encoder, ids, torch.zeros_like(ids), mask)
    there = mask.bool()
    return [(a[there], (b - shift)[there]) for a, b, shift in zip(theirs, ours, shift_Nd, strict=True)], shift_Nd


@pytest.mark.parametrize(
    "other",
    [{}, {"hidden_act": "relu", "num_attention_heads": 2}, {"layer_norm_eps": 1e-3, "num_hidden_layers": 1}],
)
def test_exact_constants_give_the_same_hidden_states(make_bert, other):
    states, _ = both(make_bert(**other), ridge=0.0)
    for theirs, ours in states:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_ridge_keeps_constants_short_and_hidden_states_near(make_bert):
    exact, exact_shifts = both(make_bert(), ridge=0.0)
    states, shifts = both(make_bert(), ridge=0.3)
    assert (shifts[:-1].norm(dim=1) < exact_shifts[:-1].norm(dim=1)).all()
    errors = [(ours - theirs).norm() / theirs.norm() for theirs, ours in states]
    assert 1e-3 < errors[-1] < 0.2  # a real difference, and a small one
    assert max((ours - theirs).norm() for theirs, ours in exact) < 1e-9


def test_nothing_is_added_to_the_last_layer(make_bert):
    _, shifts = both(make_bert(), ridge=0.3)
    assert shifts.shape == (4, 32)
    assert not shifts[-1].any()
    assert (shifts[:-1].norm(dim=1) > 0).all()


def test_the_word_embeddings_are_the_mean_input_over_positions(make_bert):
    model = make_bert().bert
    config = student_config(model.config, vocab_size=30, clamp_len=20, pad_token_id=0, sep_token_id=3)
    encoder = XLNetEncoder(config)
    shift_Nd = transplant(model, encoder, ridge=0.3, positions=[2, 7], token_type=0)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        inputs = [model.embeddings(ids, position_ids=torch.full_like(ids, place))[0] for place in (2, 7)]
    expected = (inputs[0] + inputs[1]) / 2 + shift_Nd[0]
    torch.testing.assert_close(encoder.word_embedding.weight.detach(), expected)


@pytest.mark.slow
@pytest.mark.skipif(not MINILM.is_dir(), reason=f"{MINILM} is not here")
def test_a_trained_bert_is_an_xlnet_without_positions():
    bert = BertModel.from_pretrained(MINILM, add_pooling_layer=False, dtype=torch.float64)
    config = student_config(bert.config, vocab_size=30_522, clamp_len=40, pad_token_id=0, sep_token_id=102)
    encoder = XLNetEncoder(config).double().eval()
    with torch.no_grad():
        bert.embeddings.position_embeddings.weight.zero_()
        shift_Nd = transplant(bert, encoder, ridge=0.0, positions=[0], token_type=0)
        ids = torch.randint(1000, 30_000, (2, 30), generator=torch.Generator().manual_seed(0))
        theirs = bert(ids, output_hidden_states=True).hidden_states
        ours = hidden_states(encoder, ids, torch.zeros_like(ids), torch.ones_like(ids))
    for a, b, shift_d in zip(theirs, ours, shift_Nd, strict=True):
        torch.testing.assert_close(b - shift_d, a, rtol=0, atol=1e-9)
    short_Nd = transplant(bert, encoder, ridge=0.3, positions=[0], token_type=0)
    assert shift_Nd.norm(dim=1).max() > 100  # longer than the hidden states, which is what the ridge is for
    assert short_Nd.norm(dim=1).max() < 5
