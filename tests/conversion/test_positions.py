"""Positions by regression: what is fitted, how well, and what happens beyond it."""

import pytest
import torch

from gmmxlnet.conversion.algebra import student_config, transplant
from gmmxlnet.conversion.positions import fit_distances, fit_positions, hidden_states
from gmmxlnet.models.encoder import XLNetEncoder, sinusoids

LENGTH = 40


@pytest.fixture(scope="module")
def fitted(make_bert):
    """(BERT, encoder without positions, with them, constants, share explained, rows of the teacher's tokens).

    The BERT's positions are smooth and its keys like its queries: attention goes by distance, as in trained ones.
    """
    bert = make_bert(1).bert
    with torch.no_grad():
        waves = sinusoids(64, 65, 32, -1, torch.device("cpu"))
        bert.embeddings.position_embeddings.weight.copy_(0.7 * waves[:128])
        for layer in bert.encoder.layer:
            own = layer.attention.self
            own.query.weight.mul_(2)
            own.key.weight.copy_(own.query.weight)
    rows = torch.randint(5, 40, (48, LENGTH), generator=torch.Generator().manual_seed(2))
    rows[:, 0], rows[:, -1] = 2, 3
    encoders = []
    for _ in range(2):
        config = student_config(bert.config, vocab_size=40, clamp_len=LENGTH - 1, pad_token_id=0, sep_token_id=3)
        encoder = XLNetEncoder(config).eval()
        shift_Nd = transplant(bert, encoder, ridge=0.3, positions=range(1, LENGTH), token_type=1)
        encoders.append(encoder)
    explained = fit_positions(bert, encoders[1], rows, text_type=1)
    return bert, *encoders, shift_Nd, explained, rows


def states(encoder, rows):
    ids = rows.roll(-1, dims=1)
    return hidden_states(encoder, ids, torch.zeros_like(ids), torch.ones_like(ids))


def attention_of(encoder, rows):
    """(B, H, n, n) of the first layer, written out."""
    own = encoder.layers[0].attention
    hidden = states(encoder, rows)[0]
    query, key, _ = own.qkv(hidden).unflatten(-1, (3, own.num_heads, own.head_dim)).unbind(2)
    content = torch.einsum("blhe,bkhe->bhlk", query + own.r_w_bias, key)
    by_distance = torch.einsum("blhe,hpe->bhlp", query + own.r_r_bias, encoder.position_keys(LENGTH, LENGTH)[0])
    place = torch.arange(LENGTH)
    position = by_distance[:, :, place[:, None], LENGTH - 1 - (place[:, None] - place)]
    return ((content + position) * own.head_dim**-0.5).softmax(-1)


@torch.no_grad()
def test_attention_comes_nearer_to_the_teachers(fitted):
    bert, before, after, _, explained, rows = fitted
    bert.set_attn_implementation("eager")
    taught = bert(rows, token_type_ids=torch.ones_like(rows), output_attentions=True).attentions[0]
    taught = taught.roll((-1, -1), dims=(2, 3))
    error = [(attention_of(encoder, rows) - taught).abs().sum(-1).mean() for encoder in (before, after)]
    assert error[1] < 0.9 * error[0]
    assert len(explained) == 3
    assert 0.5 < explained[0] <= 1


@torch.no_grad()
def test_beyond_the_reach_positions_are_clamped_and_do_not_explode(fitted):
    _, _, encoder, _, _, _ = fitted
    attention = encoder.layers[0].attention
    keys_HPh = encoder.position_keys(4 * LENGTH, 4 * LENGTH)[0]
    scores_HP = torch.einsum("hpe,he->hp", keys_HPh, attention.r_r_bias)
    middle, reach = 4 * LENGTH - 1, LENGTH - 1
    inside = scores_HP[:, middle - reach : middle + reach + 1]
    assert scores_HP.max() <= inside.max() + 1e-4
    assert scores_HP.min() >= inside.min() - 1e-4
    torch.testing.assert_close(scores_HP[:, 0], inside[:, 0])
    long = torch.randint(5, 40, (1, 4 * LENGTH))
    assert states(encoder, long)[-1].isfinite().all()


def test_a_function_of_distance_is_found_again_whatever_each_query_adds():
    n, d = 24, 16
    generator = torch.Generator().manual_seed(0)
    encoding_Pd = sinusoids(n, n, d, -1, torch.device("cpu")).double()
    true_Hd = torch.randn(2, d, generator=generator).double()
    distance_nn = torch.arange(n)[:, None] - torch.arange(n)
    scores_Hnn = (encoding_Pd @ true_Hd.T).T[:, n - 1 - distance_nn]
    own_Hn1 = torch.randn(2, n, 1, generator=generator).double() * 9
    weight_Hnn = torch.rand(2, n, n, generator=generator).double().softmax(-1)
    found_Hd, explained = fit_distances(scores_Hnn + own_Hn1, weight_Hnn, encoding_Pd)
    difference_HP = (found_Hd - true_Hd) @ encoding_Pd.T
    assert explained > 0.99
    assert difference_HP.std(dim=1).max() < 0.1 * (true_Hd @ encoding_Pd.T).std()  # up to a constant, and the ridge


def test_heads_are_fitted_each_to_its_own_scores():
    n, d = 24, 16
    encoding_Pd = sinusoids(n, n, d, -1, torch.device("cpu")).double()
    distance_nn = (torch.arange(n)[:, None] - torch.arange(n)).double()
    forward_nn, near_nn = 3 * torch.sin(distance_nn), torch.zeros(n, n).double()
    uniform = torch.full((2, n, n), 1 / n).double()
    found_Hd, _ = fit_distances(torch.stack([forward_nn, near_nn]), uniform, encoding_Pd)
    function_HP = found_Hd @ encoding_Pd.T
    assert function_HP[0, n - 1 - 1] - function_HP[0, n - 1 + 1] == pytest.approx(6 * 0.841, abs=0.3)  # sin(1), sin(-1)
    assert function_HP[1].abs().max() < 1e-9
